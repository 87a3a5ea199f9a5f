"""Define the colours and names that charts and tables share.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. They are given for a light page. A
dark page sets the CSS variable `--c-NAME` of each (`show.plot.paint`).
"""

from __future__ import annotations

COLOURS = {
    "gpu": "#0072B2",
    "host": "#E69F00",
    "network": "#CC79A7",
    "facility": "#8a949e",
    "evaluation": "#56B4E9",
    "checkpoint": "#009E73",
    "more": "#D55E00",
    "less": "#009E73",
    "band": "#56B4E9",
    "slate": "#4a5560",
    "olive": "#b8a400",
    "ink": "#1f2933",
    "dim": "#59656f",
    "faint": "#9aa5b1",
    "line": "#e1e6ea",
    "paper": "#ffffff",
}
RUNG_COLOURS = {"gpu": "gpu", "host": "host", "network": "network", "facility": "facility"}
PHASE_COLOURS = {
    "train": "gpu",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "startup": "host",
    "data_wait": "network",
    "idle": "facility",
}
OWN_PHASE_COLOUR = "more"
"""The colour of phases that a training named itself."""
LINE_COLOURS = ("gpu", "host", "checkpoint", "network", "evaluation", "more", "slate", "olive")
RUNG_NAMES = {"gpu": "GPUs", "host": "hosts", "network": "network", "facility": "facility"}
SCOPE_NAMES = {"device": "accelerators", "host": "hosts", "network": "network", "building": "building"}
PHASE_NAMES = {"data_wait": "waiting for data", "startup": "start-up", "unobserved": "reserved, not recorded"}


def driver_name(scope: str) -> str:
    """Return a scope of the accounting in words."""
    kind, _, rest = scope.partition(" ")
    if kind == "energy":
        return f"energy, {rest.partition(':')[2] or rest}"
    if kind == "embodied":
        return f"embodied, {SCOPE_NAMES.get(rest, rest)}"
    return {"intensity": "grid intensity", "pue": "PUE", "utilisation": "use of the fleet"}.get(scope, scope)
