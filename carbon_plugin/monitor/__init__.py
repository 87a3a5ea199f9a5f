"""The live state machine around a training run: steps, windows, comparison, projection. It never calls a framework."""
