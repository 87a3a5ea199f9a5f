"""Hold the inputs of the equations of a step as arrays, and make them from what a spec says."""
