"""Define the result of a what-if: one run done in several ways, and the carbon of each beside that of the first."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Footprint, Intensity, comparable_kg
from carbon_plugin.plan.real_run import BestCase
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

COMPARISON_VERSION = 1


class Alternative(Struct, frozen=True, kw_only=True):
    """One alternative is a way to do the run. `changes` are by axis, empty for the run itself.

    `elapsed_s` is the time from start to end, of which `paused_s` is spent in pauses. `g_per_kwh` is the mean average
    intensity over the energy. `marginal_kg` is what the facility's energy causes at the marginal intensity, where the
    site states one; it is shown beside the total and never in it. `reason` says why there are no numbers. `notes` say
    what else changed with the changes. `best_case` is the same run without what real runs take beyond the modelled
    losses, where the run is planned with that.
    """

    changes: dict[str, str]
    footprint: Footprint | None = None
    elapsed_s: float | None = None
    paused_s: float = 0.0
    intensity: Intensity | None = None
    g_per_kwh: float | None = None
    marginal_kg: float | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    best_case: BestCase | None = None


class Comparison(Struct, frozen=True, kw_only=True):
    """One comparison holds a run and its alternatives. `warnings` say why some of their numbers cannot be compared."""

    version: int
    name: str
    base: Alternative
    alternatives: tuple[Alternative, ...]
    warnings: tuple[str, ...]

    def relative(self, alternative: Alternative) -> float | None:
        """Return the carbon of an alternative over that of the run, less one; None where either has none.

        It is the total, or the operational carbon where the manufacture of the hardware is unknown.
        """
        ours, theirs = self.base.footprint, alternative.footprint
        if ours is None or theirs is None:
            return None
        _, ours_kg, theirs_kg = comparable_kg(ours, theirs)
        return theirs_kg.value / ours_kg.value - 1 if ours_kg.value else None


def make_comparison(name: str, base: Alternative, alternatives: Sequence[Alternative]) -> Comparison:
    """Return the comparison of a run with its alternatives, with warnings where their intensities count different
    things.
    """
    return Comparison(
        version=COMPARISON_VERSION,
        name=name,
        base=base,
        alternatives=tuple(alternatives),
        warnings=basis_warnings([base, *alternatives]),
    )


def basis_warnings(alternatives: Sequence[Alternative]) -> tuple[str, ...]:
    """Return a sentence where the intensities that are compared do not count the same things."""
    bases: dict[str, list[str]] = {}
    for alternative in alternatives:
        if alternative.intensity is not None:
            counted = " and ".join(map(describe_basis, alternative.intensity.bases))
            zones = bases.setdefault(counted, [])
            if alternative.intensity.zone_name not in zones:
                zones.append(alternative.intensity.zone_name)
    if len(bases) < 2:
        return ()
    said = "; ".join(f"{', '.join(zones)}: {basis}" for basis, zones in bases.items())
    return (f"the intensities count different things, so part of a difference may be no difference: {said}",)


def mean_g_per_kwh(footprint: Footprint) -> float | None:
    """Return operational carbon over facility energy, g/kWh, or None without energy."""
    facility_j = footprint.energy_j["facility"].value
    return footprint.operational_kg.value * GRAMS_PER_KG * JOULES_PER_KWH / facility_j if facility_j else None
