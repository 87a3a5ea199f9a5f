"""Read traces of grid intensity from CSV or Parquet files, as described in docs/providers.md."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors.grid import LEAST_G_PER_KWH, parse_basis
from carbon_plugin.footprint.series.trace import Trace, make_trace
from carbon_plugin.footprint.values import Basis
from carbon_plugin.spec.numbers.units import G_PER_KWH_OF_LB_PER_MWH, GRAMS_PER_KG
from carbon_plugin.spec.parsing.boundary import (
    UNREADABLE,
    as_text,
    finite_number,
    in_one_sentence,
    read_bytes,
    reason_of,
    shown,
)
from carbon_plugin.spec.site import MOST_G_PER_KWH, SeriesFile

_TIME_WORDS = ("datetime", "timestamp", "pointtime", "time", "start", "from", "date")
_VALUE_WORDS = ("intensity", "gperkwh", "gco2", "moer", "aoer", "lbpermwh", "lbspermwh")
_POUNDS_A_MWH = ("moer", "aoer")
"""Marginal and average operating emission rates: WattTime's names and files, which state no unit and are in lb/MWh."""
_MARGINAL = ("marginal", "moer", "lrmer", "srmer")
"""What names of marginal rates hold: of WattTime, and the long-run and short-run ones of NREL's Cambium."""
_AVERAGE = ("average", "aoer")
_POUND_G = 1000 * G_PER_KWH_OF_LB_PER_MWH
_GRAMS = {"g": 1.0, "kg": GRAMS_PER_KG, "t": 1e6, "tonne": 1e6, "lb": _POUND_G, "pound": _POUND_G}
_KWH = {"kwh": 1.0, "mwh": 1e3, "gwh": 1e6}
_MASS = r"(?<![a-z])(kg|g|tonne|t|lb|pound)s?"
_UNIT = re.compile(_MASS + r" *(?:co2? *(?:e|eq)?(?![a-z]))? *(?:per|/)? *(kwh|mwh|gwh)")
_HALF_A_UNIT = re.compile(r"(?<![a-z])(kg|tonne|t|lb|pound)s?( |$| ?co2)|kwh|mwh|gwh")
_OTHER_UNIT = re.compile(r"(?<![a-z])(?:percent|price|cost|eur|usd|gbp|[kmgt]?j|wh)(?![a-z])")
"""Words of a name that state another unit than one of emissions by electricity."""
_OTHER_SIGNS = "%$\u20ac\u00a3"

_FIRST_YEAR, _LAST_YEAR = 1990, 2100
"""Years of which a grid has been recorded, or foretold."""
_LISTED, _LISTED_LETTERS = 12, 60

Signal = Literal["average", "marginal"]


class SeriesTable(NamedTuple):
    """Holds the names of the columns, the cells of each, and the line of the file in which each row ends."""

    names: list[str]
    columns: list[list[Any]]
    lines: Sequence[int]


def load_trace(file: str | SeriesFile, signal: Signal = "average") -> Trace:
    """Return the trace in a file: the average or the marginal emissions of a kWh over time.

    Raises `FootprintError` naming file, column or line, and what was expected. It is also raised where the column's
    name or the stated basis belongs to the other signal, because a marginal rate gives no location-based total.
    """
    wanted = SeriesFile(path=file) if isinstance(file, str) else file
    path = Path(wanted.path)
    try:
        modified_ns = path.stat().st_mtime_ns
    except OSError as error:
        raise FootprintError(f"{path}: cannot be read: {error.strerror}") from error
    return _load(wanted, modified_ns, signal)


@lru_cache(maxsize=8)
def _load(file: SeriesFile, modified_ns: int, signal: Signal) -> Trace:  # the time of change is part of the key
    path = Path(file.path)
    content = read_bytes(path, FootprintError)
    read = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv
    table = read(path, content)
    time_column = _one(path, table.names, _TIME_WORDS, "time")
    value_column = file.column or _one(path, table.names, _VALUE_WORDS, "intensity")
    basis = parse_basis(file.basis) if file.basis else None
    _check_signal(path, value_column, basis, signal)
    zone = UTC if "utc" in time_column.lower() else _timezone(path, file.timezone)
    moments, values = (_cells(path, table, column) for column in (time_column, value_column))
    known = [
        (line, moment, value)
        for line, moment, value in zip(table.lines, moments, values, strict=True)
        if value not in (None, "")  # an empty cell is a gap
    ]
    stated = _unit(path, value_column)
    unit, taken = (stated, "") if stated else _usual_unit(value_column)
    rates = [unit * _number(path, line, value_column, value) for line, _, value in known]
    _check_size(path, value_column, rates, [line for line, _, _ in known], stated=stated is not None)
    starts = _moments(path, [(line, moment) for line, moment, _ in known], zone)
    digest = hashlib.sha256(content).hexdigest()[:12]
    source = f"{file.source or path.name}, column {value_column!r}{taken}, sha256 {digest}"
    return make_trace(np.array(starts), np.array(rates), source=source, basis=basis)


