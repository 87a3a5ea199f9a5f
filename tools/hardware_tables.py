"""Write the numbers of the shipped hardware profiles from what was published of each device and node.

    python -m tools.rebuild hardware   # reads tools/sources/hardware.csv, writes hardware_profiles/*/*.yaml
    python -m tools.hardware_tables    # adds a row for each number of a profile that the CSV does not have

A row is one number of a profile: the field, value and range, the key of its source, its confidence (`read` in a primary
text, `read2` in one that quotes it, `memory`, `derived` from numbers that were read, `assumed`), a note, what was
published with its year, the address, and the words or the row of the table that say it, where they are kept. To change
a number, change its row and run this. A new profile is written by hand and then collected.

Numbers that another command writes have no row: constants of the step-time model (`make calibrate`) and hosts by the
model of servers (`tools/host_model.py`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from carbon_plugin.footprint.factors import tables

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ROOT / "hardware_profiles"
SOURCE = ROOT / "tools" / "sources" / "hardware.csv"

COLUMNS = (
    "profile",
    "field",
    "value",
    "low",
    "high",
    "source",
    "confidence",
    "note",
    "published",
    "address",
    "quotation",
)
OTHER_COMMANDS = ("calibration", "host-model")
"""The sources of numbers that other commands write."""

_NUMBER = re.compile(r"^( *)([\w-]+): (\{value: .*\})(  #.*)?$")
_KEY = re.compile(r"^( *)([\w-]+):( .*)?$")
_SOURCE_LINE = re.compile(r'^  ([\w-]+): "(.*)"$')
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")

Row = dict[str, str]
Rows = Mapping[tuple[str, str], Row]


class NumberLine(NamedTuple):
    """A line of a profile that states a number: its place in the file, its field, and its parts as they are written."""

    index: int
    field: str
    row: Row


def profiles() -> list[Path]:
    """Return the files of the shipped profiles."""
    return sorted(PROFILES.glob("*/*.yaml"))


def read_rows() -> list[Row]:
    """Return the rows of the source file."""
    with SOURCE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_place(rows: Sequence[Row]) -> Rows:
    """Return rows by profile and field."""
    return {(row["profile"], row["field"]): row for row in rows}


def numbers_of(text: str) -> Iterator[NumberLine]:
    """Yield the numbers of a profile that no other command writes."""
    path: list[tuple[int, str]] = []
    for index, line in enumerate(text.splitlines()):
        key = _KEY.match(line)
        if key is None:
            continue
        indent = len(key[1])
        path = [*((depth, name) for depth, name in path if depth < indent), (indent, key[2])]
        found = _NUMBER.match(line)
        if found is None:
            continue
        stated = {name: str(value) for name, value in yaml.load(found[3], Loader=yaml.BaseLoader).items()}
        if stated["source"] not in OTHER_COMMANDS:
            yield NumberLine(index, ".".join(name for _, name in path), stated)


def written(path: Path, rows: Rows) -> str:
    """Return the text of a profile with the numbers and the sources that its rows state."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    published = {}
    for number in numbers_of(text):
        row = rows.get((path.stem, number.field))
        if row is None:
            raise SystemExit(f"{path}: {number.field} has no row in {SOURCE.name}; run python -m tools.hardware_tables")
        found = _NUMBER.match(lines[number.index])
        assert found is not None
        lines[number.index] = f"{found[1]}{found[2]}: {_flow(row)}{found[4] or ''}"
        published[row["source"]] = row["published"]
    return "\n".join(_with_sources(lines, published))


def _with_sources(lines: list[str], published: Mapping[str, str]) -> list[str]:
    """Return the lines of a profile whose block of sources names those of its numbers, and no others."""
    start = lines.index("sources:") + 1
    end = next(index for index in range(start, len(lines) + 1) if index == len(lines) or not lines[index].strip())
    block = []
    for line in lines[start:end]:
        source = _SOURCE_LINE.match(line)
        key = source[1] if source else ""
        if key in published:
            block.append(f'  {key}: "{published[key]}"')
        elif key in OTHER_COMMANDS or source is None:
            block.append(line)
    stated = {source[1] for line in block if (source := _SOURCE_LINE.match(line))}
    block += [f'  {key}: "{words}"' for key, words in published.items() if key not in stated]
    return [*lines[:start], *block, *lines[end:]]


def _flow(row: Row) -> str:
    parts = [f"{name}: {row[name]}" for name in ("value", "low", "high", "source", "confidence") if row[name]]
    return "{" + ", ".join([*parts, *([f'note: "{row["note"]}"'] if row["note"] else [])]) + "}"


def collect(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each number of the shipped profiles, those that have one as they are."""
    known = by_place(rows)
    found = []
    for path in profiles():
        text = path.read_text(encoding="utf-8")
        titles = yaml.safe_load(text).get("sources", {})
        for number in numbers_of(text):
            title = titles.get(number.row["source"], "")
            new = dict.fromkeys(COLUMNS, "") | number.row
            new |= {"profile": path.stem, "field": number.field, "published": title, "address": _address(title)}
            found.append(known.get((path.stem, number.field), new))
    return found


def _address(title: str) -> str:
    arxiv = _ARXIV.search(title)
    if arxiv:
        return f"https://arxiv.org/abs/{arxiv[1]}"
    named = tables.source_addresses()
    return next((named[words] for words in sorted(named, key=len, reverse=True) if words in title), "")


if __name__ == "__main__":
    every = collect(read_rows())
    with SOURCE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)
