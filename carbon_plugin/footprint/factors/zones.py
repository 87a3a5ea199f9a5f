"""Find the area of an intensity table that a user means by words such as "FRA", "Quebec" or "aws:eu-north-1".

There is no default area. A zone that is not known is an error that lists the nearest names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.zone_names import (
    Names,
    country_index,
    key_of,
    names_like,
    place_index,
    unknown_zone,
    unpublished_index,
)
from carbon_plugin.footprint.values import Basis

AreaTable = Literal["country", "consumption", "egrid", "gcp", "canada", "australia", "china"]

TABLES: dict[AreaTable, Callable[[], tables.IntensityTable]] = {
    "country": tables.country_intensities,
    "consumption": tables.consumption_intensities,
    "egrid": tables.egrid_intensities,
    "gcp": tables.gcp_intensities,
    "canada": tables.canada_intensities,
    "australia": tables.australia_intensities,
    "china": tables.china_intensities,
}
"""Every intensity table by its name in an area."""

AMBIGUOUS = {"georgia": "GEO for the country, US-GA for the state"}
"""Names that a country and a part of another one share."""
PARTED = frozenset(("AUS", "BRA", "CAN", "CHN", "IND", "ITA", "JPN", "SWE", "USA"))
"""Countries of several grid zones of which some are published; their tables are read only for these."""
DIVIDED = PARTED | {"DNK", "NOR"}
"""Countries of several grid zones, published or not."""

MOST_REGIONS = 4
"""The most cloud regions of a city that an error names."""


class Area(Struct, frozen=True, kw_only=True):
    """Describes a row of an intensity table: the table, the key of the row in it, and readable names of the place and
    of the row.

    `stands_for` is the place that the row stands for (a cloud region, a part of a country), or None where the user
    named the row itself. `larger` says that the row covers a larger area, of which the place is one part. `also` are
    other rows ("egrid:SRTV") that serve part of the place. `place` is its code in places.yaml, and `country` its
    alpha-3 code where that is known.
    """

    table: AreaTable
    code: str
    name: str
    row_name: str
    stands_for: str | None = None
    larger: bool = False
    also: tuple[str, ...] = ()
    place: str | None = None
    country: str | None = None

    @property
    def zone(self) -> str:
        """Return the place as a user would name it, or else the row."""
        row = f"{self.table}:{self.code}" if self.table in ("egrid", "gcp", "consumption") else self.code
        return self.place or row


def locate(zone: str) -> Area:
    """Return the area that a zone names. Raises `FootprintError` with the nearest names for an unknown or ambiguous
    zone.
    """
    prefix, separator, rest = zone.strip().partition(":")
    if not separator:
        return _locate_bare(prefix)
    kind = prefix.strip().lower()
    if kind == "egrid":
        return _egrid(zone, rest.strip())
    if kind == "gcp":
        return _gcp(zone, rest.strip())
    if kind == "consumption":
        return _consumption(zone, rest.strip())
    for provider in tables.cloud_regions():
        if kind == provider:
            return _mapped(zone, provider, rest.strip())
    *known, last = "egrid", "consumption", "gcp", *tables.cloud_regions()
    raise FootprintError(f"zone {zone!r}: unknown prefix {kind!r}, expected {', '.join(known)} or {last}")


def find(zone: str | None) -> Area | None:
    """Return the area that a zone names, or None for the user's own name of a place whose intensity is stated."""
    try:
        return None if zone is None else locate(zone)
    except FootprintError:
        return None


def cloud_region(zone: str | None) -> tuple[str, str] | None:
    """Return provider and region of a zone with a cloud prefix ("aws:eu-north-1" -> ("aws", "eu-north-1")), else
    None.
    """
    provider, separator, region = (zone or "").partition(":")
    provider = provider.strip().lower()
    return (provider, region.strip().lower()) if separator and provider in ("gcp", *tables.cloud_regions()) else None


