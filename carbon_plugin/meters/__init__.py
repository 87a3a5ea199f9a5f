"""Readings of real devices, and models that say so where there is no device to read. Start at `meters.open`."""
