"""Write the rows of a batch of runs as Parquet files, and remove the rows of single runs from earlier files."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.store.catalogue import DataFile, Segment
from carbon_plugin.fleet.store.places import Location, publish, reaching
from carbon_plugin.fleet.store.schema import PARTITIONED, TABLES, schema_of

if TYPE_CHECKING:
    import pyarrow

COMPRESSION = "zstd"
_KINDS = {"double": "float64"}
"""What numpy calls numbers that Arrow calls otherwise."""


class SegmentWriter:
    """Writes one segment. It gathers rows by table, and writes them when `flush` is called.

    Files are finished in `scratch`, a directory of this machine. Each is then put into the store in one step.
    """

    def __init__(self, store: Location, scratch: Path) -> None:
        self.name = uuid.uuid4().hex
        self._store = store
        self._scratch = scratch
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES if table != PARTITIONED}
        self._hours: dict[str, list[Any]] = {column: [] for column in TABLES[PARTITIONED]}
        self._files: list[DataFile] = []
        self._documents: set[str] = set()

    @property
    def waiting(self) -> int:
        """Return the number of hourly rows that wait to be written."""
        return len(self._hours["run"])

    def add(self, tables: Mapping[str, Sequence[dict[str, Any]]], hours: Mapping[str, Sequence[Any]]) -> None:
        """Add rows of some tables, and columns of the hourly table."""
        for table, rows in tables.items():
            if table == "factor":  # thousands of runs record the same factors
                self._add_factors(rows)
            else:
                self._rows[table] += rows
        for column, values in hours.items():
            self._hours[column] += values

    def _add_factors(self, rows: Sequence[dict[str, Any]]) -> None:
        new = [row for row in rows if row["factors"] not in self._documents]
        self._documents.update(row["factors"] for row in new)
        self._rows["factor"] += new

    def flush(self) -> None:
        """Write the rows that wait."""
        for table, rows in self._rows.items():
            if rows:
                columns = {name: [row.get(name) for row in rows] for name in TABLES[table]}
                self._write(table, None, arrow_table(table, columns))
            rows.clear()
        data, months = arrow_table(PARTITIONED, self._hours), np.array(self._hours["month"])
        for month in sorted(set(self._hours["month"])):
            self._write(PARTITIONED, month, data.take(_numbers(np.flatnonzero(months == month), "int64")))
        for values in self._hours.values():
            values.clear()

    def finish(self) -> Segment:
        """Write the rows that wait, and return the segment."""
        self.flush()
        return Segment(name=self.name, files=self._files)

    def _write(self, table: str, month: int | None, data: pyarrow.Table) -> None:
        self._files.append(write_file(self._store, self._scratch, table, month, data))


def arrow_table(table: str, columns: Mapping[str, Sequence[Any]]) -> pyarrow.Table:
    """Return columns of a table in Arrow's memory.

    The values are copied as bytes. Arrow's own conversion of Python lists would load pandas, which takes as long as a
    hundred runs.
    """
    import pyarrow as pa

    schema = schema_of(table)
    arrays = [
        _texts(columns[field.name]) if field.type == pa.string() else _numbers(columns[field.name], str(field.type))
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _texts(values: Sequence[str | None]) -> pyarrow.Array:
    import pyarrow as pa

    encoded = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64).astype(np.int32)
    buffers = [_known(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _numbers(values: Sequence[float | None] | NDArray[np.int64], kind: str) -> pyarrow.Array:
    import pyarrow as pa

    numbers = np.array([0 if value is None else value for value in values], dtype=_KINDS.get(kind, kind))
    return pa.Array.from_buffers(pa.type_for_alias(kind), len(numbers), [_known(values), pa.py_buffer(numbers)])


def _known(values: Sequence[Any] | NDArray[np.int64]) -> pyarrow.Buffer | None:
    """Return the bits that say which values are not None, or None where no value is None."""
    import pyarrow as pa

    known = np.array([value is not None for value in values], dtype=bool)
    return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def write_file(store: Location, scratch: Path, table: str, month: int | None, data: pyarrow.Table) -> DataFile:
    """Write one Parquet file into a store and return its place in the catalogue."""
    import pyarrow.parquet as pq

    part = f"/month={month}" if month is not None else ""
    path = f"{table}{part}/{uuid.uuid4().hex}.parquet"
    local = scratch / "part.parquet"
    order = [(name, "ascending") for name in ("run", "hour", "rung", "document") if name in data.column_names]
    pq.write_table(data.sort_by(order), local, compression=COMPRESSION)
    publish(local, store.below(path))
    return DataFile(table=table, path=path, rows=data.num_rows, month=month)


def without(store: Location, segment: Segment, gone: Collection[int], scratch: Path) -> Segment:
    """Return a segment without the rows of some runs. Files without any of these rows stay as they are."""
    return Segment(
        name=segment.name, files=[new for file in segment.files for new in _thinned(store, file, gone, scratch)]
    )


def _thinned(store: Location, file: DataFile, gone: Collection[int], scratch: Path) -> Iterable[DataFile]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if "run" not in TABLES[file.table]:
        return [file]
    data = read_file(store, file, scratch)
    kept = data.filter(pc.invert(pc.is_in(data["run"], value_set=pa.array(sorted(gone), pa.int64()))))
    if kept.num_rows == data.num_rows:
        return [file]
    return [write_file(store, scratch, file.table, file.month, kept)] if kept.num_rows else []


def read_file(store: Location, file: DataFile, scratch: Path) -> pyarrow.Table:
    """Return the rows of a file of a store.

    Raises `FleetError` where the file cannot be read, or has other rows than the catalogue says.
    """
    import pyarrow.parquet as pq

    place = store.below(file.path)
    with reaching(place, "read"):
        if place.is_local:
            data = pq.read_table(place.path, schema=schema_of(file.table), partitioning=None)
        else:
            local = scratch / "read.parquet"
            place.fs.get_file(place.path, str(local))
            data = pq.read_table(local, schema=schema_of(file.table))
    if data.num_rows != file.rows:
        raise FleetError(f"{place.url}: {data.num_rows:,} rows, but the catalogue says {file.rows:,}")
    return data
