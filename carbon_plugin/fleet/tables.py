"""Write the lines of accounts as CSV, Parquet or JSON, by the suffix of a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.accounts import AccountLine, Accounts
from carbon_plugin.spec.parsing.saving import save

SUFFIXES = (".json", ".csv", ".parquet", ".html")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""


def checked_suffix(path: Path) -> Path:
    """Return a path whose suffix names a format that can be written. Raises `FleetError` for any other suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise FleetError(
            f"{path}: accounts are written as {', '.join(SUFFIXES)}, not as {path.suffix or 'a file without suffix'}"
        )
    return path


def write(accounts: Accounts, path: Path) -> None:
    """Write accounts: all of them as JSON or as a page, or the lines by group and month as CSV or Parquet.

    The file is replaced in one step. Raises `FleetError` where it cannot be written.
    """
    suffix = checked_suffix(path).suffix.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, as_parquet(accounts) if suffix == ".parquet" else _bytes(accounts, suffix))
    except OSError as error:
        raise FleetError(f"{path}: cannot be written: {error.strerror or error}") from None


def as_parquet(accounts: Accounts) -> bytes:
    """Return the lines of accounts by group and month as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_flat(line) for line in accounts.lines]), content)
    return content.getvalue()


def as_json(accounts: Accounts) -> bytes:
    """Return accounts as one JSON document."""
    document: bytes = msgspec.json.format(msgspec.json.encode(accounts), indent=2)
    return document + b"\n"


def as_csv(accounts: Accounts) -> str:
    """Return the lines by group and month as CSV. A spreadsheet takes no cell for a formula."""
    rows = [_flat(line) for line in accounts.lines]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _bytes(accounts: Accounts, suffix: str) -> bytes:
    if suffix == ".csv":
        return as_csv(accounts).encode()
    if suffix == ".html":
        from carbon_plugin.fleet.page.page import render

        return render(accounts).encode()
    return as_json(accounts)


def _flat(line: AccountLine) -> dict[str, Any]:
    """Return a line as one flat row: its groups, its month, its figures, and its waste."""
    plain = msgspec.to_builtins(line)
    group, waste = plain.pop("group"), plain.pop("waste")
    month = plain.pop("month")
    text = f"{month // 100}-{month % 100:02d}"
    return {**group, "month": text, **plain, **{f"waste_{name}": value for name, value in waste.items()}}


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
