"""Turn the addresses of sources into links, so that a reader of the page can follow them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from carbon_plugin.footprint.factors import tables

if TYPE_CHECKING:
    from markupsafe import Markup

_ADDRESS = r"https?://[^\s<>\"'()]+[^\s<>\"'().,;:]"
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")


def linked(text: str) -> Markup:
    """Return a text as markup. Addresses of web pages, numbers of arXiv and names of sources with a known address
    become links.

    Everything else is escaped.
    """
    from markupsafe import Markup, escape

    parts, done = [], 0
    for match in _linkable().finditer(text):
        address = escape(_address_of(match[0]))
        parts.append(escape(text[done : match.start()]))
        parts.append(Markup(f'<a href="{address}" rel="noopener noreferrer">{escape(match[0])}</a>'))
        done = match.end()
    return Markup("").join([*parts, escape(text[done:])])


def _address_of(words: str) -> str:
    """Return the address for the name of a source. An address is returned as it is."""
    arxiv = _ARXIV.fullmatch(words)
    return f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else _named().get(words, words)


@cache
def _linkable() -> re.Pattern[str]:
    """Return the pattern of everything that becomes a link. Of names with the same beginning, the longest matches."""
    names = sorted(_named(), key=len, reverse=True)
    return re.compile("|".join([_ADDRESS, _ARXIV.pattern, *map(re.escape, names)]))


@cache
def _named() -> dict[str, str]:
    """Return the titles of the shipped tables and the names of other sources, each with its address."""
    loaders = (
        tables.country_intensities,
        tables.egrid_intensities,
        tables.gcp_intensities,
        tables.canada_intensities,
        tables.australia_intensities,
        tables.china_intensities,
    )
    titles = {source.title: source.url for source in (load().source for load in loaders)}
    return {**tables.source_addresses(), **titles}
