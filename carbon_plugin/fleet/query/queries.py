"""Ask a store its questions, as Ibis expressions that DuckDB and Spark answer alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carbon_plugin.fleet.query.engine import Engine, Months
from carbon_plugin.fleet.store.schema import DIMENSIONS, ENDS, MS_PER_S, RANGED, SUMS
from carbon_plugin.ledger.held.claims import TOLERANCE_S

MONTH = "month"
_EVERYTHING = "everything"  # one group of all
FAILED = "failed_mj"
OF_HOURS = (MONTH, "region", "region_name")
"""The columns by which hours are told apart themselves: a run may lie in several months and regions."""
MARKET = (
    "market_lifecycle_ug",
    "market_direct_ug",
    "with_market_lifecycle_mj",
    "with_market_direct_mj",
    "with_facility_mj",
)
"""Market-based carbon, which is location-based where a run states no contract, and the energy of which it, or
the energy of the facility, is known."""
RANGES = tuple(f"{end}_{carbon}_ug" for carbon in RANGED for end in ENDS)
"""The p10 and p90 of carbon, which add up as if all errors were one."""
COUNTED = ("with_lifecycle_mj", "with_direct_mj", "with_embodied_ms")
"""How much of the sums has carbon of each kind at all."""
MEASURES = (*SUMS, FAILED, "failed_lifecycle_ug", "failed_direct_ug", *MARKET, *COUNTED, *RANGES)
"""All sums of a group: those of its hours, those of runs that failed, and those that have carbon."""


def sums_by(engine: Engine, by: Sequence[str], months: Months | None = None) -> list[dict[str, Any]]:
    """Return the sums of all hours by some columns of the table of runs and, where asked for, by "month".

    Each row has these columns, the number of runs, and `MEASURES`. The rows are in the order of the columns.
    """
    keys = list(by) or [_EVERYTHING]
    hours = _of_runs(_in_months(engine, months), engine, by)
    summed = engine.rows(hours.group_by(*keys).aggregate(**_sums(hours, MEASURES)).order_by(*keys))
    return _with_runs(summed, engine, by, months)


def sums_of(
    finer: Sequence[Mapping[str, Any]], engine: Engine, by: Sequence[str], months: Months | None
) -> list[dict[str, Any]]:
    """Return what `sums_by` returns for some of the columns of rows that it returned.

    Whole numbers add up to the same sums, so that the hours of all runs need not be read again. A run may be in several
    of the rows, so that the runs are counted anew.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in finer:
        key = tuple(row[name] for name in by)
        group = groups.setdefault(key, dict(zip(by, key, strict=True)) | dict.fromkeys(MEASURES, 0))
        for name in MEASURES:
            group[name] += row[name]
    return _with_runs([groups[key] for key in sorted(groups)], engine, by, months)


def _with_runs(
    rows: Sequence[dict[str, Any]], engine: Engine, by: Sequence[str], months: Months | None
) -> list[dict[str, Any]]:
    counts = _runs_by(engine, by, months)
    return [row | {"runs": counts[tuple(row[name] for name in by)]} for row in rows]


def _runs_by(engine: Engine, by: Sequence[str], months: Months | None) -> dict[tuple[Any, ...], int]:
    """Return the number of runs of each group. Directories with the same run id count as one run."""
    keys = list(by) or [_EVERYTHING]
    hours = _in_months(engine, months)
    active = hours.select("run", *(key for key in by if key in OF_HOURS)).distinct()
    columns = ["run", "run_id", *(key for key in by if key not in OF_HOURS)]
    joined = active.join(engine.tables["run"].select(*columns), "run").mutate(everything=0)
    found = engine.rows(joined.group_by(*keys).aggregate(runs=joined.run_id.nunique()))
    return {tuple(row[name] for name in by): row["runs"] for row in found}


