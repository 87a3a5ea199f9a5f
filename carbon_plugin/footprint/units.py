"""Conversion constants of carbon accounting, used where SI meets the units of a table or a report."""

JOULES_PER_KWH = 3.6e6
GRAMS_PER_KG = 1e3
# Calendar life is counted in mean (Julian) years, 365.25 days.
SECONDS_PER_YEAR = 31_557_600.0
SECONDS_PER_HOUR = 3600.0
# Device memory is sold in "GB" of 2^30 bytes.
BYTES_PER_MEMORY_GB = 2**30
MM2_PER_CM2 = 100.0
# WattTime and many US sources state pounds a megawatt-hour.
G_PER_KWH_OF_LB_PER_MWH = 0.45359237
# Disks are sold in decimal gigabytes.
BYTES_PER_STORAGE_GB = 1e9
