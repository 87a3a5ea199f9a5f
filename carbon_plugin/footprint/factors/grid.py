"""Find the grid intensity of a site: the user's number, or the annual average of its zone in the shipped tables.

An annual average of a past year stands for the mean intensity during a run. The range around it has two parts,
combined in quadrature: how much such a number moves from one year to the next, growing with the age of the
vintage, and how far the weeks of a run lie from the mean of their year. Where the average of a larger area stands for
a part of it, the range covers the published parts too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date

import msgspec

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.stated import range_words, stated_intensity_range
from carbon_plugin.footprint.factors.zones import PARTED, TABLES, Area, find, locate, parts_of, row_of
from carbon_plugin.footprint.values import Basis, Intensity
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Site, StatedKind

UNIT = "gCO2e/kWh"

# 80th percentile of the year-to-year change over the areas of the country table: half-width of the central
# 80 % for an area whose own last change was smaller, or is not known.
TYPICAL_DRIFT = 0.065
# Assumed p10-p90 half-width of the mean over a run's weeks around the mean over its year (season, weather, outages).
WITHIN_YEAR_SPREAD = 0.15
# A part of a country about which nothing is published: 80 % of the 77 published parts of Canada, Australia, China and
# the USA lie within this factor of their whole (80th percentile of |ln(part / whole)|, tables of this package).
PART_SPREAD = 0.81
# A country whose consumption nobody published: 80 % of those that are published on both consume within this factor of
# what they generate (80th percentile of |ln(consumption / generation)|).
TRADE_SPREAD = 0.33
# How far a year of other imports takes what a country consumes from its newest published value, the widest that is
# known: Switzerland's was 122 g/kWh in 2022 and 50 in 2025 (Electricity Maps).
WIDEST_TRADE = 122 / 50
# Parts of a country whose values differ by less are not asked about.
UNLIKE_PARTS = 1.5
# A vintage more than this many years before the run gets a note.
FRESH_YEARS = 2
# A stated intensity below it is asked about: the lowest countries of the table have 20, lifecycle.
LEAST_G_PER_KWH = 2.0

# The least that the lifecycle of a grid can be: hydropower, with the range of plants without a stack (IPCC AR5 WG III,
# annex III: medians 24, and 11 for wind to 45 for solar). It stands for a published value below `LEAST_G_PER_KWH`.
CLEANEST = Range(24.0, 11.0, 45.0)
# Direct emissions alone of a grid below it say little about its lifecycle: building its plants and supplying their fuel
# comes to 11 (wind) to 45 (solar) g/kWh (IPCC AR5 WG III, annex III, medians).
DIRECT_ALONE_G_PER_KWH = 100.0

BASIS_WORDS = {
    "scope": ("lifecycle", "direct"),
    "signal": ("average", "marginal"),
    "boundary": ("generation", "consumption"),
}


def resolve_intensity(site: Site, *, today: date | None = None) -> Intensity:
    """Return the intensity in force at a site in gCO2e/kWh, with its range, vintage, basis and licence.

    The user's number wins; its range is the stated one, or a usual one for its kind of source. `today` (default: the
    system's date) decides how old a vintage is. Raises `FootprintError` for an unknown zone, with the nearest names.
    """
    if site.intensity_g_per_kwh is not None:
        return declared_intensity(
            site.intensity_g_per_kwh,
            zone=site.zone,
            source=site.intensity_source,
            basis=site.intensity_basis,
            kind=site.intensity_kind,
            ends=site.intensity_range,
        )
    if site.zone is None:
        raise FootprintError("site: neither zone nor intensity_g_per_kwh is given, expected one of them")
    return zone_intensity(site.zone, today=today)


def zone_intensity(zone: str, *, today: date | None = None) -> Intensity:
    """Return the annual average intensity of a zone. Raises `FootprintError` for an unknown zone."""
    area = locate(zone)
    table = TABLES[area.table]()
    row = table.areas[area.code]
    age_years = max(0, (today or date.today()).year - row.year)
    low, high = _range(area, row, age_years)
    notes = _notes(area, row, age_years)
    if row.g_per_kwh < LEAST_G_PER_KWH and table.source.basis.scope == "lifecycle":
        row = msgspec.structs.replace(row, g_per_kwh=CLEANEST.value)
        low, high = CLEANEST.low, CLEANEST.high
    return Intensity(
        zone=area.zone,
        zone_name=area.name,
        figure=Figure(
            value=row.g_per_kwh,
            low=low,
            high=high,
            unit=UNIT,
            kind="assumed",
            source=f"{table.source.title}, {area.row_name} {row.year}, annual average "
            f"({table.source.basis.scope}, {table.source.basis.boundary})",
        ),
        year=row.year,
        basis=table.source.basis,
        licence=table.source.licence,
        attribution=table.source.attribution,
        notes=notes,
        asked=zone.strip(),
        gwp=table.source.gwp,
        gases=table.source.gases,
    )


def value_of_year(zone: str, year: int) -> float | None:
    """Return the annual average of a zone in a calendar year, g/kWh, or None where the table does not have that
    year or the zone is in none."""
    area = find(zone)
    if area is None:
        return None
    row = TABLES[area.table]().areas[area.code]
    known = {row.year: row.g_per_kwh, row.year - 1: row.previous}
    return known.get(year)


def relative_spread(row: tables.AreaIntensity, age_years: int) -> float:
    """Return the half-width of the p10-p90 range of ln(intensity of the run / annual average of the vintage).

    sqrt(drift^2 * max(1, age) + within^2): yearly changes add up as a random walk over the age of the vintage;
    drift is the area's own last change relative to the larger of the two years, at least `TYPICAL_DRIFT`.
    """
    drift = TYPICAL_DRIFT
    if row.previous is not None and max(row.g_per_kwh, row.previous) > 0:
        own = abs(row.g_per_kwh - row.previous) / max(row.g_per_kwh, row.previous)
        drift = max(drift, own)
    return math.hypot(drift * math.sqrt(max(1, age_years)), WITHIN_YEAR_SPREAD)


def _range(area: Area, row: tables.AreaIntensity, age_years: int) -> tuple[float, float]:
    """Return p10 and p90 of the intensity during a run. The range covers the spread of the parts where the row belongs
    to a larger or a smaller area than the place.
    """
    spread = relative_spread(row, age_years)
    if area.larger:
        spread = math.hypot(spread, PART_SPREAD)
    if _trades_unknown(area):
        spread = math.hypot(spread, TRADE_SPREAD)
    factor = math.exp(spread)
    parts = [*_parts(area), *_consumed(area, row)]
    return min(row.g_per_kwh / factor, *parts, math.inf), max(row.g_per_kwh * factor, *parts, 0.0)


def _consumed(area: Area, row: tables.AreaIntensity) -> list[float]:
    """Return intensities, g/kWh, of the electricity that a country consumes, beside that of the electricity that it
    generates.

    They are the published value and, for a country with much trade, the value that follows if half of its electricity
    comes from its neighbours. The list is empty for rows of other tables. Half is more than most countries import. The
    second value is therefore kept within a factor of `WIDEST_TRADE` of the published one, which is the largest factor
    that a year has shown for any of these countries.
    """
    published = _published_consumption(area)
    neighbours = tables.trade().get(area.code, ()) if area.table == "country" else ()
    found = [] if published is None else [published.g_per_kwh]
    if neighbours:
        half = (row.g_per_kwh + sum(_values(neighbours)) / len(neighbours)) / 2
        found += [min(max(half, one / WIDEST_TRADE), one * WIDEST_TRADE) for one in found] or [half]
    return found


def _published_consumption(area: Area) -> tables.AreaIntensity | None:
    """Return the row for a country's consumption, for an area whose row is that of the country's generation."""
    return tables.consumption_intensities().areas.get(area.code) if area.table == "country" else None


def _trades_unknown(area: Area) -> bool:
    """Return whether an area uses the generation of a single country whose consumption is not published."""
    aggregate = area.table == "country" and tables.countries()[area.code].alpha2 is None
    return area.table == "country" and not aggregate and _published_consumption(area) is None


def _parts(area: Area) -> list[float]:
    """Return the published values, g/kWh, that the range of a place has to cover beside the value of its own row."""
    return _values((*area.also, *(parts_of(area.country) if area.larger and area.country else ())))


def _values(references: Iterable[str]) -> list[float]:
    """Return the published values of rows, g/kWh."""
    rows = [row_of(reference) for reference in references]
    return [TABLES[row.table]().areas[row.code].g_per_kwh for row in rows]


def declared_intensity(
    value: float,
    *,
    zone: str | None,
    source: str,
    basis: str | None = None,
    kind: StatedKind = "unknown",
    ends: tuple[float, float] | None = None,
) -> Intensity:
    """Return the user's number, g/kWh, as an intensity. Its range is the stated one, or the usual one for its kind of
    source.
    """
    counted = parse_basis(basis) if basis else None
    return Intensity(
        zone=zone or "declared",
        zone_name=zone or "declared",
        figure=Figure.of(stated_intensity_range(value, kind, ends), UNIT, "declared", source),
        year=None,
        basis=counted,
        licence="not stated",
        attribution=source,
        granularity="as stated",
        notes=(f"the user's number: {range_words(kind, ends)}" + ("" if counted else "; its basis is not stated"),),
        asked=(zone or "").strip(),
    )


def parse_basis(words: str) -> Basis:
    """Read a basis from three words, one for each axis in any order, for instance "lifecycle average consumption".

    Raises `FootprintError` for any other text.
    """
    given = words.replace(",", " ").replace("/", " ").lower().split()
    chosen = {axis: [word for word in given if word in values] for axis, values in BASIS_WORDS.items()}
    if len(given) != len(chosen) or any(len(found) != 1 for found in chosen.values()):
        expected = ", ".join(" or ".join(values) for values in BASIS_WORDS.values())
        raise FootprintError(f"intensity basis is {words!r}, expected three words: {expected}")
    return msgspec.convert({axis: found[0] for axis, found in chosen.items()}, type=Basis)


def describe_basis(basis: Basis | None) -> str:
    """Return a basis in words: which emissions and which electricity an intensity counts."""
    return "unstated basis" if basis is None else f"{basis.scope}, {basis.signal}, {basis.boundary}"


def stale_warning(intensity: Intensity, *, today: date | None = None) -> str | None:
    """Return a sentence for the user if the vintage is old, else None."""
    if intensity.year is None:
        return None
    age_years = (today or date.today()).year - intensity.year
    if age_years <= FRESH_YEARS:
        return None
    return f"grid intensity of {intensity.zone_name} is of {intensity.year}, {age_years} years old: state a newer one"


def stand_in_warning(site: Site, intensity: Intensity) -> str | None:
    """Return a sentence for the user where the value of one area stands for a place which several areas serve, or which
    is only a part of the area, or for a country whose parts differ. Return None otherwise.
    """
    area = find(site.zone) if intensity.granularity == "annual" else None
    if area is not None and area.stands_for is None and area.table == "country" and area.code in PARTED:
        return _parts_warning(area)
    if area is None or not (area.larger or {intensity.figure.low, intensity.figure.high} & set(_parts(area))):
        return None
    low, high = number(intensity.figure.low), number(intensity.figure.high)
    why = "is of a larger area" if area.larger else "is not of that place alone"
    return (
        f"the grid intensity of {area.stands_for} {why}: its range covers {low} to {high} g/kWh; "
        "state intensity_g_per_kwh where you know it"
    )


def direct_warning(intensity: Intensity) -> str | None:
    """Return a sentence for the user where a low published value counts direct emissions only, else None. The emissions
    that it leaves out are a large part of the lifecycle emissions, which the values of countries count.
    """
    low, basis = intensity.figure.value < DIRECT_ALONE_G_PER_KWH, intensity.basis
    if intensity.granularity != "annual" or basis is None or basis.scope != "direct" or not low:
        return None
    return (
        f"the {number(intensity.figure.value)} g/kWh of {intensity.zone_name} are direct emissions only: building "
        "plants and supplying their fuel add 11 to 45 g/kWh, which the lifecycle values of countries include"
    )


def _parts_warning(area: Area) -> str | None:
    """Return a sentence for a user who names a country with published parts that differ, else None."""
    parts = _values(parts_of(area.code))
    if max(parts) < UNLIKE_PARTS * min(parts):
        return None
    return (
        f"{area.name}: a run is in one part of it, and its published parts have {number(min(parts))} to "
        f"{number(max(parts))} g/kWh; name the part, the grid zone or the cloud region{_unlike_scope(area)}"
    )


def _unlike_scope(country: Area) -> str:
    """Return words on published parts of a country whose basis differs from that of the country's own value."""
    scopes = {TABLES[row_of(part).table]().source.basis.scope for part in parts_of(country.code)}
    own = TABLES[country.table]().source.basis.scope
    return "" if scopes <= {own} else f" ({' or '.join(sorted(scopes))}; the country's own value is {own})"


