"""What a fleet costs: runs ingested a second, an ingest that finds nothing new, and a report over many hours.

    python benchmarks/fleet.py --page              # 3,000 runs and 100 million rows: five to ten minutes
    python benchmarks/fleet.py --runs 600 --rows 5000000

1. Ingest: the runs of `fleet_generator` from a cold start, in one process and in as many as are used by default, beside
   `programme`'s way of adding them up (an audit of each run).
2. Again: the same store with nothing new.
3. Query: a store with so many rows by the hour, written as Parquet without ledgers, reported by team and month by
   DuckDB, beside pandas that reads the same files and adds up the same columns.

Seconds of the processor are those of the process and of all that it started, with the start of the package. Peak memory
is that of the largest of these processes. Writes benchmarks/results/fleet.json, and with --page the table of
docs/fleet.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from fleet_generator import HARDWARE, PROGRAMMES, REGIONS, ROLES, TEAMS, Shape, write_fleet

from carbon_plugin.fleet.store.catalogue import Catalogue, DataFile, Entry, Segment
from carbon_plugin.fleet.store.schema import DIMENSIONS, STORE_VERSION, SUMS, TABLES, month_number, schema_of

RESULTS = Path(__file__).parent / "results" / "fleet.json"
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "fleet.md"
BEGIN, END = "<!-- written by benchmarks/fleet.py -->", "<!-- end -->"
FIRST_HOUR = 1_735_689_600 // 3600  # 2025-01-01 00:00 UTC
HOURS = 365 * 24
ROWS_A_FILE = 2_000_000

INGEST = (
    "from carbon_plugin.fleet.ingest import ingest\n"
    "processes = int(sys.argv[3]) if sys.argv[3:] else None\n"
    "count = ingest([sys.argv[1]], sys.argv[2], processes=processes).held"
)
AUDIT = "from carbon_plugin.audit.programme_runs import summaries_of; count = len(summaries_of([sys.argv[1]]))"
REPORT = (
    "from carbon_plugin.fleet.report import Asked, report; count = report(sys.argv[1], Asked(by=('team',))).totals.runs"
)
QUERY = (
    "from carbon_plugin.fleet.query import queries; from carbon_plugin.fleet.query.engine import open_engine; "
    "from carbon_plugin.fleet.store.catalogue import read_catalogue; "
    "from carbon_plugin.fleet.store.places import open_place; place = open_place(sys.argv[1])\n"
    "with open_engine(place, read_catalogue(place)) as engine:\n"
    "    rows = queries.sums_by(engine, ['team', 'month'])\n"
    "count = sum(row['energy_mj'] for row in rows)"
)
PANDAS = (
    "import glob; import pandas as pd\n"
    "runs = pd.concat(map(pd.read_parquet, glob.glob(sys.argv[1] + '/run/*.parquet')))\n"
    "columns = ['run', 'month', *sys.argv[2].split(',')]\n"
    "files = glob.glob(sys.argv[1] + '/hour/*/*.parquet')\n"
    "hours = pd.concat([pd.read_parquet(file, columns=columns, partitioning=None) for file in files])\n"
    "joined = hours.groupby(['run', 'month']).sum().reset_index().merge(runs[['run', 'team']], on='run')\n"
    "count = int(joined.groupby(['team', 'month']).sum().energy_mj.sum())"
)


def measured(script: str, *arguments: str) -> dict[str, Any]:
    """Return seconds, CPU seconds and peak memory of a script in a fresh process, and the `count` that it found."""
    told = (
        "import json, resource, sys, time\n"
        "wall, cpu = time.perf_counter(), time.process_time()\n"
        f"{script}\n"
        "wall, cpu = time.perf_counter() - wall, time.process_time() - cpu\n"
        "others = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "status = open('/proc/self/status').read().split()\n"
        "peak = max(int(status[status.index('VmHWM:') + 1]), others.ru_maxrss)\n"
        "print(json.dumps({'wall_s': wall, 'cpu_s': cpu + others.ru_utime + others.ru_stime, "
        "'peak_bytes': 1024 * peak, 'count': count}))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", told, *arguments], capture_output=True, text=True, check=False, env=environ
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_ingest(folder: Path, runs: int) -> dict[str, Any]:
    root, store = folder / "runs", folder / "store"
    write_fleet(root, runs, Shape())
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    alone = measured(INGEST, str(root), str(folder / "alone"), "1")
    first = measured(INGEST, str(root), str(store))
    again = measured(INGEST, str(root), str(store))
    audits = measured(AUDIT, str(root))
    return {
        "runs": runs,
        "bytes": size,
        "in_one_process": alone,
        "first": first,
        "runs_per_cpu_s": runs / alone["cpu_s"],
        "again_unchanged": again,
        "as_audits": audits,
        "store_bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
        "report": measured(REPORT, str(store)),
    }


def write_hours(store: Path, rows: int, runs: int) -> None:
    """Write a store of so many rows by the hour, over one year, without ledgers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    numbers = np.arange(runs, dtype=np.int64) * 7_919 + 1
    files = []
    for name in TABLES:
        (store / name).mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {}
    for column, kind in TABLES["run"].items():
        columns[column] = [""] * runs if kind == "text" else np.zeros(runs, dtype=np.int64)
    columns["run"] = numbers
    columns["run_id"] = [f"{number:032x}" for number in range(runs)]
    for name, values in (("team", TEAMS), ("programme", PROGRAMMES), ("role", ROLES), ("region", REGIONS)):
        columns[name] = [values[number % len(values)] for number in range(runs)]
    columns["hardware"] = [list(HARDWARE)[number % len(HARDWARE)] for number in range(runs)]
    for name in DIMENSIONS:
        columns[name] = columns[name] if columns[name][0] else ["not stated"] * runs
    columns["scope"] = ["lifecycle"] * runs
    for name in ("has_lifecycle", "has_embodied"):
        columns[name] = np.ones(runs, dtype=np.int64)
    pq.write_table(pa.Table.from_pydict(columns, schema_of("run")), store / "run" / "all.parquet")
    files.append(DataFile(table="run", path="run/all.parquet", rows=runs))
    months = np.array([month_number(3600 * (FIRST_HOUR + hour)) for hour in range(HOURS)], dtype=np.int32)
    by_month = {int(month): np.flatnonzero(months == month) for month in np.unique(months)}
    part = 0
    for month, hours in by_month.items():
        left = rows * len(hours) // HOURS
        while left > 0:
            count = min(left, ROWS_A_FILE)
            data: dict[str, Any] = {
                "run": np.sort(rng.choice(numbers, count)),
                "attempt": np.zeros(count, dtype=np.int32),
                "rung": pa.array(np.array(["gpu", "host", "network"])[np.arange(count) % 3]),
                "hour": (FIRST_HOUR + rng.choice(hours, count)).astype(np.int32),
                "region": np.full(count, "FRA"),
                "region_name": np.full(count, "France"),
                "month": np.full(count, month, dtype=np.int32),
            }
            energy = rng.integers(10**9, 10**10, count)
            for name in SUMS:
                seldom = name.startswith(("redone", "restart", "idle", "wasted", "direct"))
                data[name] = np.zeros(count, dtype=np.int64) if seldom else energy
            data["unobserved_mj"] = np.zeros(count, dtype=np.int64)
            path = f"hour/month={month}/{part:06d}.parquet"
            (store / path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pydict(data, schema_of("hour")), store / path, compression="zstd")
            files.append(DataFile(table="hour", path=path, rows=count, month=month))
            part, left = part + 1, left - count
    entry = Entry(place="none", signature="", content="", run=1, segment="all")
    catalogue = Catalogue(
        version=STORE_VERSION,
        number=1,
        plugin_version="benchmark",
        entries=[entry],
        segments=[Segment(name="all", files=files)],
    )
    (store / "catalogue-00000001.json").write_bytes(msgspec.json.encode(catalogue))


