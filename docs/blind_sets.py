"""Writes the tables of the blind sets in the README and in `validation.md`. Run by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from marked_tables import replace_marked, table

from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.step.blind_sets import BlindError, blind_errors

DOCS = Path(__file__).parent
PAGE, README = DOCS / "validation.md", DOCS.parent / "README.md"
HEADINGS = ("blind set", "what it holds", "models", "lines", "rows", "mean error", "bias", "median row", "range held")
OF_A_KIND = ("sources", "mean error (median row)", "80 % range held")
KINDS = ("dense", "mixtures")
README_HEADINGS = ("blind set", *(f"{kind}: {heading}" for kind in KINDS for heading in OF_A_KIND))


def by_set(errors: Sequence[BlindError]) -> str:
    """Return every figure of each set, the newest set first."""
    return table(
        HEADINGS,
        [
            [
                f"{one.blind_set.name} ({one.blind_set.collection} collection)",
                one.blind_set.holds,
                one.kind,
                str(one.lines),
                str(one.rows),
                f"**{percent(one.mean / 100, 1)}**",
                f"{one.bias:+.1f} %",
                percent(one.median / 100, 1),
                percent(one.inside_range / 100, 0),
            ]
            for one in newest_first(errors)
        ],
    )


def in_short(errors: Sequence[BlindError]) -> str:
    """Return what the README says of each set, in one line for both kinds of model."""
    lines: dict[str, dict[str, list[str]]] = {}
    for one in newest_first(errors):
        lines.setdefault(one.blind_set.name, {})[one.kind] = [
            str(one.lines),
            f"{percent(one.mean / 100, 1)} ({percent(one.median / 100, 1)})",
            percent(one.inside_range / 100, 0),
        ]
    absent = [""] * len(OF_A_KIND)
    return table(
        README_HEADINGS,
        [[name, *(cell for kind in KINDS for cell in of.get(kind, absent))] for name, of in lines.items()],
    )


def newest_first(errors: Sequence[BlindError]) -> list[BlindError]:
    """Return the errors in the order of the pages, dense models before mixtures within a set of one name."""
    names = list(dict.fromkeys(one.blind_set.name for one in errors))
    return sorted(errors, key=lambda one: (-names.index(one.blind_set.name), one.kind))


def write(page: Path, readme: Path) -> None:
    """Replace what stands between the markers of the two pages."""
    errors = blind_errors()
    replace_marked(page, {"blind sets": by_set(errors)})
    replace_marked(readme, {"blind sets": in_short(errors)})


if __name__ == "__main__":
    write(PAGE, README)
    sys.stdout.write(f"wrote {PAGE} and {README}\n")
