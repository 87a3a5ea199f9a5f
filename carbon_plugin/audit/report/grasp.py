"""Help a person to grasp a total: give the same carbon as a drive in a car, and the same energy on other grids."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.audit.report.tables.table import Cell, Table, table, unit_of_carbon
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors.grid import zone_intensity
from carbon_plugin.footprint.values import Basis
from carbon_plugin.show import wording
from carbon_plugin.spec.amounts import fitting_unit
from carbon_plugin.spec.units import JOULES_PER_KWH

CAR_KG_PER_KM = 0.400 / 1.609344
"""The tailpipe CO2 of an average US passenger vehicle: about 400 g a mile (US EPA, EPA-420-F-23-014, June 2023)."""
CAR_SOURCE = "US EPA: Tailpipe Greenhouse Gas Emissions From a Typical Passenger Vehicle (EPA-420-F-23-014, 2023)"
CAR_ADDRESS = "https://www.epa.gov/greenvehicles/greenhouse-gas-emissions-typical-passenger-vehicle"
ELSEWHERE = ("SWE", "FRA", "GBR", "USA", "DEU", "CHN", "IND", "WORLD")
"""Grids from clean to carbon-heavy, in which a reader may know data centres."""

_LENGTH_UNITS = ((1e-2, "cm"), (1.0, "m"), (1e3, "km"))


class EverydayComparison(Struct, frozen=True, kw_only=True):
    """A length of driving that emits as much as the run, with its source and the address of that source."""

    text: str
    source: str
    address: str


def as_a_drive(total_kg: float) -> EverydayComparison | None:
    """Return the distance over which an average US petrol car emits as much, or None for no carbon."""
    if total_kg <= 0:
        return None
    size, unit = fitting_unit(total_kg / CAR_KG_PER_KM * 1e3, _LENGTH_UNITS, 2)
    length = f"{wording.number(total_kg / CAR_KG_PER_KM * 1e3 / size, 2)} {unit}"
    return EverydayComparison(
        text=f"about {length} in an average US petrol car", source=CAR_SOURCE, address=CAR_ADDRESS
    )


def elsewhere(summary: AuditSummary) -> Table | None:
    """Return a table of the run's facility energy at the annual averages of other grids.

    Return None where the run's own intensity has another basis and so cannot be compared with them.
    """
    footprint, factors = summary.footprint, summary.factors
    if (
        footprint is None
        or factors is None
        or factors.intensity.basis != Basis(scope="lifecycle", signal="average", boundary="generation")
    ):
        return None
    facility_kwh = footprint.energy_j["facility"].value / JOULES_PER_KWH
    if facility_kwh <= 0:
        return None
    embodied_kg, here = footprint.embodied_kg.value, factors.intensity.zone
    own_kg = footprint.operational_kg.value
    rows = [(factors.intensity.zone_name, own_kg, own_kg / facility_kwh)]
    years = []
    for zone in ELSEWHERE:
        try:
            found = zone_intensity(zone)
        except FootprintError:
            continue
        if zone != here:
            rows.append((found.zone_name, facility_kwh * found.figure.value / 1e3, found.figure.value / 1e3))
            years.append(found.figure.source)
    rows.sort(key=lambda row: row[1])
    unit = unit_of_carbon(max(kg for _, kg, _ in rows) + embodied_kg)
    total_kg = footprint.total_kg.value
    cells: list[list[Cell | str]] = [
        [
            Cell(name, "where the run was" if name == factors.intensity.zone_name else ""),
            wording.number(grid * 1e3),
            unit.number(kg),
            unit.number(kg + embodied_kg),
            wording.off_by((kg + embodied_kg) / total_kg) if total_kg > 0 else "–",
        ]
        for name, kg, grid in rows
    ]
    headings = ["grid", "gCO2e/kWh", f"operational, {unit.name}", f"total, {unit.name}", "total against this run"]
    note = f"Annual averages; {years[0]}" if years else ""
    return table(headings, cells, (1, 2, 3, 4), note=note)