def runs_by_size(engine: Engine, scope: str, months: Months | None, most: int) -> list[dict[str, Any]]:
    """Return the runs with the most carbon, operational and embodied together, and their sums in the months."""
    hours = _in_months(engine, months)
    summed = hours.group_by("run").aggregate(**_sums(hours, ("energy_mj", f"{scope}_ug", "embodied_ug")))
    largest = summed.mutate(size=summed[f"{scope}_ug"] + summed.embodied_ug)
    largest = largest.order_by(_descending("size"), "run").limit(most)
    known = [f"has_{scope}", "has_embodied", *_spreads((scope, "embodied", f"total_{scope}"))]
    named = [*known, "run_id", "name", "place", "team", "programme", "role", "region", "hardware", "start_ms", "failed"]
    joined = largest.join(engine.tables["run"].select("run", *named), "run")
    return engine.rows(joined.order_by(_descending("size"), "run"))


def hardware_by(engine: Engine, by: Sequence[str], months: Months | None) -> list[dict[str, Any]]:
    """Return the carbon of making the hardware, each device once over all runs, in the month in which it was first
    used.

    A device belongs to the run that started first. Its carbon is that of the first run that knows its manufacture,
    because a run without a site states none. `unknown` is the number of devices whose manufacture no run knows; they
    count 0.
    """
    runs = engine.tables["run"]
    of_run = [name for name in DIMENSIONS if name not in OF_HOURS]
    of_run += _spreads(["embodied"])
    used = engine.tables["device"].join(runs.select("run", "run_id", "start_ms", *of_run), "run")
    used = used.mutate(**_ends(used, {"embodied": used.embodied_ug}))
    masses = ("embodied_ug", "low_embodied_ug", "high_embodied_ug")
    owned = _first_use(used)
    owned = owned.select("kind", "device", *DIMENSIONS, month="first_month")
    known = _first_use(used.filter(used.embodied_ug > 0)).select("kind", "device", *masses)
    joined = owned.left_join(known, ["kind", "device"])
    joined = joined.mutate(everything=0, lacking=joined.embodied_ug.isnull().ifelse(1, 0))
    if months is not None:
        joined = joined.filter(joined.month.between(*months))
    keys = list(by) or [_EVERYTHING]
    grouped = joined.group_by(*keys).aggregate(
        devices=joined.count(),
        unknown=joined.lacking.sum(),
        **{name: joined[name].fill_null(0).sum() for name in masses},
    )
    return engine.rows(grouped.order_by(*keys))


def capital_goods(engine: Engine, months: Months | None) -> list[dict[str, Any]]:
    """Return the carbon of making the hardware, as `hardware_by` counts it, by region and month of its first use, with
    its parts and with the hardware and factors of the run that knows its manufacture.
    """
    runs = engine.tables["run"].select("run", "run_id", "start_ms", "factors", "hardware")
    used = engine.tables["device"].join(runs, "run")
    owned = _first_use(used).select("kind", "device", "region", month="first_month")
    parts = ("embodied_ug", "device_ug", "network_ug", "host_ug")
    known = _first_use(used.filter(used.embodied_ug > 0)).select("kind", "device", "factors", "hardware", *parts)
    joined = owned.join(known, ["kind", "device"])
    if months is not None:
        joined = joined.filter(joined.month.between(*months))
    keys = ["region", "month", "factors", "hardware"]
    return engine.rows(joined.group_by(*keys).aggregate(**_sums(joined, parts)).order_by(*keys))


