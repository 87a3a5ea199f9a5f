"""From the words of a user ("FRA", "France", "egrid:SRVC", "aws:eu-north-1") to one area of one intensity table.

There is no default area: a zone that is not known is an error that lists the nearest names.
"""

from __future__ import annotations

import difflib
import unicodedata
from functools import cache
from typing import Literal

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint import tables

AreaTable = Literal["country", "egrid", "gcp"]

FORMS = "an ISO code (FRA, FR), a country name, egrid:SRVC, gcp:us-central1, aws:eu-north-1 or azure:westeurope"


class Area(Struct, frozen=True, kw_only=True):
    """A row of an intensity table: which table, its key there, and a readable name.

    `stands_for` is the cloud region that the row stands for by place, None where the user named the row itself.
    """

    table: AreaTable
    code: str
    name: str
    stands_for: str | None = None


def locate(zone: str) -> Area:
    """The area that a zone names. Raises `FootprintError` for an unknown or ambiguous zone, with the nearest names."""
    prefix, separator, rest = zone.strip().partition(":")
    if not separator:
        return _locate_bare(prefix)
    match prefix.strip().lower():
        case "egrid":
            return _egrid(zone, rest.strip())
        case "gcp":
            return _gcp(zone, rest.strip())
        case "aws" | "azure" as provider:
            return _mapped(zone, provider, rest.strip())
        case other:
            raise FootprintError(f"zone {zone!r}: unknown prefix {other!r}, expected egrid, gcp, aws or azure")


def find(zone: str | None) -> Area | None:
    """The area that a zone names, None for a word of the user's for a place whose intensity comes with it."""
    try:
        return None if zone is None else locate(zone)
    except FootprintError:
        return None


def cloud_region(zone: str | None) -> tuple[str, str] | None:
    """Provider and region of a zone with a cloud prefix ("aws:eu-north-1" -> ("aws", "eu-north-1")), else None."""
    provider, separator, region = (zone or "").partition(":")
    provider = provider.strip().lower()
    return (provider, region.strip().lower()) if separator and provider in ("gcp", "aws", "azure") else None


def _locate_bare(zone: str) -> Area:
    code = _country_index().get(_key(zone))
    if code is not None:
        return _country(code)
    if zone.upper() in tables.egrid_intensities().areas:
        return _egrid(zone, zone)
    providers = _providers_of(zone.lower())
    if providers:
        forms = " or ".join(f"{provider}:{zone.lower()}" for provider in providers)
        raise FootprintError(f"zone {zone!r} is a cloud region without its provider: write {forms}")
    raise _unknown(zone, _all_names())


def _country(code: str, stands_for: str | None = None) -> Area:
    return Area(table="country", code=code, name=tables.countries()[code].name, stands_for=stands_for)


def _egrid(zone: str, code: str, stands_for: str | None = None) -> Area:
    areas = tables.egrid_intensities().areas
    row = areas.get(code.upper())
    if row is None:
        raise _unknown(zone, {_key(name): f"egrid:{name}" for name in areas}, code)
    return Area(table="egrid", code=code.upper(), name=f"eGRID {row.name}", stands_for=stands_for)


def _gcp(zone: str, region: str) -> Area:
    areas = tables.gcp_intensities().areas
    row = areas.get(region.lower())
    if row is None:
        raise _unknown(zone, {_key(name): f"gcp:{name}" for name in areas}, region)
    place = f" ({row.name})" if row.name else ""
    return Area(table="gcp", code=region.lower(), name=f"Google {region.lower()}{place}")


def _mapped(zone: str, provider: tables.CloudProvider, region: str) -> Area:
    regions = tables.cloud_regions()[provider]
    row = regions.get(region.lower())
    if row is None:
        raise _unknown(zone, {_key(name): f"{provider}:{name}" for name in regions}, region)
    stands_for = f"{provider}:{region.lower()} ({row.place})"
    table, separator, code = row.area.partition(":")
    return _egrid(zone, code, stands_for) if separator else _country(table, stands_for)


def _providers_of(region: str) -> list[str]:
    found: list[str] = [provider for provider, regions in tables.cloud_regions().items() if region in regions]
    return [*found, "gcp"] if region in tables.gcp_intensities().areas else found


def _unknown(zone: str, names: dict[str, str], asked: str | None = None) -> FootprintError:
    """The error for a zone that is not known, with the nearest of `names` (search key -> how to write it)."""
    word = _key(asked or zone)
    inside = [key for key in names if len(word) >= 4 and word in key]
    like = difflib.get_close_matches(word, names, n=4, cutoff=0.6)
    # Something is always nearest: a far guess still shows what names look like.
    near = [*inside, *like] or difflib.get_close_matches(word, names, n=3, cutoff=0.0)
    nearest = list(dict.fromkeys(names[key] for key in near))[:4]
    return FootprintError(f"zone {zone!r} is unknown; nearest: {', '.join(nearest)}; expected {FORMS}")


@cache
def _country_index() -> dict[str, str]:
    """Every code and name of a country, normalised, to its alpha-3 code."""
    index: dict[str, str] = {}
    for code, country in tables.countries().items():
        for word in (code, country.alpha2, country.name, *country.aliases):
            if word:
                index[_key(word)] = code
    return index


@cache
def _all_names() -> dict[str, str]:
    names = {_key(country.name): f"{country.name} ({code})" for code, country in tables.countries().items()}
    names |= {_key(code): f"{country.name} ({code})" for code, country in tables.countries().items()}
    for code, row in tables.egrid_intensities().areas.items():
        names |= dict.fromkeys((_key(code), _key(row.name or code)), f"egrid:{code} ({row.name})")
    names |= {_key(region): f"gcp:{region}" for region in tables.gcp_intensities().areas}
    for provider, regions in tables.cloud_regions().items():
        names |= {_key(region): f"{provider}:{region}" for region in regions}
    return names


def _key(word: str) -> str:
    """Letters and digits in lower case without accents, single spaces between words."""
    plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in plain).split())
