"""How the charts of an audit look, and how a drawing becomes markup that needs nothing from outside.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; text stays text, so that it can be searched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

RUNG_COLOURS = {"gpu": "#0072B2", "host": "#E69F00", "network": "#CC79A7", "facility": "#999999"}
PHASE_COLOURS = {
    "train": "#0072B2",
    "evaluation": "#56B4E9",
    "checkpoint": "#009E73",
    "startup": "#E69F00",
    "data_wait": "#CC79A7",
    "idle": "#999999",
}
RUNG_NAMES = {"gpu": "GPUs", "host": "hosts", "network": "network", "facility": "facility"}
LINE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#4a5560", "#b8a400")
SCOPE_NAMES = {"device": "accelerators", "host": "hosts", "network": "network", "building": "building"}
OWN_PHASE_COLOUR = "#D55E00"
"""Of phases that a training named itself."""
PHASE_NAMES = {"data_wait": "waiting for data", "startup": "start-up"}
MORE, LESS = "#D55E00", "#009E73"
INK, FAINT, BAND = "#1f2933", "#d9dee3", "#56B4E9"
_WIDTH_IN, _HEIGHT_IN = 8.6, 2.7

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Segoe UI", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def canvas_of(name: str, height_in: float = _HEIGHT_IN) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes to draw on and the function that turns them into markup. No global state of matplotlib is touched."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids in a drawing are hashes; salted by name, drawings on one page do not share clip paths.
    style: Any = {**_STYLE, "svg.hashsalt": f"carbon-plugin {name}"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)

        def finish() -> str:
            drawing = io.StringIO()
            figure.savefig(
                drawing, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
            return _inline(drawing.getvalue())

        yield figure.add_subplot(), finish


def _inline(svg: str) -> str:
    """The drawing without prologue, namespaces and fixed size: it scales with the page and names nothing outside."""
    svg = svg[svg.index("<svg") :].strip()
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    return f"{head}>{re.sub(r'<metadata>.*?</metadata>', '', rest, flags=re.DOTALL)}"


def shortened(text: str, most: int = 40) -> str:
    """A name that leaves room for the drawing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def above(axes: Any, position: float, height: float, text: str) -> None:
    """A label on top of a bar."""
    axes.annotate(text, (position, height), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8.5)


def legend(axes: Any, handles: Sequence[Any] | None = None) -> None:
    """A legend in one row above the axes, where it hides nothing."""
    arguments: dict[str, Any] = {} if handles is None else {"handles": handles}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handlelength=1.6, **arguments)
