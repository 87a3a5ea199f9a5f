"""Find countries and parts of countries by the names that people write, and the nearest names of an unknown zone.

`footprint.factors.zones` finds the row of an intensity table that a name stands for.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors import tables
from carbon_plugin.spec.parsing.names import nearest

FORMS = (
    "an ISO code (FRA, FR), a country, a part of AU, BR, CA, CN, DK, IN, IT, JP, NO, SE or US (Texas, US-TX, CA-QC), "
    "egrid:SRVC, consumption:CHE, or a provider with its region (gcp:us-central1, aws:eu-north-1, lambda:us-south-1, "
    "nebius:eu-north1)"
)
_MOST_SHOWN = 4
_CLOSE = 0.65
"""Share of a zone's name that is as typed where it may be meant: one letter of a code of three may be wrong, and Utopia
is not Ethiopia."""

Names = dict[str, tuple[str, ...]]
"""How to write a zone -> the names that it goes by."""


def unknown_zone(zone: str, names: Names, asked: str | None = None) -> FootprintError:
    """Return the error for an unknown zone, with the nearest names of the same kind."""
    word = key_of(asked or zone)
    keys = {how: tuple(map(key_of, forms)) for how, forms in names.items()}
    shown = nearest(word, keys, keys, close=_CLOSE)[:_MOST_SHOWN]
    near = f"nearest: {', '.join(shown)}; " if shown else ""
    return FootprintError(f"zone {zone!r} is unknown; {near}expected {FORMS}; `carbon-plugin list zones` has all")


def names_like(zone: str) -> Names:
    """Return the names of the kind that a word resembles: codes of parts of one country, cloud regions, or places."""
    country, hyphen, _ = zone.strip().upper().partition("-")
    parts: Names = {code: (code,) for code in tables.places() if hyphen and code.startswith(f"{country}-")}
    if parts or any(letter.isdigit() for letter in zone):
        return parts | {region: (region.partition(":")[2],) for region in _cloud_places()}
    names: Names = {
        f"{country.name} ({code})": (code, country.name, *country.aliases)
        for code, country in tables.countries().items()
    }
    names |= {f"{place.name} ({code})": (place.name, *place.aliases) for code, place in tables.places().items()}
    for code, row in tables.egrid_intensities().areas.items():
        names[f"egrid:{code} ({row.name})"] = (code, row.name or code)
    return names | {f"{region} ({place})": (place,) for region, place in _cloud_places().items()}


def _cloud_places() -> dict[str, str]:
    """Return every cloud region with its provider, and the place where it is."""
    found = {f"gcp:{region}": row.name or region for region, row in tables.gcp_intensities().areas.items()}
    for provider, regions in tables.cloud_regions().items():
        found |= {f"{provider}:{region}": row.place for region, row in regions.items()}
    return found


@cache
def country_index() -> dict[str, str]:
    """Map every normalised code and name of a country to its alpha-3 code."""
    index: dict[str, str] = {}
    for code, country in tables.countries().items():
        for word in (code, country.alpha2, country.name, *country.aliases):
            if word:
                index[key_of(word)] = code
    return index


@cache
def unpublished_index() -> dict[str, str]:
    """Map every normalised name of a part without a published value to the alpha-3 code of its country."""
    return {key_of(name): country for country, names in tables.unpublished_parts().items() for name in names}


@cache
def place_index() -> dict[str, str]:
    """Map every normalised code and name of a part of a country to its code. Of two parts with one name the first
    counts.
    """
    index: dict[str, str] = {}
    for code, place in tables.places().items():
        for word in (code, place.name, *place.aliases):
            index.setdefault(key_of(word), code)
    return index


def key_of(word: str) -> str:
    """Return letters and digits in lower case without accents, with single spaces between words."""
    plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in plain).split())
