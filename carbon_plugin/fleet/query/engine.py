"""Open the tables of a store in an engine: DuckDB in this process, or Spark.

Queries are written once, as Ibis expressions, and sum whole numbers, so that both engines give the same tables to the
last digit. A sum that does not fit 63 bits is an error in both, and never a wrong number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError, FleetError
from carbon_plugin.fleet.extra import needed
from carbon_plugin.fleet.store.catalogue import Catalogue, DataFile
from carbon_plugin.fleet.store.places import Location, reaching
from carbon_plugin.fleet.store.schema import TABLES, schema_of
from carbon_plugin.spec.parsing.home import CACHE_VARIABLE, cache_folder

DUCKDB = "duckdb"
LOCAL_CLUSTER = "local-cluster"
ENGINES = f"{DUCKDB}, {LOCAL_CLUSTER}, local[N], spark://HOST:PORT"
MEMORY = "1GiB"
"""DuckDB keeps this much in memory and puts the rest on disk; what Python and Arrow need comes on top."""

Months = tuple[int, int]


class Engine(Struct, frozen=True):
    """One engine holds the tables of a store by name, as Ibis expressions."""

    name: str
    tables: dict[str, Any]

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """Return the rows of an expression."""
        found: list[dict[str, Any]] = expression.to_pyarrow().to_pylist()
        return found


@contextmanager
def open_engine(
    store: Location, catalogue: Catalogue, name: str = DUCKDB, months: Months | None = None, cache: Path | None = None
) -> Iterator[Engine]:
    """Open the tables of a store. Only the files of these months are read of the hourly table.

    Files of an object store are copied to `cache` first. They stay there, because they never change. Raises
    `FleetError` for an unknown engine, a missing package, or a store that cannot be read.
    """
    if name not in (DUCKDB, LOCAL_CLUSTER) and not name.startswith(("spark://", "local[")):
        raise FleetError(f"engine {name!r}: expected one of {ENGINES}")
    if not store.is_local and name.startswith("spark://"):
        raise FleetError(
            f"{store.url}: executors of {name} cannot see the copies of an object store on this machine; give a store "
            f"on "
            "a file system that they share"
        )
    with TemporaryDirectory(prefix="carbon-fleet-") as folder:
        paths = {table: _on_disk(store, table, catalogue.files(table, months), cache, Path(folder)) for table in TABLES}
        with _duckdb(paths, Path(folder)) if name == DUCKDB else _spark(paths, name) as engine:
            yield engine


def default_cache() -> Path:
    """Return where copies of files of object stores are kept. Raises `FleetError` where the user has no folder."""
    base = cache_folder(os.environ)
    if base is None:
        raise FleetError(
            f"no home directory is known for copies of files of an object store; set {CACHE_VARIABLE} to a folder"
        )
    return base / "carbon-plugin" / "fleet"


def _on_disk(store: Location, table: str, files: Sequence[DataFile], cache: Path | None, scratch: Path) -> list[str]:
    """Return the paths of a table's files on this machine, or the path of a file without rows where there are none."""
    if not files:
        import pyarrow.parquet as pq

        empty = scratch / f"{table}.parquet"
        pq.write_table(schema_of(table).empty_table(), empty)
        return [str(empty)]
    if store.is_local:
        return [store.below(file.path).path for file in files]
    folder = cache or default_cache()
    return [str(_copied(store, file, folder)) for file in files]


def _copied(store: Location, file: DataFile, cache: Path) -> Path:
    target = cache / file.path
    if not target.exists():
        place = store.below(file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        with reaching(place, "read"):
            place.fs.get_file(place.path, str(part))
        part.replace(target)
    return target


@contextmanager
def _duckdb(paths: dict[str, list[str]], scratch: Path) -> Iterator[Engine]:
    ibis = needed("ibis", "a report of a fleet")
    connection = ibis.duckdb.connect(memory_limit=MEMORY, temp_directory=str(scratch / "spilled"))
    connection.raw_sql("SET enable_progress_bar = false")  # it would stand in the middle of a JSON document
    try:
        with _in_one_line(DUCKDB, paths):
            tables = {
                table: connection.read_parquet(found, table_name=table, hive_partitioning=False)
                for table, found in paths.items()
            }
            yield Engine(DUCKDB, tables)
    finally:
        connection.disconnect()


@contextmanager
def _spark(paths: dict[str, list[str]], name: str) -> Iterator[Engine]:
    spark = needed("pyspark.sql", f"engine {name}", "fleet,spark")
    ibis = needed("ibis", "a report of a fleet")
    master = "local-cluster[2,1,1024]" if name == LOCAL_CLUSTER else name
    with _in_one_line(name, paths):
        session = (
            spark.SparkSession.builder.master(master)
            .appName("carbon-plugin fleet")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.ansi.enabled", "true")
            .config("spark.sql.shuffle.partitions", "8")
            .getOrCreate()
        )
        try:
            connection = ibis.pyspark.connect(session)
            tables = {}
            for table, found in paths.items():
                session.read.parquet(*(f"file://{path}" for path in found)).createOrReplaceTempView(table)
                tables[table] = connection.table(table)
            yield Engine(name, tables)
        finally:
            session.stop()


@contextmanager
def _in_one_line(name: str, paths: dict[str, list[str]]) -> Iterator[None]:
    """Turn an engine's error, which may have hundreds of lines, into its first line, or into a sentence that names a
    damaged file.
    """
    try:
        yield
    except (CarbonPluginError, KeyboardInterrupt):
        raise
    except Exception as error:  # the engines' errors have no common base
        damaged = _damaged(paths)
        if damaged is not None:
            raise FleetError(
                f"{damaged}: this file of the store is missing or damaged; ingest the runs into a new store"
            ) from error
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FleetError(f"engine {name}: {type(error).__name__}: {first}") from error


def _damaged(paths: dict[str, list[str]]) -> str | None:
    """Return the first file that is missing or is not a complete Parquet file, or None where all are complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (path for found in paths.values() for path in found):
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException):
            return path
    return None
