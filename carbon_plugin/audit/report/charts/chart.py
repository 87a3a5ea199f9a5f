"""Define a chart of a report: two drawings, the table behind them, and the data of the live chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

WIDE_PX, NARROW_PX = 860.0, 340.0
"""The widths of the two drawings: one for a desktop and paper, and one for a phone, on which the text keeps its
size."""

_WIDE_HEIGHT_PX, _NARROW_HEIGHT_PX = 240.0, 150.0

Draw = Callable[[float], str]


class Chart(Struct, frozen=True, kw_only=True):
    """One chart.

    `wide` and `narrow` are SVG markup. `headings` and `rows` are the table behind the chart, with one unit a column.
    `live` is the data from which the page's script draws the interactive chart, or None for a chart whose drawing is
    interactive by itself. `source` says where the numbers are from.
    """

    name: str
    title: str
    caption: str
    wide: str
    narrow: str
    headings: list[str]
    rows: list[list[str]]
    live: dict[str, Any] | None = None
    source: str = ""


def height_of(width_px: float) -> float:
    """Return the height of a drawing of this width, without its legend."""
    return _WIDE_HEIGHT_PX if width_px > NARROW_PX else _NARROW_HEIGHT_PX


def chart(
    name: str,
    title: str,
    caption: str,
    draw: Draw,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    live: dict[str, Any] | None = None,
) -> Chart:
    """Return a chart that is drawn in both widths by `draw`, which takes a width and returns SVG markup."""
    return Chart(
        name=name,
        title=title,
        caption=caption,
        wide=draw(WIDE_PX),
        narrow=draw(NARROW_PX),
        headings=list(headings),
        rows=[list(row) for row in rows],
        live=live,
    )
