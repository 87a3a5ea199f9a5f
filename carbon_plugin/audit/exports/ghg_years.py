"""Divide a run by calendar year for an inventory, and find the electricity factors of each year."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.audit.exports.evidence import GridFactor
from carbon_plugin.audit.exports.ghg_factors import ElectricityFactors, GhgInputs, electricity_factors
from carbon_plugin.audit.findings.energy import MonthEnergy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.factors.grid import value_of_year
from carbon_plugin.footprint.values import Basis, Factors
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH


class InventoryYear(Struct, frozen=True):
    """One calendar year of a run: its shares of the energy and of the reserved device time, 0 to 1, and its factors.

    `note` says of which year the factor is where that is another one.
    """

    year: int
    energy_share: float
    time_share: float
    electricity: ElectricityFactors
    note: str


def years_of(
    summary: AuditSummary, factors: Factors, location: GridFactor, basis: Basis, inputs: GhgInputs
) -> list[InventoryYear]:
    """Return the calendar years of a run with their shares of its energy and reserved time, and their factors.

    Energy and mean intensity of a year come from the windows in it. An annual average from a table is that of the year
    if the table has it. Otherwise the note says which year's average is used.
    """
    first, last = _calendar_years(summary)
    months = [month for month in summary.months if first <= month.year <= last] or [
        MonthEnergy(
            year=first,
            month=1,
            energy_j=summary.energy.energy_j,
            facility_j=_facility_j(summary),
            operational_kg=None,
            reserved_device_s=summary.reserved.device_s,
        )
    ]
    whole_j, whole_s = sum(month.energy_j for month in months), sum(month.reserved_device_s for month in months)
    found = []
    for year in sorted({month.year for month in months}):
        of_year = [month for month in months if month.year == year]
        energy_j = sum(month.energy_j for month in of_year)
        device_s = sum(month.reserved_device_s for month in of_year)
        own, note = _location_of(year, of_year, factors, location)
        found.append(
            InventoryYear(
                year=year,
                energy_share=energy_j / whole_j if whole_j else 1.0,
                time_share=device_s / whole_s if whole_s else energy_j / whole_j if whole_j else 1.0,
                electricity=electricity_factors(own, basis, inputs),
                note=note,
            )
        )
    return found


def _facility_j(summary: AuditSummary) -> float | None:
    """Return the energy of a run with its facility, J, or None without factors."""
    return summary.footprint.energy_j["facility"].value if summary.footprint else None


def _location_of(
    year: int, months: Sequence[MonthEnergy], factors: Factors, location: GridFactor
) -> tuple[GridFactor, str]:
    """Return the factor of the location in a year, and a note where the factor belongs to another year."""
    intensity = factors.intensity
    if intensity.granularity == "annual" and not intensity.parts and intensity.figure.kind == "assumed":
        of_year = value_of_year(intensity.asked or intensity.zone, year)
        if of_year is not None:
            time = f"annual average of {year}"
            return replace(location, applied_g_per_kwh=of_year, granularity_time=time, year=year), ""
        note = f"no factor of {year} is in the table of {intensity.zone_name}: that of {intensity.year} stands in"
        return location, note
    facility_j = sum(month.facility_j or 0.0 for month in months)
    operational_kg = sum(month.operational_kg or 0.0 for month in months)
    if facility_j <= 0 or operational_kg <= 0:
        return location, ""
    g_per_kwh = operational_kg * GRAMS_PER_KG / (facility_j / JOULES_PER_KWH)
    return replace(location, applied_g_per_kwh=g_per_kwh), ""


def _calendar_years(summary: AuditSummary) -> tuple[int, int]:
    """Return the first and the last calendar year (UTC) of the run with its reserved time. Raises `ReportError` for
    moments outside of any calendar.
    """
    period = summary.period
    try:
        first, last = (datetime.fromtimestamp(moment, UTC).year for moment in (period.start_unix_s, period.end_unix_s))
    except (OverflowError, OSError, ValueError):
        raise ReportError(
            f"GHG: the run lies between {period.start_unix_s:g} and {period.end_unix_s:g} s, expected Unix seconds"
        ) from None
    return min([first, *(month.year for month in summary.months if month.year)]), last
