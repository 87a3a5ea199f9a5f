"""Add up the months of a fleet to the lines of a greenhouse gas inventory, a calendar year each (GHG Protocol).

Which line electricity and hardware belong to depends on who owns them, as in `audit.exports.ghg`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from carbon_plugin.fleet.accounts import AccountLine, YearLine

BOUNDARIES = ("own", "colo", "cloud")
LOCATION, MARKET = "location-based", "market-based"


def year_lines(
    months: Sequence[AccountLine], capital_kg: dict[int, float], boundary: str, counts: str
) -> list[YearLine]:
    """Return the inventory lines of each year, from the lines of its months.

    `capital_kg` is the manufacture of hardware that was first used in a year, each device once. `counts` says which
    emissions of the grid the location-based lines hold.
    """
    found: list[YearLine] = []
    for year in sorted({(line.month or 0) // 100 for line in months}):
        of_year = [line for line in months if (line.month or 0) // 100 == year]
        found += _of_year(year, of_year, capital_kg.get(year, 0.0), boundary, counts)
    return found


def _of_year(year: int, months: Sequence[AccountLine], capital_kg: float, boundary: str, counts: str) -> list[YearLine]:
    location_kg, market_kg = sum(line.location_kg for line in months), sum(line.market_kg for line in months)
    facility_kwh = sum(line.facility_kwh for line in months)
    machines_kwh = sum(line.energy_kwh for line in months)
    embodied_kg = sum(line.embodied_kg for line in months)

    def line(scope: int, category: int | None, name: str, kg: float, note: str) -> YearLine:
        return YearLine(year=year, scope=scope, category=category, name=name, kg=kg, note=note)

    def electricity(scope: int, category: int | None, name: str, share: float, note: str) -> list[YearLine]:
        both = ((LOCATION, location_kg, counted), (MARKET, market_kg, "contracts, else the location's average"))
        return [
            structs.replace(
                line(scope, category, name, share * kg, f"{note}; {how}"),
                method=method,
                energy_kwh=share * facility_kwh,
            )
            for method, kg, how in both
        ]

    counted = f"{counts} intensity of the location"
    if counts == "lifecycle" and boundary != "cloud":
        counted += ", so that upstream emissions are in this line: --counts direct gives scope 2 by the letter"
    if boundary == "cloud":
        bought = "purchased cloud service: electricity of machines and facility"
        hardware = "purchased cloud service: manufacture of the hardware, share of the runs"
        note = "the provider's scope 2 is the customer's scope 3 (category 8 if leased)"
        return [
            *electricity(3, 1, bought, 1.0, note),
            line(3, 1, hardware, embodied_kg, "the provider's capital goods, by reserved time"),
        ]
    machines = machines_kwh / facility_kwh if boundary == "colo" and facility_kwh else 1.0
    of = "energy of the machines" if boundary == "colo" else "energy of the facility"
    found = electricity(2, None, "purchased electricity", machines, of)
    if boundary == "colo":
        name = "leased colocation space: electricity of the facility around the machines"
        found += electricity(3, 8, name, 1.0 - machines, "facility energy beyond that of the machines (PUE - 1)")
    note = "cradle to gate, each accelerator and host once over all runs, in the year in which a run first used it"
    return [*found, line(3, 2, "capital goods: hardware", capital_kg, note)]
