"""Estimate how far a prediction may be off: the interval of a step time, and how likely a layout fits in memory."""
