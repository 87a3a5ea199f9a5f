"""Add up energy from the accelerators to the facility, one boundary after the other, and say how each sum is known.

    node = GPUs + hosts        IT = nodes + network (+ storage)        facility = IT x PUE

PUE is facility energy over IT energy, so it multiplies the IT rung and no other. What a rung lacks is said and not
guessed: shared storage is in no profile and in no total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from carbon_plugin.spec.numbers.figure import Figure, Kind

_LADDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpu", ("gpu",)),
    ("node", ("gpu", "host")),
    ("it", ("gpu", "host", "network")),
)


class RungTotal(Struct, frozen=True, kw_only=True):
    """Holds the energy up to a rung, J, with the ranges of its parts added. `missing` names parts whose energy is not
    known.
    """

    rung: str
    energy: Figure
    missing: tuple[str, ...] = ()


def ladder(energy_j: Mapping[str, Figure]) -> tuple[RungTotal, ...]:
    """Return the energy totals of a footprint by rung, the smallest boundary first. Rungs without energy are
    left out.
    """
    totals = []
    for rung, parts in _LADDER:
        known = [energy_j[part] for part in parts if part in energy_j]
        missing = [part for part in parts if part not in energy_j]
        if rung == "it":
            missing.append("storage")
        if known and parts[-1] in energy_j:
            # The footprint has its own sum of IT, sampled; ranges that are merely added are wider.
            energy = energy_j.get(rung) or _sum(known)
            totals.append(RungTotal(rung=rung, energy=energy, missing=tuple(missing)))
    if "facility" in energy_j and energy_j["facility"].value > 0:
        totals.append(RungTotal(rung="facility", energy=energy_j["facility"], missing=("storage",)))
    return tuple(totals)


def _sum(figures: Sequence[Figure]) -> Figure:
    kinds = {figure.kind for figure in figures}
    kind: Kind = kinds.pop() if len(kinds) == 1 else "modelled"
    return Figure(
        sum(figure.value for figure in figures),
        sum(figure.low for figure in figures),
        sum(figure.high for figure in figures),
        "J",
        kind,
        "sum of the rungs below",
    )