def low_warning(intensity: Intensity) -> str | None:
    """Return a sentence for the user where a number, or the mean of a series, is lower than that of any grid, else
    None. A stated 0 is accepted.
    """
    value, published = intensity.figure.value, intensity.granularity == "annual"
    if not published and 0 < value < LEAST_G_PER_KWH:
        return f"the stated intensity of {value:.3g} g/kWh is below that of any grid: was {value:.3g} kg/kWh meant?"
    if published and value == CLEANEST.value and any("which no grid has" in note for note in intensity.notes):
        return f"{intensity.notes[-1]}: state one of your own"
    return None


def _notes(area: Area, row: tables.AreaIntensity, age_years: int) -> tuple[str, ...]:
    notes = []
    if area.stands_for:
        notes.append(f"{area.row_name} stands for {area.stands_for} by place")
    if age_years > FRESH_YEARS:
        notes.append(f"the newest value of {area.row_name} is of {row.year}, {age_years} years old")
    consumed = _published_consumption(area)
    if consumed is not None:
        notes.append(
            f"with imports, the electricity used in {area.row_name} has {consumed.g_per_kwh:g} g/kWh (Electricity Maps "
            f"{consumed.year}, lifecycle; zone consumption:{area.code}), and the range holds that value too"
        )
    if area.table == "country" and area.code in tables.trade():
        notes.append(
            f"{area.row_name} trades much of its electricity: the range allows for half of it from the neighbours"
        )
    if row.g_per_kwh < LEAST_G_PER_KWH and TABLES[area.table]().source.basis.scope == "lifecycle":
        notes.append(
            f"the published value of {area.row_name} is {row.g_per_kwh:g} g/kWh, which no grid has over its life; "
            f"{CLEANEST.value:g} stands in, that of hydropower (IPCC AR5)"
        )
    return tuple(notes)