def _check_signal(path: Path, column: str, basis: Basis | None, signal: Signal) -> None:
    """Raise `FootprintError` for a marginal rate in place of an average one, and for an average one in place of a
    marginal one.
    """
    other: Signal = "average" if signal == "marginal" else "marginal"
    by_name = any(word in column.lower() for word in (_MARGINAL if other == "marginal" else _AVERAGE))
    stated = basis.signal if basis is not None else None
    if stated == signal or not (by_name or stated == other):
        return
    says = f"basis {stated!r}" if stated else f"column {shown(column)}"
    use = (
        "which is never the total of a run: give it as site.marginal_series or --marginal, and an average one here"
        if other == "marginal"
        else "which says nothing about one kWh more or less: give it as site.intensity_series"
    )
    raise FootprintError(
        f"{path}: {says} is of {other} intensity, {use}; where the name misleads, state basis, for instance "
        f"lifecycle {signal} consumption"
    )


def _read_csv(path: Path, content: bytes) -> SeriesTable:
    with in_one_sentence(path, "cannot be read as CSV", FootprintError):
        rows = csv.reader(io.StringIO(as_text(content, path, FootprintError), newline=""))
        head = next(rows, None)
        if not head:
            raise FootprintError(f"{path}: is empty, expected a header line")
        body = [(rows.line_num, row) for row in rows if row]
    if len(head) == 1 and (separator := next((one for one in ";\t|" if one in head[0]), None)):
        raise FootprintError(
            f"{path}: its header is separated by {separator!r}, expected commas, with points in numbers"
        )
    for line, row in body:
        if len(row) != len(head):
            raise FootprintError(f"{path}:{line}: {len(row)} cells, expected {len(head)} as in the header")
    cells = [[row[index].strip() for _, row in body] for index in range(len(head))]
    return SeriesTable([name.strip() for name in head], cells, [line for line, _ in body])


def _read_parquet(path: Path, content: bytes) -> SeriesTable:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise FootprintError(
            f"{path}: Parquet needs pyarrow: pip install 'carbon-plugin[parquet]', or use CSV"
        ) from None
    try:
        table = read_table(io.BytesIO(content))
        columns = [column.to_pylist() for column in table.columns]
    except (OSError, ArrowException, *UNREADABLE) as error:
        raise FootprintError(f"{path}: cannot be read as Parquet: {reason_of(error)}") from None
    return SeriesTable(list(table.column_names), columns, range(2, table.num_rows + 2))


def _cells(path: Path, table: SeriesTable, column: str) -> list[Any]:
    """Return the cells of the one column of this name."""
    found = [cells for name, cells in zip(table.names, table.columns, strict=True) if name == column]
    if not found:
        raise FootprintError(f"{path}: no column {shown(column)}, expected one of {_listed(table.names)}")
    if len(found) > 1:
        raise FootprintError(
            f"{path}: {len(found)} columns are named {shown(column)}; expected a name of its own for each"
        )
    return found[0]


def _one(path: Path, columns: Iterable[str], words: Sequence[str], kind: str) -> str:
    """Return the one column whose name contains a word. The first of `words` that any name contains decides."""
    plain = {name: "".join(letter for letter in name.lower() if letter.isalnum()) for name in columns}
    if kind == "intensity":
        found = [name for name, key in plain.items() if any(w in key for w in words) and "version" not in key]
    else:
        found = next((names for word in words if (names := [n for n, key in plain.items() if word in key])), [])
    if len(found) != 1:
        several = f"several columns of {kind} ({_listed(found)})" if found else f"no column of {kind}"
        choice = "--column NAME, or column: in a run spec, says which one holds it"
        advice = choice if kind == "intensity" else "expected one named datetime, timestamp or time"
        raise FootprintError(f"{path}: {several} among {_listed(columns)}; {advice}")
    return found[0]


