"""Define units and conversion factors: the constants between SI and carbon accounting, and the units that people read.

All quantities inside the package are in SI units. A tuple `*_UNITS` lists the units in which one kind of quantity is
written, from the smallest to the largest, each as (size in the SI unit, name); `spec.numbers.amounts.fitting_unit`
picks one.
"""

from __future__ import annotations

JOULES_PER_KWH = 3.6e6
JOULES_PER_MWH = 3.6e9
GRAMS_PER_KG = 1e3
# A mean intensity of kilograms over joules, in the unit in which intensities are stated.
G_PER_KWH_OF_KG_PER_J = GRAMS_PER_KG * JOULES_PER_KWH
SECONDS_PER_HOUR = 3600.0
SECONDS_PER_DAY = 86_400.0
# Calendar life is counted in mean (Julian) years, 365.25 days.
SECONDS_PER_YEAR = 31_557_600.0
# Device memory is sold in "GB" of 2^30 bytes.
GIB = BYTES_PER_MEMORY_GB = 2**30
KIB = 2**10
# Disks are sold in decimal gigabytes.
BYTES_PER_STORAGE_GB = 1e9
MM2_PER_CM2 = 100.0
# WattTime and many sources in the US state pounds per megawatt-hour.
G_PER_KWH_OF_LB_PER_MWH = 0.45359237

Units = tuple[tuple[float, str], ...]

COUNT_UNITS: Units = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T"))
ENERGY_UNITS: Units = ((1.0, "J"), (3.6e3, "Wh"), (JOULES_PER_KWH, "kWh"), (JOULES_PER_MWH, "MWh"), (3.6e12, "GWh"))
CARBON_UNITS: Units = ((1e-6, "mgCO2e"), (1e-3, "gCO2e"), (1.0, "kgCO2e"), (1e3, "tCO2e"), (1e6, "ktCO2e"))
POWER_UNITS: Units = ((1e-3, "mW"), (1.0, "W"), (1e3, "kW"), (1e6, "MW"))
TIME_UNITS: Units = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"), (SECONDS_PER_HOUR, "h"), (SECONDS_PER_DAY, "days"))
STEP_TIME_UNITS: Units = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"))
DEVICE_TIME_UNITS: Units = ((1.0, "s"), (60.0, "min"), (SECONDS_PER_HOUR, "h"))
MEMORY_UNITS: Units = ((KIB, "KiB"), (2**20, "MiB"), (GIB, "GiB"))
BYTE_RATE_UNITS: Units = ((1e6, "MB/s"), (1e9, "GB/s"))
FLOP_RATE_UNITS: Units = ((1e9, "GFLOP/s"), (1e12, "TFLOP/s"))
CALL_TIME_UNITS: Units = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
BYTE_UNITS: Units = ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
WATER_UNITS: Units = ((1.0, "L"), (1e3, "m3"))