def every_zone() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Return every zone in the form that a user may write, with its other names: countries, their parts, subregions,
    cloud regions.
    """
    for code, country in sorted(tables.countries().items(), key=lambda item: item[1].name):
        yield code, tuple(filter(None, (country.name, country.alpha2, *country.aliases)))
    for code, place in tables.places().items():
        yield code, (place.name, *place.aliases)
    for code, row in tables.egrid_intensities().areas.items():
        yield f"egrid:{code}", (row.name or code,)
    for code in tables.consumption_intensities().areas:
        yield f"consumption:{code}", (f"{tables.countries()[code].name}, consumption",)
    for region, row in tables.gcp_intensities().areas.items():
        yield f"gcp:{region}", (row.name,) if row.name else ()
    for provider, regions in tables.cloud_regions().items():
        for region, mapped in regions.items():
            yield f"{provider}:{region}", (mapped.place,)


def electricity_maps_zone(area: Area) -> str | None:
    """Return the name of an area at Electricity Maps, or None where it does not follow from the area."""
    if area.place is None:
        return tables.countries()[area.code].alpha2 if area.table in ("country", "consumption") else None
    parts = area.place.split("-")
    # Its zones in the USA are balancing authorities and not states, and China is one zone.
    return None if (parts[0] == "US" and len(parts) < 3) or parts[0] == "CN" else area.place


def parts_of(country: str) -> tuple[str, ...]:
    """Return the published rows of parts of a country, for instance "gcp:us-central1". The list may be empty.

    It does not contain rows of the whole country that stand for unpublished parts.
    """
    if country == "USA":
        return tuple(f"egrid:{code}" for code in tables.egrid_intensities().areas if code != "US")
    return tuple(dict.fromkeys(p.area for c, p in tables.places().items() if ":" in p.area and _within(c, country)))


def _within(place: str, country: str) -> bool:
    return place.partition("-")[0] == tables.countries()[country].alpha2


def _locate_bare(zone: str) -> Area:
    zone = _with_alpha2(zone)
    word = key_of(zone)
    if word in AMBIGUOUS:
        raise FootprintError(f"zone {zone!r} is two places: write {AMBIGUOUS[word]}")
    code = country_index().get(word)
    if code is not None:
        return _country(code)
    if zone.upper() in tables.egrid_intensities().areas:
        return _egrid(zone, zone)
    place = place_index().get(word)
    if place is not None:
        return _place(place)
    providers = _providers_of(zone.lower())
    if providers:
        forms = " or ".join(f"{provider}:{zone.lower()}" for provider in providers)
        raise FootprintError(f"zone {zone!r} is a cloud region without its provider: write {forms}")
    whole = unpublished_index().get(word) or _whole_of(zone)
    if whole is not None:
        name = tables.countries()[whole].name
        raise FootprintError(
            f"zone {zone!r}: no value of a part of {name} is in the tables; write {whole} for the country"
        )
    if cities := _regions_in(word):
        grids = " or ".join(dict.fromkeys(area.zone for area in cities.values()))
        shown = ", ".join(list(cities)[:MOST_REGIONS])
        raise FootprintError(f"zone {zone!r} is a city: write {grids} for the grid there, or a cloud region: {shown}")
    raise unknown_zone(zone, names_like(zone))


def _regions_in(city: str) -> dict[str, Area]:
    """Return the cloud regions in the place of this name, with the area of each."""
    return {
        f"{provider}:{region}": _mapped(f"{provider}:{region}", provider, region)
        for provider, regions in tables.cloud_regions().items()
        for region, row in regions.items()
        if key_of(row.place) == city
    }


def _with_alpha2(zone: str) -> str:
    """Return the code of a part with the country's alpha-2 code where it has its alpha-3 code (USA-TX -> US-TX)."""
    code, hyphen, part = zone.strip().partition("-")
    country = tables.countries().get(code.upper()) if hyphen else None
    return f"{country.alpha2}-{part}" if country and country.alpha2 else zone


def _whole_of(zone: str) -> str | None:
    """Return the country of an ISO 3166-2 code (DE-BY) if no table has parts of that country, else None."""
    country, hyphen, part = zone.strip().upper().partition("-")
    code = country_index().get(key_of(country)) if hyphen and len(country) == 2 and 0 < len(part) <= 3 else None
    published = any(place.startswith(f"{country}-") for place in tables.places())
    return None if published else code


def _country(code: str) -> Area:
    name = tables.countries()[code].name
    return Area(table="country", code=code, name=name, row_name=name, country=code)


