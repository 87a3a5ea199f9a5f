"""Make single lines of a greenhouse gas inventory: electricity by location and by contract, what is upstream of it,
and hardware. `ghg` decides which of them a run has.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import kwh
from carbon_plugin.audit.exports.ghg_factors import Rate
from carbon_plugin.audit.exports.ghg_years import InventoryYear
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.footprint.market import RESIDUAL
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG

Method = Literal["location-based", "market-based"]


class GhgLine(Struct, frozen=True, kw_only=True):
    """One line of the inventory: kgCO2e of a scope and, in scope 3, of a category.

    `inventory_year` is the calendar year (UTC) that the line belongs to: that of the energy, or of the acquisition.
    `factor` is that of a line of electricity.
    """

    scope: Literal[2, 3]
    category: int | None
    name: str
    method: Method | None
    kg: Figure
    energy: Figure | None = None
    factor: Rate | None = None
    inventory_year: int
    note: str


def electricity_line(
    scope: Literal[2, 3],
    category: int | None,
    name: str,
    energy: Figure,
    footprint: Footprint,
    rate: Rate,
    note: str,
    year: InventoryYear,
    method: Method = "location-based",
) -> GhgLine:
    """Return a line of electricity for a part of the run's energy at a factor.

    Its relative range is that of the run's operational carbon. This covers the uncertainty of energy and PUE, and of an
    annual factor in the weeks of a run.
    """
    value = kwh(energy).value * rate.g_per_kwh / GRAMS_PER_KG
    like = footprint.operational_kg if footprint.operational_kg.value > 0 else energy
    low, high = (like.low / like.value, like.high / like.value) if like.value > 0 else (1.0, 1.0)
    return GhgLine(
        scope=scope,
        category=category,
        name=name,
        method=method,
        kg=Figure(value, value * low, value * high, "kgCO2e", "modelled", "energy x factor"),
        energy=kwh(energy),
        factor=rate,
        inventory_year=year.year,
        note=note,
    )


def market_line(
    location: GhgLine,
    energy: Figure,
    footprint: Footprint,
    factors: Factors,
    grid: Rate,
    kind: str,
    year: InventoryYear,
) -> GhgLine:
    """Return the market-based line beside a location-based line of the same energy.

    Energy under contracts counts at their rates. All other energy counts at the residual mix or, where none is known,
    at the grid average of the location, which the guidance asks to disclose. `kind` says which emissions `grid`, that
    average, counts. Contracts cover the whole facility, so a line of the machines gets its share of each contract.
    """
    market = footprint.market
    if market is None:
        rate, note = grid, "no contract was stated and no residual mix is known: the grid average stands in"
    else:
        contracted_kwh = sum(line.energy_kwh for line in market.lines)
        share = kwh(energy).value / contracted_kwh if contracted_kwh else 0.0
        grams, notes = 0.0, []
        for line in market.lines:
            g_per_kwh, source = line.g_per_kwh, line.source
            if line.kind == RESIDUAL and factors.residual is None:
                average = f"the {kind} grid average of {grid.g_per_kwh:.4g} g/kWh ({grid.source})"
                g_per_kwh, source = grid.g_per_kwh, f"no residual mix was given: {average}"
            grams += line.energy_kwh * g_per_kwh
            notes.append(f"{line.kind}, {line.energy_kwh * share:.6g} kWh: {source}")
        mean = grams / (contracted_kwh or 1.0)
        rate = Rate(g_per_kwh=mean, source="mean of the contracts and the rest", granularity="by contract")
        note = "; ".join(notes)
    scope, category, name = location.scope, location.category, location.name
    return electricity_line(scope, category, name, energy, footprint, rate, note, year, "market-based")


def overhead_line(footprint: Footprint, rate: Rate, year: InventoryYear) -> GhgLine:
    facility, machines = footprint.energy_j["facility"], footprint.energy_j["it"]
    share = 1 - machines.value / facility.value if facility.value else 0.0
    name = "leased colocation space: electricity of the facility around the machines"
    note = "facility energy beyond that of the machines (PUE - 1)"
    return electricity_line(3, 8, name, facility.scaled(share * year.energy_share), footprint, rate, note, year)


def upstream_lines(energy: Figure, footprint: Footprint, year: InventoryYear) -> list[GhgLine]:
    parts = (
        ("fuels of the electricity, upstream", year.electricity.upstream),
        ("losses of the grid", year.electricity.losses),
    )
    return [
        electricity_line(3, 3, name, energy, footprint, rate, "of the electricity in scope 2", year)
        for name, rate in parts
        if rate is not None
    ]


def capital_goods_line(summary: AuditSummary, factors: Factors, year: int) -> GhgLine:
    """Return the cradle-to-gate carbon of all whole units that the run used. It is booked once, in the year of
    acquisition.
    """
    devices = summary.coverage.whole_gpus or summary.run.world_size
    hosts = devices * summary.reserved.host_s / summary.reserved.device_s if summary.reserved.device_s else 0.0
    units = {"device": float(devices), "host": hosts, "network": float(devices)}
    parts = {scope: figure.scaled(units.get(scope, 0.0)) for scope, figure in factors.embodied_kg.items()}
    counted = ", ".join(f"{units.get(scope, 0.0):.4g} x {scope}" for scope in parts)
    whole = "a MIG slice as its share of a GPU" if summary.coverage.gpu_slices else "whole units"
    return GhgLine(
        scope=3,
        category=2,
        name="capital goods: hardware, cradle to gate",
        method=None,
        kg=Figure(
            sum(part.value for part in parts.values()),
            sum(part.low for part in parts.values()),
            sum(part.high for part in parts.values()),
            "kgCO2e",
            "modelled",
            "; ".join(figure.source for figure in factors.embodied_kg.values()),
        ),
        inventory_year=year,
        note=f"{counted}; {whole}, not amortised: book once, in {year}, whoever else uses them later",
    )
