"""Grid intensity of a site: the user's number, or the annual average of the zone from the shipped tables.

An annual average of a past year stands for the mean intensity during a run. The range around it has two parts,
combined in quadrature: how much such a number moves from one year to the next, growing with the age of the
vintage, and how far the weeks of a run lie from the mean of their year.
"""

from __future__ import annotations

import math
from datetime import date

import msgspec

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint import tables
from carbon_plugin.footprint.account import Basis, Intensity
from carbon_plugin.footprint.zones import Area, locate
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.site import Site

UNIT = "gCO2e/kWh"

# 80th percentile of the year-to-year change over the areas of the country table: half-width of the central
# 80 % for an area whose own last change was smaller, or is not known.
TYPICAL_DRIFT = 0.065
# Assumed p10-p90 half-width of the mean over a run's weeks around the mean over its year (season, weather, outages).
WITHIN_YEAR_SPREAD = 0.15
# A vintage more than this many years before the run gets a note.
FRESH_YEARS = 2
# A stated intensity below it is asked about: the lowest countries of the table have 20, lifecycle.
LEAST_G_PER_KWH = 2.0

BASIS_WORDS = {
    "scope": ("lifecycle", "direct"),
    "signal": ("average", "marginal"),
    "boundary": ("generation", "consumption"),
}

_TABLES = {
    "country": tables.country_intensities,
    "egrid": tables.egrid_intensities,
    "gcp": tables.gcp_intensities,
}


def resolve_intensity(site: Site, *, today: date | None = None) -> Intensity:
    """Intensity in force at a site, gCO2e/kWh, with its range, vintage, basis and licence.

    The user's number wins and is taken as stated, without a range. `today` (default: the system's date) decides how
    old a vintage is. Raises `FootprintError` for an unknown zone, with the nearest names.
    """
    if site.intensity_g_per_kwh is not None:
        return declared_intensity(
            site.intensity_g_per_kwh, zone=site.zone, source=site.intensity_source, basis=site.intensity_basis
        )
    if site.zone is None:
        raise FootprintError("site: neither zone nor intensity_g_per_kwh is given, expected one of them")
    return zone_intensity(site.zone, today=today)


def zone_intensity(zone: str, *, today: date | None = None) -> Intensity:
    """Annual average intensity of a zone from the shipped tables. Raises `FootprintError` for an unknown zone."""
    area = locate(zone)
    table = _TABLES[area.table]()
    row = table.areas[area.code]
    age_years = max(0, (today or date.today()).year - row.year)
    factor = math.exp(relative_spread(row, age_years))
    return Intensity(
        zone=area.code if area.table == "country" else f"{area.table}:{area.code}",
        zone_name=area.name,
        figure=Figure(
            value=row.g_per_kwh,
            low=row.g_per_kwh / factor,
            high=row.g_per_kwh * factor,
            unit=UNIT,
            kind="assumed",
            source=f"{table.source.title}, {area.name} {row.year}, annual average "
            f"({table.source.basis.scope}, {table.source.basis.boundary})",
        ),
        year=row.year,
        basis=table.source.basis,
        licence=table.source.licence,
        attribution=table.source.attribution,
        notes=_notes(area, row, age_years),
    )


def relative_spread(row: tables.AreaIntensity, age_years: int) -> float:
    """Half-width of the p10-p90 range of ln(intensity of the run / annual average of the vintage).

    sqrt(drift^2 * max(1, age) + within^2): yearly changes add up as a random walk over the age of the vintage;
    drift is the area's own last change relative to the larger of the two years, at least `TYPICAL_DRIFT`.
    """
    drift = TYPICAL_DRIFT
    if row.previous is not None and max(row.g_per_kwh, row.previous) > 0:
        own = abs(row.g_per_kwh - row.previous) / max(row.g_per_kwh, row.previous)
        drift = max(drift, own)
    return math.hypot(drift * math.sqrt(max(1, age_years)), WITHIN_YEAR_SPREAD)


def declared_intensity(value: float, *, zone: str | None, source: str, basis: str | None = None) -> Intensity:
    """The user's number as an intensity: as stated, without a range."""
    counted = parse_basis(basis) if basis else None
    return Intensity(
        zone=zone or "declared",
        zone_name=zone or "declared",
        figure=Figure(value, value, value, UNIT, "declared", source),
        year=None,
        basis=counted,
        licence="not stated",
        attribution=source,
        granularity="as stated",
        notes=("the user's number, without a range" + ("" if counted else " and without a stated basis"),),
    )


def parse_basis(words: str) -> Basis:
    """A basis from three words, one of each axis in any order: "lifecycle average consumption".

    Raises `FootprintError` for any other text.
    """
    given = words.replace(",", " ").replace("/", " ").lower().split()
    chosen = {axis: [word for word in given if word in values] for axis, values in BASIS_WORDS.items()}
    if len(given) != len(chosen) or any(len(found) != 1 for found in chosen.values()):
        expected = ", ".join(" or ".join(values) for values in BASIS_WORDS.values())
        raise FootprintError(f"intensity basis is {words!r}, expected three words: {expected}")
    return msgspec.convert({axis: found[0] for axis, found in chosen.items()}, type=Basis)


def describe_basis(basis: Basis | None) -> str:
    """What an intensity counts, in words."""
    return "unstated basis" if basis is None else f"{basis.scope}, {basis.signal}, {basis.boundary}"


def stale_warning(intensity: Intensity, *, today: date | None = None) -> str | None:
    """A sentence for the user where the vintage is old, else None."""
    if intensity.year is None:
        return None
    age_years = (today or date.today()).year - intensity.year
    if age_years <= FRESH_YEARS:
        return None
    return f"grid intensity of {intensity.zone_name} is of {intensity.year}, {age_years} years old: state a newer one"


def low_warning(intensity: Intensity) -> str | None:
    """A sentence for the user where a number, or the mean of a series, is lower than a grid can be, else None. A stated
    0 is taken as it is."""
    value, published = intensity.figure.value, intensity.granularity == "annual"
    if not published and 0 < value < LEAST_G_PER_KWH:
        return f"the stated intensity of {value:.3g} g/kWh is below that of any grid: was {value:.3g} kg/kWh meant?"
    if published and value == 0:
        return f"the published intensity of {intensity.zone_name} is 0 g/kWh, which no grid has: state one of your own"
    return None


def _notes(area: Area, row: tables.AreaIntensity, age_years: int) -> tuple[str, ...]:
    notes = []
    if area.stands_for:
        notes.append(f"{area.name} stands for {area.stands_for} by place")
    if age_years > FRESH_YEARS:
        notes.append(f"the newest value of {area.name} is of {row.year}, {age_years} years old")
    if row.g_per_kwh == 0:
        notes.append(f"the published value of {area.name} is 0, rounded by its source")
    return tuple(notes)
