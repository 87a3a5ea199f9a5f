"""Turn the addresses of sources into links, so that a reader of the page can follow them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from carbon_plugin.footprint.factors import tables

if TYPE_CHECKING:
    from markupsafe import Markup

_ADDRESS = re.compile(r"https?://[^\s<>\"'()]+[^\s<>\"'().,;:]")
_ATTRIBUTES = 'rel="noopener noreferrer"'


def linked(text: str) -> Markup:
    """Return a text as markup in which addresses of web pages are links, and so are titles of sources with a known
    address.

    Everything else is escaped.
    """
    from markupsafe import Markup, escape

    parts, done = [], 0
    for match in _ADDRESS.finditer(text):
        parts.append(_titled(text[done : match.start()]))
        address = escape(match[0])
        parts.append(Markup(f'<a href="{address}" {_ATTRIBUTES}>{address}</a>'))
        done = match.end()
    return Markup("").join([*parts, _titled(text[done:])])


def _titled(text: str) -> Markup:
    from markupsafe import Markup, escape

    for title, address in _titles().items():
        if title in text:
            before, after = text.split(title, 1)
            link = Markup(f'<a href="{escape(address)}" {_ATTRIBUTES}>{escape(title)}</a>')
            return escape(before) + link + escape(after)
    return escape(text)


@cache
def _titles() -> dict[str, str]:
    """Return the titles of the shipped tables, each with the address that it was taken from."""
    loaders = (
        tables.country_intensities,
        tables.egrid_intensities,
        tables.gcp_intensities,
        tables.canada_intensities,
        tables.australia_intensities,
        tables.china_intensities,
    )
    return {source.title: source.url for source in (load().source for load in loaders)}
