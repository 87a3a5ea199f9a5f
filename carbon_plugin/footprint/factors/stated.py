"""Give a range to a number that the user states: the stated range, or the usual one for its kind of source.

A published number is no measurement of the weeks of a run. An annual report averages over a year and a fleet, and a
number with an unknown source may belong to another year or to a larger area.
"""

from __future__ import annotations

from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import StatedKind

INTENSITY_SPREADS: dict[StatedKind, float] = {"metered": 0.03, "annual_report": 0.15, "unknown": 0.25}
"""Half-width of the p10-p90 range as a share of an intensity, by kind of source. Our assumptions: a metered contract
has the error of billing meters and of the plant's own factor; the mean of a run's weeks lies so far from that of its
year (`grid.WITHIN_YEAR_SPREAD`); an unknown source may be of another year and of a larger area too."""
OVERHEAD_SPREADS: dict[StatedKind, tuple[float, float]] = {
    "metered": (0.95, 1.05),
    "annual_report": (0.8, 1.25),
    "unknown": (0.7, 1.5),
}
"""p10 and p90 of the overhead of a facility (PUE - 1) as factors on the stated one, by kind of source. Our assumptions;
those of an annual report are the ones of published values."""
WORDS: dict[StatedKind, str] = {
    "metered": "a metered source",
    "annual_report": "an annual report",
    "unknown": "a source of unknown kind",
}


def stated_intensity_range(g_per_kwh: float, kind: StatedKind, ends: tuple[float, float] | None) -> Range:
    """Return a stated intensity, g/kWh, with its range. A stated 0 has no range."""
    if ends is not None:
        return Range(g_per_kwh, *ends)
    spread = INTENSITY_SPREADS[kind]
    return Range(g_per_kwh, g_per_kwh * (1 - spread), g_per_kwh * (1 + spread))


def stated_pue_range(pue: float, kind: StatedKind, ends: tuple[float, float] | None) -> Range:
    """Return a stated PUE with its range. Only the overhead beyond 1 varies."""
    if ends is not None:
        return Range(pue, *ends)
    low, high = OVERHEAD_SPREADS[kind]
    return Range(pue, 1 + (pue - 1) * low, 1 + (pue - 1) * high)


def range_words(kind: StatedKind, ends: tuple[float, float] | None) -> str:
    """Return in words where the range of a stated number comes from."""
    return "range stated by the user" if ends is not None else f"range usual for {WORDS[kind]}, an assumption"
