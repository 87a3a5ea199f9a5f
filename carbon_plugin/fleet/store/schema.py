"""Define the tables of a store. Energies are whole millijoules and masses whole micrograms of CO2e.

Whole numbers add up to the same sum in any order, so that every engine and every grouping gives the same total to the
last digit. The carbon of the tables is the central value that a run's own report states.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

STORE_VERSION = 6
STATIC = "static"
"""The origin of an intensity that is that of a table or of the user over a whole launch."""

MJ_PER_J = 1e3
UG_PER_KG = 1e9
MS_PER_S = 1e3

TAGS = ("team", "project", "owner", "cost_centre", "user")
DIMENSIONS = ("team", "project", "owner", "cost_centre", "user", "programme", "role", "hardware", "region")
"""The text columns of the table of runs by which a report can be grouped."""

SUMS = (
    "energy_mj",
    "measured_mj",
    "low_mj",
    "high_mj",
    "facility_mj",
    "device_ms",
    "central_ug",
    "lifecycle_ug",
    "direct_ug",
    "market_ug",
    "embodied_ug",
    "redone_mj",
    "restart_mj",
    "idle_mj",
    "wasted_lifecycle_ug",
    "wasted_direct_ug",
)
"""The whole numbers of an hour that add up.

`central_ug` is the operational carbon on the basis that the run states. `lifecycle_ug` and `direct_ug` are the same,
location-based, with lifecycle and with direct emissions of the grid, and 0 where the run's basis cannot be
turned into that one. `market_ug` is market-based, and 0 where the run states neither a contract nor a residual mix.
`wasted_...` is the part of both that was redone, restarting or idle.
"""

RANGED = ("lifecycle", "direct", "market_lifecycle", "market_direct", "embodied", "total_lifecycle", "total_direct")
"""The carbon of a run that has a range: by location and by contract in both scopes of emissions, that of making the
hardware, and by location together with the hardware."""
ENDS = ("low", "high")

_TEXT, _INT, _SHORT, _REAL = "text", "int", "short", "real"

TABLES: dict[str, dict[str, str]] = {
    "run": {
        "run": _INT,
        "run_id": _TEXT,
        "name": _TEXT,
        "place": _TEXT,
        "content": _TEXT,
        **dict.fromkeys(DIMENSIONS, _TEXT),
        "region_name": _TEXT,
        "basis": _TEXT,
        "scope": _TEXT,
        "factors": _TEXT,
        "g_per_kwh": _REAL,
        "pue": _REAL,
        **{f"run_{part}_ug": _INT for part in ("device", "host", "network", "building")},
        "unobserved": _TEXT,
        "run_unobserved_mj": _INT,
        "start_ms": _INT,
        "end_ms": _INT,
        "month": _SHORT,
        "state": _TEXT,
        "ended": _TEXT,
        "failed": _SHORT,
        "has_lifecycle": _SHORT,
        "has_direct": _SHORT,
        "has_embodied": _SHORT,
        "has_market": _SHORT,
        "attempts": _SHORT,
        "nodes": _SHORT,
        "nodes_seen": _SHORT,
        "gpus": _SHORT,
        "gpus_seen": _SHORT,
        "steps": _INT,
        "tokens": _INT,
        "stalled_ms": _INT,
        **{f"{end}_{carbon}": _REAL for carbon in RANGED for end in ENDS},
        "forecast_ug": _INT,
        "forecast_mj": _INT,
        "actual_ug": _INT,
        **{f"run_{name}": _INT for name in SUMS},
    },
    "attempt": {
        "run": _INT,
        "attempt": _SHORT,
        "start_ms": _INT,
        "end_ms": _INT,
        "nodes": _SHORT,
        "world_size": _SHORT,
        "steps": _INT,
        "last_step": _INT,
        "redone_steps": _INT,
        "ended": _TEXT,
        "factors": _TEXT,
        "origin": _TEXT,
    },
    "node": {"run": _INT, "hostname": _TEXT, "gpus": _SHORT, "energy_mj": _INT, "measured_mj": _INT},
    "device": {
        "run": _INT,
        "kind": _TEXT,
        "device": _INT,
        "first_month": _SHORT,
        "region": _TEXT,
        "embodied_ug": _INT,
        "device_ug": _INT,
        "network_ug": _INT,
        "host_ug": _INT,
        "charged_ms": _INT,
    },
    "factor": {"factors": _TEXT, "document": _TEXT},
    "hour": {
        "run": _INT,
        "attempt": _SHORT,
        "rung": _TEXT,
        "hour": _SHORT,
        "month": _SHORT,
        "region": _TEXT,
        "region_name": _TEXT,
        **dict.fromkeys(SUMS, _INT),
        "unobserved_mj": _INT,
    },
}
"""The columns of each table with their kinds. A column of whole numbers holds no nulls but for those of forecasts.

What a restatement needs is among them: `factors` is the digest of the factors that a run or a launch recorded, whose
document is in the table of that name. `origin` says where the intensity of a launch came from. `run_<part>_ug` divides
the embodied carbon of a run. `unobserved` says, as JSON, what the energy of reserved time without records is modelled
from, and `unobserved_mj` is that energy. `low_<carbon>` and `high_<carbon>` are the p10 and p90 of the run's audit over
its central value, 1 where the carbon is not known. `charged_ms` is the recorded time of an accelerator without the part
that is charged to other runs.
"""

PARTITIONED = "hour"
"""The table whose files hold one month each."""


def month_number(unix_s: float) -> int:
    """Return the month of a moment in UTC as its number in the tables, for instance 202511."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return 100 * moment.year + moment.month


@cache
def schema_of(table: str) -> pyarrow.Schema:
    """Return the Arrow schema of a table."""
    import pyarrow as pa

    kinds: dict[str, Any] = {_TEXT: pa.string(), _INT: pa.int64(), _SHORT: pa.int32(), _REAL: pa.float64()}
    return pa.schema([(name, kinds[kind]) for name, kind in TABLES[table].items()])
