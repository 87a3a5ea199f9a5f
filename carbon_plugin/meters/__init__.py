"""Read the energy of real devices, and model it where there is no device to read. `meters.open` is the entry point."""