def measure_query(folder: Path, rows: int, pandas_rows: int) -> dict[str, Any]:
    store = folder / "hours"
    write_hours(store, rows, 100_000)
    smaller = folder / "fewer"
    write_hours(smaller, pandas_rows, 100_000)
    columns = ",".join(SUMS)
    beside = {"duckdb": measured(QUERY, str(smaller)), "pandas": measured(PANDAS, str(smaller), columns)}
    whole = measured(QUERY, str(store))
    return {
        "rows": rows,
        "bytes": sum(path.stat().st_size for path in (store / "hour").rglob("*.parquet")),
        "duckdb": whole,
        "beside": {"rows": pandas_rows, **beside},
    }


def section(result: dict[str, Any]) -> str:
    """Return the table of the page, with the machine that it was measured on."""
    machine, ingest, query = result["machine"], result["ingest"], result["query"]
    runs, beside = ingest["runs"], query["beside"]
    many, fewer = (f"{number / 1e6:g} million rows" for number in (query["rows"], beside["rows"]))
    lines = [
        (f"{runs:,} runs of 20 windows ({ingest['bytes'] / 1e6:.0f} MB) ingested by one process", "in_one_process"),
        ("the same by as many processes as are used by default", "first"),
        ("the same runs as audits, one after the other (`programme`)", "as_audits"),
        ("ingest again, nothing new", "again_unchanged"),
        ("their report by team", "report"),
    ]
    rows = [(name, ingest[key], runs if key in ("in_one_process", "first", "as_audits") else 0) for name, key in lines]
    rows.append((f"sums by team and month over {many} by the hour ({query['bytes'] / 1e9:.1f} GB)", query["duckdb"], 0))
    rows += [(f"the same over {fewer}, DuckDB", beside["duckdb"], 0), ("over these, pandas", beside["pandas"], 0)]
    headings = ["", "processor", "runs a second of it", "clock", "peak memory"]
    made = "\n".join(f"| {' | '.join(line)} |" for line in [headings, ["---"] * 5, *(_line(*row) for row in rows)])
    return (
        f"Measured on {machine['cores']} processors (Python {machine['python']}, {machine['system']}), of which other "
        f"processes wanted {machine['load_before']:.1f} in the five minutes before.\n\n{made}"
    )


def _line(name: str, found: dict[str, Any], runs: int) -> list[str]:
    if "failed" in found:
        return [name, found["failed"], "", "", ""]
    rate = f"{runs / found['cpu_s']:.0f}" if runs else ""
    return [name, f"{found['cpu_s']:.2f} s", rate, f"{found['wall_s']:.2f} s", f"{found['peak_bytes'] / 1e6:,.0f} MB"]


def write_page(result: dict[str, Any], page: Path) -> None:
    """Write the table into the page, between its two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{section(result)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows by the hour of the query")
    parser.add_argument("--pandas-rows", type=int, default=10_000_000, help="rows that pandas adds up too")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--page", nargs="?", const=PAGE, type=Path, help="write the table into docs/fleet.md, or into another page"
    )
    arguments = parser.parse_args()
    began, load = time.perf_counter(), os.getloadavg()[1]
    with tempfile.TemporaryDirectory(prefix="fleet-benchmark-") as folder:
        result = {
            "machine": {
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "system": platform.platform(),
                "load_before": load,
            },
            "ingest": measure_ingest(Path(folder), arguments.runs),
            "query": measure_query(Path(folder), arguments.rows, arguments.pandas_rows),
        }
    result["took_s"] = time.perf_counter() - began
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if arguments.page:
        write_page(result, arguments.page)


if __name__ == "__main__":
    main()