def _consumption(zone: str, word: str) -> Area:
    """Return the row of a country's consumption. Raises `FootprintError` for a country without one."""
    areas = tables.consumption_intensities().areas
    code = country_index().get(key_of(word), word.upper())
    if code not in areas:
        names: Names = {f"consumption:{one}": (one, tables.countries()[one].name) for one in areas}
        raise unknown_zone(zone, names, word)
    name = f"{tables.countries()[code].name}, consumption"
    return Area(table="consumption", code=code, name=name, row_name=name, country=code)


def _egrid(zone: str, code: str) -> Area:
    areas = tables.egrid_intensities().areas
    row = areas.get(code.upper())
    if row is None:
        raise unknown_zone(zone, {f"egrid:{name}": (name, row.name or "") for name, row in areas.items()}, code)
    name = f"eGRID {row.name}"
    return Area(table="egrid", code=code.upper(), name=name, row_name=name, country="USA")


def _gcp(zone: str, region: str) -> Area:
    areas = tables.gcp_intensities().areas
    region = region.lower()
    row = areas.get(region)
    if row is None:
        raise unknown_zone(zone, {f"gcp:{name}": (name, row.name or "") for name, row in areas.items()}, region)
    name = f"Google {region}{f' ({row.name})' if row.name else ''}"
    country = "USA" if region.startswith("us-") else None
    return Area(table="gcp", code=region, name=name, row_name=name, country=country)


def _place(code: str) -> Area:
    """Return the row that applies to a part of a country."""
    place = tables.places()[code]
    counted = newest_of(place.area, *place.rivals)
    row = row_of(counted)
    also = (*(one for one in (place.area, *place.rivals) if one != counted), *place.also)
    if row.table in ("canada", "australia", "china"):
        return _replace(row, place=code)
    larger, called = row.table == "country", f"{place.name} ({code})"
    return _replace(row, name=place.name, stands_for=called, larger=larger, also=also, place=code)


def newest_of(first: str, *rivals: str) -> str:
    """Return the newest of the published rows of one place that count the same as the first one: its scope and its
    signal. Of rows of one year the first one counts.
    """
    basis = _table_of(first).source.basis
    alike = [row for row in (first, *rivals) if _alike(_table_of(row).source.basis, basis)]
    return max(alike, key=lambda row: _table_of(row).areas[row.rpartition(":")[2]].year)


def _alike(one: Basis, other: Basis) -> bool:
    return (one.scope, one.signal) == (other.scope, other.signal)


def _table_of(reference: str) -> tables.IntensityTable:
    return TABLES[row_of(reference).table]()


def row_of(reference: str) -> Area:
    """Return a row by its reference in places.yaml and cloud_regions.yaml: "JPN", "egrid:ERCT", "canada:CA-AB"."""
    table, separator, code = reference.partition(":")
    if not separator:
        return _country(reference)
    if table == "egrid":
        return _egrid(reference, code)
    if table == "gcp":
        return _gcp(reference, code)
    kind: AreaTable = "canada" if table == "canada" else "australia" if table == "australia" else "china"
    country = {"canada": "CAN", "australia": "AUS", "china": "CHN"}[kind]
    name = tables.places()[code].name
    return Area(table=kind, code=code, name=name, row_name=name, country=country)


def _mapped(zone: str, provider: tables.CloudProvider, region: str) -> Area:
    regions = tables.cloud_regions()[provider]
    row = regions.get(region.lower())
    if row is None:
        raise unknown_zone(zone, {f"{provider}:{name}": (name, row.place) for name, row in regions.items()}, region)
    area = _place(row.area) if row.area in tables.places() else row_of(row.area)
    # A region of another provider is not called by the name of Google's.
    name = row.place if area.table in ("gcp", "egrid") and area.place is None else area.name
    # A region is in one part of a country of several grids, also where the provider does not say in which.
    larger = area.larger or (area.table == "country" and area.code in DIVIDED)
    return _replace(area, name=name, larger=larger, stands_for=f"{provider}:{region.lower()} ({row.place})")


def _replace(area: Area, **changes: object) -> Area:
    return Area(**{**{field: getattr(area, field) for field in area.__struct_fields__}, **changes})


def _providers_of(region: str) -> list[str]:
    found: list[str] = [provider for provider, regions in tables.cloud_regions().items() if region in regions]
    return ["gcp", *found] if region in tables.gcp_intensities().areas else found
