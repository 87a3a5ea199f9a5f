"""Follow a training run while it goes on: count steps, record energy, compare both with the prediction, and project the
end. No module here calls a framework."""