def _unit(path: Path, column: str) -> float | None:
    """Return the size, g/kWh, of the unit in a column's name, or None where the name states no unit."""
    words = re.sub(r"[^a-z0-9/]+", " ", column.lower().replace("\u2082", "2"))
    if stated := _UNIT.search(words):
        return _GRAMS[stated[1]] / _KWH[stated[2]]
    other = _OTHER_UNIT.search(words) or any(sign in column for sign in _OTHER_SIGNS)
    if other or _HALF_A_UNIT.search(words):
        raise FootprintError(
            f"{path}: column {shown(column)} states a unit that is not understood, expected g/kWh, kg/kWh, "
            "kg/MWh, t/MWh, t/GWh, lb/kWh or lb/MWh in its name"
        )
    return None


def _listed(names: Iterable[str]) -> str:
    """Return column names for an error: the first few, each shortened."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return (
        ", ".join(name if len(name) <= _LISTED_LETTERS else f"{name[:_LISTED_LETTERS]}..." for name in found[:_LISTED])
        + more
    )


def _usual_unit(column: str) -> tuple[float, str]:
    """Return the unit of a column that names none, g/kWh, and words for the source."""
    if any(word in column.lower() for word in _POUNDS_A_MWH):
        return G_PER_KWH_OF_LB_PER_MWH, " taken as lb/MWh, WattTime's unit"
    return 1.0, " taken as g/kWh"


def _check_size(path: Path, column: str, values: Sequence[float], lines: Sequence[int], *, stated: bool) -> None:
    """Raise `FootprintError` for values that no grid has: above the worst coal plant, or near 0 in a unit that nobody
    `stated`.
    """
    for line, value in zip(lines, values, strict=True):
        if value > MOST_G_PER_KWH:
            raise FootprintError(f"{path}:{line}: {column} is {value:g} g/kWh, expected at most {MOST_G_PER_KWH:g}")
    mean = sum(values) / len(values) if values else 0.0
    if 0 < mean < LEAST_G_PER_KWH and not stated:
        raise FootprintError(
            f"{path}: column {shown(column)} has a mean of {mean:.3g}, in g/kWh less than any grid: expected its unit "
            "in its name, such as intensity_kg_per_kwh"
        )


def _timezone(path: Path, name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise FootprintError(
            f"{path}: timezone is {name!r}, expected an IANA name such as Europe/Paris, or UTC"
        ) from None


def _number(path: Path, line: int, column: str, value: Any) -> float:
    number = finite_number(value if isinstance(value, int | float) else str(value))
    if number is None:
        raise FootprintError(
            f"{path}:{line}: {column} is {shown(value)}, expected a number, or an empty cell where none is known"
        )
    return number


def _moments(path: Path, cells: Sequence[tuple[int, Any]], zone: tzinfo | None) -> list[float]:
    """Return the Unix seconds of every cell. Moments without an offset are taken as local time of `zone`."""
    read = [(line, cell, _moment(path, line, cell)) for line, cell in cells]
    newest_first = len(read) > 1 and _naive(read[0][2]) > _naive(read[-1][2])
    moments: list[float] = []
    for line, cell, found in reversed(read) if newest_first else read:
        moment = found
        if moment.tzinfo is None:
            if zone is None:
                raise FootprintError(
                    f"{path}:{line}: {shown(cell)} has no UTC offset; give timezone, an IANA name or UTC"
                )
            moment = moment.replace(tzinfo=zone)
            # The hour that the end of summer time repeats comes twice in a row: the second one is after the change.
            if moments and moment.timestamp() <= moments[-1]:
                moment = moment.replace(fold=1)
            if _naive(moment.astimezone(UTC).astimezone(zone)) != found:
                raise FootprintError(
                    f"{path}:{line}: {shown(cell)} is skipped in {zone}, where summer time begins; a file without it "
                    "has a timezone such as UTC or Etc/GMT-1 (one hour ahead of UTC)"
                )
        moments.append(moment.timestamp())
    return moments[::-1] if newest_first else moments


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _moment(path: Path, line: int, cell: Any) -> datetime:
    try:
        moment = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell))
    except ValueError:
        raise FootprintError(
            f"{path}:{line}: {shown(cell)} is no time, expected ISO 8601 such as 2026-01-01T00:00Z"
        ) from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise FootprintError(f"{path}:{line}: {moment} is expected in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment
