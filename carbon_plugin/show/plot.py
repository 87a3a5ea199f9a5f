"""Draw charts as SVG text with a few pure functions: scales and ticks, areas, lines, bars, marks, axes and legends.

Every function returns markup for one part of a drawing; `drawing` puts the parts together. Lengths are in units of the
drawing, which a page shows as about one pixel each. Colours are names of `show.drawing.COLOURS`: a page may replace
each by its CSS variable, and a file that stands alone shows the colour itself (`standalone`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from carbon_plugin.show.drawing import COLOURS

FONT_PX = 12
CHARACTER_PX = 6.8
"""The mean width of a character of the font; labels are placed by it."""
LEGEND_ROW_PX = 20
_SWATCH_PX = 18
_FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

Points = Sequence[float]
Tick = tuple[float, str]


class Scale(Struct, frozen=True):
    """Maps values from `low` to `high` to lengths from `start_px` to `end_px`, by their logarithm if `log` is set."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the length at which a value lies. Values outside of the scale lie at its nearer end."""
        low, high, value = (self._flat(one) for one in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start_px + (self.end_px - self.start_px) * min(1.0, max(0.0, share))

    def _flat(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


class Frame(Struct, frozen=True):
    """The size of a drawing and the scales of the two axes inside it."""

    width_px: float
    height_px: float
    x: Scale
    y: Scale


def frame(
    width_px: float,
    height_px: float,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    left_px: float = 56,
    right_px: float = 14,
    top_px: float = 10,
    bottom_px: float = 42,
    log: bool = False,
) -> Frame:
    """Return a frame for values from x[0] to x[1] and y[0] to y[1], with margins for axes. y[0] is at the bottom."""
    return Frame(
        width_px,
        height_px,
        Scale(*x, left_px, width_px - right_px, log),
        Scale(*y, height_px - bottom_px, top_px, log),
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most about `most` round numbers (1, 2 or 5 times a power of ten) from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [position * step for position in range(first, last + 1)]


def labelled(values: Sequence[float]) -> list[Tick]:
    """Return ticks as text with just enough decimals to tell them apart."""
    gap = min((abs(after - before) for before, after in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9)) if gap > 0 else 0
    return [(value, f"{value + 0.0:,.{decimals}f}") for value in values]


def paint(colour: str) -> str:
    """Return a colour by its name, as the CSS variable of a page, with the colour itself as the value outside of a
    page.
    """
    return f"var(--c-{colour},{COLOURS[colour]})"


def area(of: Frame, xs: Points, lows: Points, highs: Points, colour: str, *, opacity: float = 0.85) -> str:
    """Draw the area between two lines."""
    there = _corners([(of.x.at(x), of.y.at(y)) for x, y in zip(xs, highs, strict=True)])
    back = _corners([(of.x.at(x), of.y.at(y)) for x, y in zip(reversed(xs), reversed(lows), strict=True)])
    path = "M" + "L".join([*there, *back]) + "Z"
    return f'<path d="{path}" fill="{paint(colour)}" fill-opacity="{opacity}"/>'


def line(
    of: Frame,
    xs: Points,
    ys: Sequence[float | None],
    colour: str,
    *,
    dashed: bool = False,
    width_px: float = 1.6,
    opacity: float = 1.0,
) -> str:
    """Draw a line through points. It is interrupted where a value is None, and a point between two gaps
    becomes a dot.
    """
    dash = ' stroke-dasharray="6 3"' if dashed else ""
    pieces, dots = [], []
    for known, group in groupby(zip(xs, ys, strict=True), key=lambda point: point[1] is not None):
        points = _corners([(of.x.at(x), of.y.at(y)) for x, y in group if y is not None])
        if known and len(points) > 1:
            pieces.append("M" + "L".join(points))
        elif known:
            x, y = points[0].split(",")
            dots.append(f'<circle cx="{x}" cy="{y}" r="2.2" fill="{paint(colour)}"/>')
    faint = f' stroke-opacity="{opacity}"' if opacity < 1 else ""
    path = f'<path d="{"".join(pieces)}" fill="none" stroke="{paint(colour)}" stroke-width="{width_px}"{dash}{faint}/>'
    return (path if pieces else "") + "".join(dots)


def steps(xs: Points, ys: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """Return the corners of a line that keeps each value of `ys` between two neighbouring edges. `xs` has one edge more
    than there are values.
    """
    corners = [x for start, end in pairwise(xs) for x in (start, end)]
    return corners, [y for y in ys for _ in range(2)]


def box(
    left_px: float, top_px: float, width_px: float, height_px: float, colour: str, tip: str = "", opacity: float = 1.0
) -> str:
    """Draw a rectangle. With `tip`, keyboard and pointer can reach it, and it shows that text."""
    faint = f' fill-opacity="{opacity}"' if opacity < 1 else ""
    place = f'x="{_px(left_px)}" y="{_px(top_px)}" width="{_px(max(width_px, 0.5))}" height="{_px(height_px)}"'
    shape = f'<rect {place} rx="1.5" fill="{paint(colour)}"{faint}'
    if not tip:
        return f"{shape}/>"
    return f"{shape}{_telling(tip)}</rect>"


def rule(x1: float, y1: float, x2: float, y2: float, colour: str = "ink", width_px: float = 1) -> str:
    """Draw a straight line."""
    ends = f'x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}"'
    return f'<line {ends} stroke="{paint(colour)}" stroke-width="{width_px}"/>'


def dot(x: float, y: float, colour: str, *, hollow: bool = False, crossed: bool = False, tip: str = "") -> str:
    """Draw a round mark, a hollow one, or a cross."""
    if crossed:
        corners = f"M{_px(x - 3)},{_px(y - 3)}l6,6m0,-6l-6,6"
        return f'<path d="{corners}" stroke="{paint(colour)}" stroke-width="1.8" fill="none"/>'
    fill = paint("paper") if hollow else paint(colour)
    shape = f'<circle cx="{_px(x)}" cy="{_px(y)}" r="3.6" fill="{fill}" stroke="{paint(colour)}" stroke-width="1.4"'
    if not tip:
        return f"{shape}/>"
    return f"{shape}{_telling(tip)}</circle>"


def words(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = "ink",
    bold: bool = False,
    turned: bool = False,
) -> str:
    """Write text with its baseline at (x, y); `anchor` says which part of it lies at x."""
    turn = f' transform="rotate(-90 {_px(x)} {_px(y)})"' if turned else ""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}" fill="{paint(colour)}"{weight}{turn}>'
        f"{escape(_printable(text))}</text>"
    )


def width_of(text: str) -> float:
    """Return the approximate width of a text."""
    return CHARACTER_PX * len(text)


def x_axis(of: Frame, marks: Sequence[Tick], label: str = "", *, grid: bool = False) -> str:
    """Draw the horizontal axis below a frame with its marks. A label that would touch the one before is left out."""
    bottom, parts, free_px = of.y.start_px, [], -math.inf
    for value, text in sorted(marks, key=lambda mark: of.x.at(mark[0])):
        at, half = of.x.at(value), width_of(text) / 2
        if grid:
            parts.append(rule(at, of.y.end_px, at, bottom, "line", 0.8))
        if at - half > free_px:
            parts.append(rule(at, bottom, at, bottom + 4, "faint"))
            at = min(at, of.width_px - half - 2)
            parts.append(words(at, bottom + 17, text, anchor="middle", colour="dim"))
            free_px = at + half + 6
    parts.append(rule(of.x.start_px, bottom, of.x.end_px, bottom, "faint"))
    if label:
        parts.append(words((of.x.start_px + of.x.end_px) / 2, bottom + 35, label, anchor="middle", colour="dim"))
    return "".join(parts)


def y_axis(of: Frame, marks: Sequence[Tick], label: str = "") -> str:
    """Draw the vertical axis left of a frame with its marks and a grid line for each."""
    parts = []
    for value, text in marks:
        at = of.y.at(value)
        parts.append(rule(of.x.start_px, at, of.x.end_px, at, "line", 0.8))
        parts.append(words(of.x.start_px - 6, at + 4, text, anchor="end", colour="dim"))
    if label:
        middle = (of.y.start_px + of.y.end_px) / 2
        parts.append(words(12, middle, label, anchor="middle", colour="dim", turned=True))
    return "".join(parts)


def legend(entries: Sequence[tuple[str, str]], width_px: float, left_px: float = 8) -> tuple[str, float]:
    """Return a legend of (colour, text) in as many rows as `width_px` asks for, and its height."""
    x, y, parts = left_px, 14.0, []
    most = int((width_px - left_px - _SWATCH_PX) / CHARACTER_PX)
    for colour, name in entries:
        text = shortened(name, most)
        needed = _SWATCH_PX + width_of(text) + 14
        if x > left_px and x + needed > width_px:
            x, y = left_px, y + LEGEND_ROW_PX
        parts.append(box(x, y - 9, 12, 10, colour) + words(x + _SWATCH_PX, y, text))
        x += needed
    return "".join(parts), y + 8 if entries else 0.0


def shortened(text: str, most: int = 40) -> str:
    """Return a name cut to `most` characters, which leaves room for the drawing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def drawing(width_px: float, height_px: float, parts: Sequence[str], *, top: tuple[str, float] = ("", 0.0)) -> str:
    """Return the parts as one drawing that scales with its page. `top` is a legend with its height, which is placed
    above them.
    """
    head, above_px = top
    body = "".join(parts)
    if above_px:
        body = f'{head}<g transform="translate(0 {_px(above_px)})">{body}</g>'
    size = f'viewBox="0 0 {_px(width_px)} {_px(height_px + above_px)}"'
    return f'<svg {size} font-family="{_FONTS}" font-size="{FONT_PX}">{body}</svg>'


def standalone(svg: str) -> str:
    """Return a drawing as a file of its own, on a white ground and without CSS variables."""
    plain = re.sub(r"var\(--c-\w+,(#\w+)\)", r"\1", svg)
    return plain.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" style="background: white"', 1) + "\n"


def _corners(points: Sequence[tuple[float, float]]) -> list[str]:
    """Return points as text, without points on a horizontal or vertical line between their neighbours."""
    texts = [(_px(x), _px(y)) for x, y in points]
    kept = texts[:1]
    for before, here, after in zip(texts, texts[1:], texts[2:], strict=False):
        if not (before[1] == here[1] == after[1] or before[0] == here[0] == after[0]):
            kept.append(here)
    return [f"{x},{y}" for x, y in [*kept, *texts[max(1, len(texts) - 1) :]]]


def _telling(tip: str) -> str:
    """Return the markup by which a shape shows its text at the pointer and at the focus. The shape is still to be
    closed.
    """
    text = _printable(tip)
    return f' class="tip" tabindex="0" role="img" aria-label={quoteattr(text)}><title>{escape(text)}</title>'


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _printable(text: str) -> str:
    """Remove control characters, which no XML document may contain."""
    return "".join(character if character.isprintable() else " " for character in text)
