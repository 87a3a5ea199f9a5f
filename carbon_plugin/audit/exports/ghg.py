"""Make a greenhouse gas inventory (GHG Protocol) of one run. Who owns electricity and hardware decides which lines
(`ghg_lines`) it has.

| boundary | electricity of the machines | of the facility around them | hardware |
|---|---|---|---|
| own | scope 2, direct, location and market | scope 2, with the machines | scope 3 cat. 2, year of acquisition |
| colo | scope 2, direct, location and market | scope 3 cat. 8 | scope 3 cat. 2, year of acquisition |
| cloud | scope 3 cat. 1, location and market | scope 3 cat. 1, with the machines | scope 3 cat. 1, allocated |

Upstream of fuels and losses of the grid are scope 3 category 3, never scope 2. Capital goods are booked cradle-to-gate
as they are bought. The share that accounting by lifetime charges to the run stands outside the inventory. The split of
colo is our reading of operational control: the tenant runs the machines, the landlord the cooling.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import (
    GridFactor,
    Origin,
    basis_of,
    carbon_of,
    embodied_of,
    grid_factor,
    origin_of,
)
from carbon_plugin.audit.exports.ghg_factors import ElectricityFactors, GhgInputs, electricity_factors
from carbon_plugin.audit.exports.ghg_lines import (
    GhgLine,
    capital_goods_line,
    electricity_line,
    market_line,
    overhead_line,
    upstream_lines,
)
from carbon_plugin.audit.exports.ghg_years import InventoryYear, years_of
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.factors.zones import cloud_region
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.spec.numbers.figure import Figure

STANDARD = "GHG Protocol: Corporate Standard, Scope 2 Guidance, Corporate Value Chain (Scope 3) Standard"
BOUNDARIES = ("own", "colo", "cloud")


class OutsideInventory(Struct, frozen=True, kw_only=True):
    """A figure that is not a line of the inventory and is labelled so."""

    name: str
    kg: Figure
    note: str


class GhgReport(Struct, frozen=True, kw_only=True):
    """The lines of an inventory, and the figures outside of it.

    Lines add up by scope and method. The two methods of a line of electricity are alternatives and are never added.
    `missing` names what an inventory asks for and this run cannot state. `questions` are inputs that do not fit
    together, which the reporter should look at.
    """

    standard: str
    organisational_boundary: Literal["own", "colo", "cloud"]
    years: list[int]
    lines: list[GhgLine]
    outside_inventory: list[OutsideInventory]
    location_factor: GridFactor
    rules: list[str]
    missing: list[str]
    questions: list[str]
    origin: Origin


def ghg_report(summary: AuditSummary, inputs: GhgInputs) -> GhgReport:
    """Return the inventory lines of a run.

    Raises `ReportError` where the boundary or a factor that it needs was not given, or where the run's intensity counts
    something that an inventory must not count.
    """
    if inputs.organisational_boundary not in BOUNDARIES:
        raise ReportError(
            f"GHG: organisational_boundary is {inputs.organisational_boundary!r}, expected {', '.join(BOUNDARIES)}: "
            "whose electricity and hardware this is decides the scope"
        )
    footprint, factors = carbon_of(summary, "GHG")
    embodied = embodied_of(summary, "GHG")
    basis = basis_of(factors, "GHG")
    if basis.signal != "average":
        raise ReportError(
            f"GHG: the intensity of {factors.intensity.zone_name} is {basis.signal}, expected an average one"
        )
    location = grid_factor(summary, factors)
    electricity = electricity_factors(location, basis, inputs)
    years = years_of(summary, factors, location, basis, inputs)
    outside: list[OutsideInventory] = []
    if inputs.organisational_boundary == "cloud":
        lines = [line for one in years for line in _cloud(footprint, embodied, factors, one)]
    else:
        _check_owned(factors, electricity, inputs)
        lines = [line for one in years for line in _tenant_or_owner(footprint, factors, one, inputs)]
        lines.append(capital_goods_line(summary, factors, inputs.acquisition_year or 0))
        outside.append(
            OutsideInventory(
                name="embodied carbon, share of the run",
                kg=embodied,
                note=f"allocation outside the inventory: {factors.amortisation}; never added to category 2",
            )
        )
    return GhgReport(
        standard=STANDARD,
        organisational_boundary=inputs.organisational_boundary,
        years=[one.year for one in years],
        lines=lines,
        outside_inventory=outside,
        location_factor=location,
        rules=_RULES[inputs.organisational_boundary],
        missing=[*_missing(footprint, electricity, inputs), *dict.fromkeys(one.note for one in years if one.note)],
        questions=_questions(factors, inputs),
        origin=origin_of(summary),
    )


def _check_owned(factors: Factors, electricity: ElectricityFactors, inputs: GhgInputs) -> None:
    """Raise `ReportError` where a factor or a year is missing that the owner of machines has to state."""
    if electricity.direct is None:
        zone = factors.intensity.zone_name
        raise ReportError(
            f"GHG: the intensity of {zone} is lifecycle, but scope 2 takes direct (combustion) emissions only; "
            "expected --direct-factor (g/kWh) with --factor-source, or a run in a zone of direct basis (egrid:, gcp:)"
        )
    if inputs.acquisition_year is None:
        raise ReportError(
            "GHG: acquisition_year is not stated, expected the year in which the hardware was bought "
            "(--acquisition-year): capital goods are booked in that year and not amortised"
        )


def _tenant_or_owner(footprint: Footprint, factors: Factors, year: InventoryYear, inputs: GhgInputs) -> list[GhgLine]:
    direct = year.electricity.direct
    assert direct is not None  # checked for the run
    colo = inputs.organisational_boundary == "colo"
    energy = footprint.energy_j["it" if colo else "facility"].scaled(year.energy_share)
    location = electricity_line(2, None, "purchased electricity", energy, footprint, direct, "direct factor", year)
    lines = [location, market_line(location, energy, footprint, factors, direct, "direct", year)]
    if colo:
        lines.append(overhead_line(footprint, direct, year))
    return [*lines, *upstream_lines(energy, footprint, year)]


def _cloud(footprint: Footprint, embodied: Figure, factors: Factors, year: InventoryYear) -> list[GhgLine]:
    electricity = year.electricity
    rate = electricity.lifecycle or electricity.direct
    assert rate is not None  # one of the two is the run's own
    kind = "lifecycle" if electricity.lifecycle else "direct"
    name = "purchased cloud service: electricity of machines and facility"
    note = f"{kind} factor; the provider's scope 2 is the customer's scope 3 (category 8 if leased)"
    energy = footprint.energy_j["facility"].scaled(year.energy_share)
    location = electricity_line(3, 1, name, energy, footprint, rate, note, year)
    has_market = footprint.market is not None
    by_contract = [market_line(location, energy, footprint, factors, rate, kind, year)] if has_market else []
    return [
        location,
        *by_contract,
        GhgLine(
            scope=3,
            category=1,
            name="purchased cloud service: manufacture of the hardware, share of the run",
            method=None,
            kg=embodied.scaled(year.time_share),
            inventory_year=year.year,
            note=f"the provider's capital goods, allocated by {factors.amortisation}",
        ),
    ]


def _missing(footprint: Footprint, electricity: ElectricityFactors, inputs: GhgInputs) -> list[str]:
    found = []
    if inputs.organisational_boundary == "cloud":
        if electricity.lifecycle is None:
            found.append("upstream of fuels: the factor is direct; give --lifecycle-factor for a cradle-to-gate figure")
        return found
    if electricity.upstream is None:
        found.append("scope 3 category 3, fuels: give --lifecycle-factor (g/kWh) of the zone")
    if electricity.losses is None:
        found.append("scope 3 category 3, losses of the grid: give --grid-loss (share of what is fed in)")
    if footprint.market is None:
        found.append("market-based: no instrument (site.instruments) and no residual mix (site.residual_g_per_kwh)")
    return found


def _questions(factors: Factors, inputs: GhgInputs) -> list[str]:
    """Return questions that the reporter should check, such as a boundary that does not fit the place."""
    zone = factors.intensity.asked or factors.intensity.zone
    cloud = cloud_region(zone)
    if cloud is None or inputs.organisational_boundary == "cloud":
        return []
    return [
        f"organisational_boundary is {inputs.organisational_boundary}, and the zone {zone} is a region of {cloud[0]}: "
        "hardware and electricity of a cloud are a purchased service (scope 3 category 1, --organisational-boundary "
        "cloud); keep it only if the machines are your own and stand near that region"
    ]


_SHARED = [
    "location- and market-based lines of the same electricity stand side by side and are never added or netted",
    "offsets are in no line",
    "each factor states year, zone and granularity, as the coming revision of scope 2 asks",
]
_OWNED = [
    "scope 2 takes direct (combustion) factors; upstream and grid losses are scope 3 category 3",
    "capital goods (category 2) are booked cradle-to-gate in the year of acquisition and not amortised",
]
_RULES = {
    "own": [*_OWNED, *_SHARED],
    "colo": [*_OWNED, "facility energy beyond the machines is the landlord's: scope 3 category 8", *_SHARED],
    "cloud": ["electricity and hardware of a purchased service are scope 3 category 1 (8 if leased)", *_SHARED],
}
