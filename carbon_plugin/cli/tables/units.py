"""List the units of each quantity by rising size. An amount is printed in the largest unit that it reaches."""

from __future__ import annotations

STEP_UNITS = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"))
TIME_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
ENERGY_UNITS = ((3.6e3, "Wh"), (3.6e6, "kWh"), (3.6e9, "MWh"), (3.6e12, "GWh"))
BYTE_UNITS = ((1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
WATER_UNITS = ((1.0, "L"), (1e3, "m3"))
CARBON_UNITS = ((1e-3, "gCO2e"), (1.0, "kgCO2e"), (1e3, "tCO2e"))
