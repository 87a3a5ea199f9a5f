"""Add up the months of a fleet to the lines of a greenhouse gas inventory for each calendar year (GHG Protocol).

Who owns electricity and hardware decides to which line they belong, as in `audit.exports.ghg`. Scope 2 holds the direct
emissions of the grid, and scope 3 category 3 what lies upstream of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from carbon_plugin.fleet.accounts import AccountLine, YearLine, known_sum

BOUNDARIES = ("own", "colo", "cloud")
LOCATION, MARKET = "location-based", "market-based"
DIRECT, LIFECYCLE = "direct", "lifecycle"

CAPITAL_GOODS = 2
"""The category of scope 3 that holds hardware which was bought."""


def year_lines(
    months: Mapping[str, Sequence[AccountLine]], capital_kg: Mapping[int, float | None], boundary: str, counts: str
) -> list[YearLine]:
    """Return the inventory lines of each year, from the lines of its months with direct and with lifecycle emissions.

    `capital_kg` is the manufacture of the hardware that was first used in a year, each device once, or None where it is
    not known. `counts` says which emissions of the grid the lines of a purchased cloud service hold.
    """
    found: list[YearLine] = []
    for year in sorted({(line.month or 0) // 100 for line in months[DIRECT]}):
        sums = {scope: _summed(lines, year) for scope, lines in months.items()}
        if boundary == "cloud":
            found += _cloud(year, sums[counts], counts)
        else:
            found += _owned(year, sums, boundary)
            note = (
                "cradle to gate, each accelerator with its part of network and host once over all runs, in the year in "
                "which a run first used it"
            )
            kg = capital_kg.get(year, 0.0)
            name = "capital goods: hardware"
            found.append(YearLine(year=year, scope=3, category=CAPITAL_GOODS, name=name, kg=kg, note=note))
    return found


class _Sums(Struct, frozen=True, kw_only=True):
    """The sums over the months of a year, and the energy whose carbon by location or by contract is unknown.

    `machines_kwh` is the energy of the machines whose PUE is known, as that of the facility is.
    """

    location_kg: float | None
    market_kg: float | None
    embodied_kg: float | None
    facility_kwh: float
    machines_kwh: float
    without_location_kwh: float
    without_market_kwh: float


def _summed(months: Sequence[AccountLine], year: int) -> _Sums:
    lines = [line for line in months if (line.month or 0) // 100 == year]
    return _Sums(
        location_kg=known_sum(line.location_kg for line in lines),
        market_kg=known_sum(line.market_kg for line in lines),
        embodied_kg=known_sum(line.embodied_kg for line in lines),
        facility_kwh=sum(line.facility_kwh for line in lines),
        machines_kwh=sum(line.energy_kwh - line.without_facility_kwh for line in lines),
        without_location_kwh=sum(line.without_carbon_kwh for line in lines),
        without_market_kwh=sum(line.without_market_kwh for line in lines),
    )


def _electricity(year: int, sums: _Sums, line: YearLine, share: float, counted: str) -> list[YearLine]:
    """Return a line of electricity by location and by contract, for a share of the year's energy."""
    both = (
        (LOCATION, sums.location_kg, sums.without_location_kwh, f"{counted} emissions of the grid of the location"),
        (MARKET, sums.market_kg, sums.without_market_kwh, f"contracts, else the {counted} average of the location"),
    )
    return [
        structs.replace(
            line,
            kg=None if kg is None else share * kg,
            note=f"{line.note}; {how}{_lacking(without_kwh)}",
            method=method,
            energy_kwh=share * sums.facility_kwh,
        )
        for method, kg, without_kwh, how in both
    ]


def _lacking(without_kwh: float) -> str:
    return f"; {without_kwh:.4g} kWh of the machines, of which it is not known, are not in it" if without_kwh else ""


def _cloud(year: int, sums: _Sums, counts: str) -> list[YearLine]:
    bought = "purchased cloud service: electricity of machines and facility"
    hardware = "purchased cloud service: manufacture of the hardware, share of the runs"
    note = "the provider's scope 2 is the customer's scope 3 (category 8 if leased)"
    line = YearLine(year=year, scope=3, category=1, name=bought, kg=None, note=note)
    note = "the provider's capital goods, by reserved time"
    return [
        *_electricity(year, sums, line, 1.0, counts),
        structs.replace(line, name=hardware, kg=sums.embodied_kg, note=note),
    ]


def _owned(year: int, both: Mapping[str, _Sums], boundary: str) -> list[YearLine]:
    direct, lifecycle = both[DIRECT], both[LIFECYCLE]
    colo = boundary == "colo"
    machines = direct.machines_kwh / direct.facility_kwh if colo and direct.facility_kwh else 1.0
    of = "energy of the machines" if colo else "energy of the facility"
    line = YearLine(year=year, scope=2, category=None, name="purchased electricity", kg=None, note=of)
    found = _electricity(year, direct, line, machines, DIRECT)
    if colo:
        name = "leased colocation space: electricity of the facility around the machines"
        note = "facility energy beyond that of the machines (PUE - 1)"
        rest = structs.replace(line, scope=3, category=8, name=name, note=note)
        found += _electricity(year, direct, rest, 1.0 - machines, DIRECT)
    upstream_kg = None
    same = direct.without_location_kwh == lifecycle.without_location_kwh
    if same and direct.location_kg is not None and lifecycle.location_kg is not None:
        upstream_kg = machines * (lifecycle.location_kg - direct.location_kg)
    note = "lifecycle less direct emissions of the grid of the electricity in scope 2"
    name = "fuels of the electricity, upstream"
    return [
        *found,
        structs.replace(
            line,
            scope=3,
            category=3,
            name=name,
            kg=upstream_kg,
            note=f"{note}{_lacking(lifecycle.without_location_kwh)}",
            energy_kwh=machines * direct.facility_kwh,
        ),
    ]
