"""Write rows into a file of the run: comma-separated values, or one JSON object a line."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import msgspec

from carbon_plugin.sinks.row import HEAD_KEY, Row, Scalar
from carbon_plugin.sinks.sink import Sink

FIRST_COLUMNS = ("unix_s", "step", HEAD_KEY)


class _FileSink(Sink):
    """A file to which each row is appended. It is open only while a row is written, so that no forked child has it."""

    default = ""

    def __init__(self, target: str = "") -> None:
        self._target = Path(target).absolute() if target else None

    def _path(self, row: Row) -> Path:
        path = self._target if self._target is not None else row.run.run_dir / self.default
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class CsvSink(_FileSink):
    """Writes comma-separated values with a column for each figure into `metrics.csv` in the run directory, or into the
    file that the target names.

    A figure that appears later, such as a projection, gets a column of its own; the file is then written again, with
    empty cells in the earlier rows.
    """

    name = "csv"
    default = "metrics.csv"

    def write(self, row: Row) -> None:
        """Append one row. A file from an earlier attempt is continued."""
        path, cells = self._path(row), cells_of(row)
        columns = _columns_of(path)
        new = [name for name in cells if name not in columns]
        if new:
            _rewrite(path, [*columns, *new])
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line([*columns, *new], cells))


class JsonLinesSink(_FileSink):
    """Writes one JSON object for each row into `metrics.jsonl` in the run directory, or into the file that the target
    names.
    """

    name = "jsonl"
    default = "metrics.jsonl"

    def write(self, row: Row) -> None:
        """Append one row."""
        with self._path(row).open("ab") as file:
            file.write(msgspec.json.encode(cells_of(row)) + b"\n")


def cells_of(row: Row) -> dict[str, Scalar]:
    """Return a row as flat values by column."""
    head: dict[str, Scalar] = {} if row.head is None else {HEAD_KEY: row.head}
    return {"unix_s": round(row.at_unix_s, 3), "step": row.step, **head, **row.metrics}


def _columns_of(path: Path) -> list[str]:
    """Return the columns of a file, or the usual first columns for a file without any."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), list(FIRST_COLUMNS))
    except FileNotFoundError:
        return list(FIRST_COLUMNS)


def _rewrite(path: Path, columns: list[str]) -> None:
    """Write a file again with more columns. It is replaced in one step, so that a reader never sees half of it."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    half = path.with_name(path.name + ".part")
    with half.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(half, path)


def _line(columns: list[str], cells: dict[str, Scalar]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerow(cells)
    return text.getvalue()