def counted_twice(engine: Engine, months: Months | None) -> dict[str, int]:
    """Return how many accelerators were charged, by all runs together, for more time than that in which any of their
    runs went on, and by how much, ms, for runs that began in the months.

    A run goes on from its first record to its last, so that one with gaps may hide time that was counted twice.
    """
    import ibis

    runs = engine.tables["run"].select("run", "start_ms", "end_ms")
    used = engine.tables["device"].filter(engine.tables["device"].kind == "gpu").join(runs, "run")
    if months is not None:
        used = used.filter(used.first_month.between(*months))
    order = ["start_ms", "end_ms", "run"]
    used = used.mutate(latest=used.end_ms.max().over(ibis.cumulative_window(group_by="device", order_by=order)))
    used = used.mutate(before=used.latest.lag().over(group_by="device", order_by=order))
    since_ms = ibis.greatest(used.start_ms, used.before.fill_null(used.start_ms))
    used = used.mutate(passed_ms=ibis.greatest(used.end_ms - since_ms, 0))
    gpus = used.group_by("device").aggregate(excess_ms=used.charged_ms.sum() - used.passed_ms.sum(), runs=used.count())
    twice = gpus.filter((gpus.runs > 1) & (gpus.excess_ms > round(TOLERANCE_S * MS_PER_S)))
    (found,) = engine.rows(twice.aggregate(gpus=twice.count(), excess_ms=twice.excess_ms.sum()))
    return {"gpus": int(found["gpus"]), "excess_ms": int(found["excess_ms"] or 0)}


def hours_of_runs(engine: Engine, months: Months | None) -> list[dict[str, Any]]:
    """Return the sums of each run by launch, region and month, with the columns that are needed to apply
    other factors.
    """
    keys = ("run", "attempt", "region", MONTH)
    sums = ("energy_mj", "facility_mj", "central_ug", "lifecycle_ug", "direct_ug", "market_ug", "embodied_ug")
    hours = _in_months(engine, months)
    summed = hours.group_by(*keys).aggregate(**_sums(hours, (*sums, "unobserved_mj")))
    runs = engine.tables["run"]
    columns = [name for name in runs.columns if name.startswith("run_") and name.endswith(("_ug", "_mj"))]
    of_run = runs.select("run", "hardware", "has_market", "unobserved", *columns, run_factors="factors")
    of_launch = engine.tables["attempt"].select("run", "attempt", "factors", "origin")
    joined = summed.join(of_run, "run").join(of_launch, ["run", "attempt"])
    return engine.rows(joined.order_by(*keys))


def documents(engine: Engine) -> dict[str, str]:
    """Return the factors that runs recorded, as JSON by the digest of the document."""
    return {row["factors"]: row["document"] for row in engine.rows(engine.tables["factor"])}


def bases(engine: Engine) -> list[dict[str, Any]]:
    """Return the number of runs of known energy for each scope of emissions, basis and region that they state."""
    runs = engine.tables["run"]
    runs = runs.filter(_has_hours(runs))
    keys = ["scope", "basis", "region", "has_lifecycle", "has_direct", "has_embodied", "has_market"]
    return engine.rows(runs.group_by(*keys).aggregate(runs=runs.count()).order_by(*keys))


def states(engine: Engine) -> list[dict[str, Any]]:
    """Return the number of runs in each state of verification."""
    runs = engine.tables["run"]
    return engine.rows(runs.group_by("state").aggregate(runs=runs.count()).order_by("state"))


def gpus_by_host(engine: Engine) -> dict[str, int]:
    """Return the largest number of accelerators that each host had in one run."""
    nodes = engine.tables["node"]
    rows = engine.rows(nodes.group_by("hostname").aggregate(gpus=nodes.gpus.max()).order_by("hostname"))
    return {row["hostname"]: row["gpus"] for row in rows}


def runs_without_hours(engine: Engine) -> list[dict[str, Any]]:
    """Return the runs without a row in the hourly table, because nothing of their energy was read or modelled."""
    runs = engine.tables["run"]
    return engine.rows(runs.filter(~_has_hours(runs)).select("run_id", "name", "place").order_by("place"))


def _has_hours(runs: Any) -> Any:
    return (runs.run_energy_mj != 0) | (runs.run_device_ms != 0)


def last_moment_ms(engine: Engine) -> int:
    """Return the end of the run that ended last, Unix ms."""
    runs = engine.tables["run"]
    return int(engine.rows(runs.aggregate(end_ms=runs.end_ms.max()))[0]["end_ms"] or 0)


