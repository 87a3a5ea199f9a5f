"""This package follows a training run while it goes on: it counts steps, records energy, compares both with the
prediction and projects the end. It calls no framework."""
