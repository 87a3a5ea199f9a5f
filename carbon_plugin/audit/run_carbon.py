"""Compute the carbon of an audited run in the form that a sum over several runs needs: on one basis for all runs.

The values are the central ones of the run's own audit, so that a sum is the sum of what the audits state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.footprint.factors.bases import in_scope
from carbon_plugin.footprint.values import EmissionScope, Intensity
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

UNIT = "kgCO2e"


class RunCarbon(Struct, frozen=True, kw_only=True):
    """The carbon of one run, kgCO2e: central values with their p10 and p90.

    `missing` completes a sentence about the run that says why there is no operational carbon. `embodied` is None where
    the manufacture of the hardware is not known. `total` is None where one of the two is. `turned` says how the
    intensity was converted to the basis of the sum, or is None where it had that basis already.
    """

    operational: Figure | None
    embodied: Figure | None
    total: Figure | None
    missing: str | None = None
    turned: str | None = None

    @property
    def counted(self) -> Figure | None:
        """Return the total, or the operational carbon where the manufacture of the hardware is unknown."""
        return self.operational if self.total is None else self.total


def common_scope(summaries: Iterable[AuditSummary]) -> EmissionScope:
    """Return the scope of emissions that all runs count, or "lifecycle" where they differ or none states it."""
    scopes: set[EmissionScope] = {
        basis.scope for one in summaries if one.factors for basis in one.factors.intensity.bases if basis is not None
    }
    return scopes.pop() if len(scopes) == 1 else "lifecycle"


def carbon_in(summary: AuditSummary, scope: EmissionScope) -> RunCarbon:
    """Return the carbon of a run with lifecycle or with direct emissions of its grid.

    The carbon of a run on another basis is computed as its facility energy times the intensity on this basis. Its range
    contains that of the energy and that of the new intensity.
    """
    footprint, factors = summary.footprint, summary.factors
    if not summary.energy.is_known:
        return RunCarbon(operational=None, embodied=None, total=None)  # there is nothing to add up
    if footprint is None or factors is None:
        return RunCarbon(operational=None, embodied=None, total=None, missing="stated no site")
    embodied = footprint.embodied_kg
    intensity = factors.intensity
    if all(basis is not None and basis.scope == scope for basis in intensity.bases):
        return RunCarbon(operational=footprint.operational_kg, embodied=embodied, total=footprint.total_kg)
    other = turned_figure(intensity, scope)
    if other is None:
        missing = "counts its intensity on a basis that is not stated (site.intensity_basis)"
        return RunCarbon(operational=None, embodied=embodied, total=None, missing=missing)
    operational = turned_operational(footprint.operational_kg.range, footprint.energy_j["facility"].value, other)
    total = None if embodied is None else plus_independent(operational, embodied.range)
    return RunCarbon(
        operational=_modelled(operational, f"facility energy x {other.source}"),
        embodied=embodied,
        total=None if total is None else _modelled(total, "operational + embodied"),
        turned=other.source,
    )


def turned_figure(intensity: Intensity, scope: EmissionScope) -> Figure | None:
    """Return the mean intensity of a run in another scope. A mean of several sources is converted part by part.

    Each part is converted in its own zone, so that a run in two regions gets the same result as two runs in one region
    each.
    """
    if not intensity.parts or intensity.basis is not None:
        turned = in_scope(intensity, scope)
        return None if turned is None else turned.figure
    low = value = high = 0.0
    sources = []
    for part in intensity.parts:
        figure = intensity.figure
        relative = part.g_per_kwh / figure.value if figure.value else 1.0
        one = Figure(
            part.g_per_kwh, figure.low * relative, figure.high * relative, figure.unit, figure.kind, part.source
        )
        whole = Intensity(
            zone=part.zone or intensity.zone,
            zone_name=part.zone_name or intensity.zone_name,
            figure=one,
            year=intensity.year,
            basis=part.basis,
            licence=intensity.licence,
            attribution=intensity.attribution,
            granularity=part.granularity or "mean of windows",
        )
        turned = in_scope(whole, scope)
        if turned is None:
            return None
        low += part.share * turned.figure.low
        value += part.share * turned.figure.value
        high += part.share * turned.figure.high
        sources.append(turned.figure.source)
    return Figure(value, low, high, intensity.figure.unit, "modelled", "; ".join(sources))


def turned_operational(own_kg: Range, facility_j: float, other: Figure) -> Range:
    """Return the facility energy of a run times another intensity, kgCO2e, with the spread of both.

    The run's own carbon contains the spread of its energy and of its own intensity. The wider spread of the two
    intensities counts.
    """
    value = facility_j / JOULES_PER_KWH * other.value / GRAMS_PER_KG
    low = value * min(_ratio(own_kg.low, own_kg.value), _ratio(other.low, other.value))
    high = value * max(_ratio(own_kg.high, own_kg.value), _ratio(other.high, other.value))
    return Range(value, low, high)


def _modelled(carbon: Range, source: str) -> Figure:
    return Figure.of(carbon, UNIT, "modelled", source)


def _ratio(end: float, value: float) -> float:
    return end / value if value > 0 else 1.0


def plus_independent(one: Range, other: Range) -> Range:
    """Return the sum of two ranges with independent errors. The distances to the ends are added in quadrature."""
    value = one.value + other.value
    low = value - math.hypot(one.value - one.low, other.value - other.low)
    high = value + math.hypot(one.high - one.value, other.high - other.value)
    return Range(value, low, high)