def forecasts(engine: Engine, months: Months | None) -> list[dict[str, Any]]:
    """Return forecast and actual carbon and energy of each run that carried a forecast, by the month of its start."""
    runs = engine.tables["run"]
    chosen = runs.filter(runs.forecast_ug.notnull() & runs.actual_ug.notnull() & (runs.forecast_ug > 0))
    if months is not None:
        chosen = chosen.filter(chosen.month.between(*months))
    columns = ("month", "run", "forecast_ug", "actual_ug", "forecast_mj", "run_energy_mj")
    return engine.rows(chosen.select(*columns).order_by("month", "run"))


def _in_months(engine: Engine, months: Months | None) -> Any:
    hours = engine.tables["hour"]
    return hours if months is None else hours.filter(hours.month.between(*months))


def _of_runs(hours: Any, engine: Engine, by: Sequence[str]) -> Any:
    """Return hours with some columns of their runs, and with what each hour adds to `MEASURES`.

    Hours are joined with runs before they are summed: there are few groups, and millions of runs and months.
    """
    flags = ["has_lifecycle", "has_direct", "has_embodied", "has_market", "failed"]
    columns = [name for name in by if name not in OF_HOURS]
    told = [name for name in OF_HOURS if name == MONTH or name in by]
    of_run = engine.tables["run"].select("run", *columns, *flags, *_spreads(RANGED))
    joined = hours.select("run", *told, *SUMS).join(of_run, "run")
    lost, by_contract = joined.failed == 1, joined.has_market == 1
    # What a failed run did again is counted there already.
    own = joined.energy_mj - joined.redone_mj - joined.restart_mj - joined.idle_mj
    market = {scope: by_contract.ifelse(joined.market_ug, joined[f"{scope}_ug"]) for scope in ("lifecycle", "direct")}
    carbon = {
        **{scope: joined[f"{scope}_ug"] for scope in market},
        **{f"market_{scope}": mass for scope, mass in market.items()},
        "embodied": joined.embodied_ug,
        **{f"total_{scope}": joined[f"{scope}_ug"] + joined.embodied_ug for scope in market},
    }
    return joined.mutate(
        **_ends(joined, carbon),
        everything=0,
        failed_mj=lost.ifelse(own, 0),
        failed_lifecycle_ug=lost.ifelse(joined.lifecycle_ug - joined.wasted_lifecycle_ug, 0),
        failed_direct_ug=lost.ifelse(joined.direct_ug - joined.wasted_direct_ug, 0),
        market_lifecycle_ug=market["lifecycle"],
        market_direct_ug=market["direct"],
        with_market_lifecycle_mj=by_contract.ifelse(joined.energy_mj, joined.energy_mj * joined.has_lifecycle),
        with_market_direct_mj=by_contract.ifelse(joined.energy_mj, joined.energy_mj * joined.has_direct),
        with_facility_mj=(joined.facility_mj > 0).ifelse(joined.energy_mj, 0),
        with_lifecycle_mj=joined.energy_mj * joined.has_lifecycle,
        with_direct_mj=joined.energy_mj * joined.has_direct,
        with_embodied_ms=joined.device_ms * joined.has_embodied,
    )


def _spreads(carbon: Sequence[str]) -> list[str]:
    """Return the columns of the table of runs that hold p10 and p90 of these over their central values."""
    return [f"{end}_{name}" for name in carbon for end in ENDS]


def _ends(table: Any, carbon: Mapping[str, Any]) -> dict[str, Any]:
    """Return p10 and p90 of masses of runs in whole micrograms, cut off, so that every engine gets the same."""
    return {
        f"{end}_{name}_ug": (mass * table[f"{end}_{name}"]).floor().cast("int64")
        for name, mass in carbon.items()
        for end in ENDS
    }


def _first_use(used: Any) -> Any:
    """Return for each device the row of the run that started first."""
    import ibis

    order = ["start_ms", "run_id", "run"]
    ranked = used.mutate(use=ibis.row_number().over(group_by=["kind", "device"], order_by=order))
    return ranked.filter(ranked.use == 0).drop("use", "run")


def _sums(table: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: table[name].sum() for name in names}


def _descending(name: str) -> Any:
    import ibis

    return ibis.desc(name)
