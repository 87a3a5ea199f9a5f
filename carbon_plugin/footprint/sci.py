"""Compute the Software Carbon Intensity of ISO/IEC 21031:2024 (specification 1.1 of the Green Software Foundation).

    SCI = (O + M) / R        O = E * I        M = TE * TS * RS        TS = TiR / EL        RS = RR / ToR

O and M with their ranges are the operational and embodied carbon of `footprint.account`, whose energy includes the
facility, whose intensity is location-based and which charges hardware by reserved time over its life.
"""

from __future__ import annotations

from carbon_plugin.errors import FootprintError


def score(operational: float, embodied: float, functional_units: float) -> float:
    """Return the SCI, which is (O + M) / R. Raises `FootprintError` without any unit, because the score is a rate and
    never a total.
    """
    if functional_units <= 0:
        raise FootprintError(f"functional_units is {functional_units:g}, expected more than 0: the score is a rate")
    return (operational + embodied) / functional_units
