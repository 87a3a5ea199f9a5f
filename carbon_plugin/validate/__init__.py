"""Compare what is predicted with what was published, and compute the ranges of predictions from the differences."""
