"""Find how fast a device and its software are: the sustained rates that the equations of a step take."""
