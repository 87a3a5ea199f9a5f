"""Ask a store its questions, as Ibis expressions that DuckDB and Spark answer alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carbon_plugin.fleet.query.engine import Engine, Months
from carbon_plugin.fleet.store.schema import DIMENSIONS, SUMS

MONTH = "month"
FAILED = "failed_mj"
COUNTED = ("with_lifecycle_mj", "with_direct_mj", "with_embodied_ms")
"""How much of the sums has carbon of each kind at all."""
MEASURES = (*SUMS, FAILED, "failed_lifecycle_ug", "failed_direct_ug", *COUNTED)
"""All sums of a group: those of its hours, those of runs that failed, and those that have carbon."""


def sums_by(engine: Engine, by: Sequence[str], months: Months | None = None) -> list[dict[str, Any]]:
    """Return the sums of all hours by some columns of the table of runs and, where asked for, by "month".

    Each row has these columns, the number of runs, and `MEASURES`. The rows are in the order of the columns.
    """
    joined = _by_run_and_month(engine, months)
    if not by:
        joined = joined.mutate(everything=0)
    keys = list(by) or ["everything"]
    grouped = joined.group_by(*keys).aggregate(
        runs=joined.run_id.nunique(), **{name: joined[name].sum() for name in MEASURES}
    )
    return engine.rows(grouped.order_by(*keys))


def runs_by_size(engine: Engine, scope: str, months: Months | None, most: int) -> list[dict[str, Any]]:
    """Return the runs with the most carbon, operational and embodied together, and their sums in the months."""
    joined = _by_run_and_month(engine, months)
    keys = ["run", "run_id", "name", "place", "team", "programme", "role", "region", "hardware", "start_ms", "failed"]
    grouped = joined.group_by(*keys).aggregate(**{name: joined[name].sum() for name in MEASURES})
    size = grouped[f"{scope}_ug"] + grouped.embodied_ug
    return engine.rows(grouped.mutate(size=size).order_by(_descending("size"), "run").limit(most))


def hardware_by(engine: Engine, by: Sequence[str], months: Months | None) -> list[dict[str, Any]]:
    """Return what making the hardware emitted, each device once over all runs, in the month in which it was first used.

    A device belongs to the run that used it first.
    """
    import ibis

    devices = engine.tables["device"]
    ranked = devices.mutate(place=ibis.row_number().over(group_by=["kind", "device"], order_by=["first_month", "run"]))
    first = ranked.filter(ranked.place == 0)
    first = first.select("run", "kind", "device", "embodied_ug", month="first_month")
    if months is not None:
        first = first.filter(first.month.between(*months))
    runs = engine.tables["run"]
    joined = first.join(runs.select("run", *DIMENSIONS), "run")
    keys = list(by)
    if not keys:
        joined = joined.mutate(everything=0)
        keys = ["everything"]
    grouped = joined.group_by(*keys).aggregate(devices=joined.count(), embodied_ug=joined.embodied_ug.sum())
    return engine.rows(grouped.order_by(*keys))


def factors_by(engine: Engine, by: Sequence[str], months: Months | None) -> list[dict[str, Any]]:
    """Return the energy, facility energy and carbon of each group by region, month and recorded factors."""
    joined = _by_run_and_month(engine, months)
    keys = [*by, "region", "region_name", "scope", "g_per_kwh", "pue"]
    grouped = joined.group_by(*keys).aggregate(
        runs=joined.run_id.nunique(), **{name: joined[name].sum() for name in MEASURES}
    )
    return engine.rows(grouped.order_by(*keys))


def bases(engine: Engine) -> list[dict[str, Any]]:
    """Return how many runs state which scope of emissions, basis and region."""
    runs = engine.tables["run"]
    keys = ["scope", "basis", "region", "has_lifecycle", "has_direct", "has_embodied", "has_market"]
    return engine.rows(runs.group_by(*keys).aggregate(runs=runs.count()).order_by(*keys))


def states(engine: Engine) -> list[dict[str, Any]]:
    """Return how many runs are in which state of verification."""
    runs = engine.tables["run"]
    return engine.rows(runs.group_by("state").aggregate(runs=runs.count()).order_by("state"))


def gpus_by_host(engine: Engine) -> dict[str, int]:
    """Return how many accelerators each host had in one run at most."""
    nodes = engine.tables["node"]
    rows = engine.rows(nodes.group_by("hostname").aggregate(gpus=nodes.gpus.max()).order_by("hostname"))
    return {row["hostname"]: row["gpus"] for row in rows}


def last_moment_ms(engine: Engine) -> int:
    """Return the end of the run that ended last, Unix ms."""
    runs = engine.tables["run"]
    return int(engine.rows(runs.aggregate(end_ms=runs.end_ms.max()))[0]["end_ms"] or 0)


def forecasts(engine: Engine, months: Months | None) -> list[dict[str, Any]]:
    """Return forecast and actual total carbon of each run that carried a forecast, by the month of its start."""
    runs = engine.tables["run"]
    chosen = runs.filter(runs.forecast_ug.notnull() & runs.actual_ug.notnull() & (runs.forecast_ug > 0))
    if months is not None:
        chosen = chosen.filter(chosen.month.between(*months))
    return engine.rows(chosen.select("month", "run", "forecast_ug", "actual_ug").order_by("month", "run"))


def _by_run_and_month(engine: Engine, months: Months | None) -> Any:
    """Return the sums of each run and month, with the columns of the table of runs."""
    hours, runs = engine.tables["hour"], engine.tables["run"]
    if months is not None:
        hours = hours.filter(hours.month.between(*months))
    summed = hours.group_by("run", MONTH).aggregate(**{name: hours[name].sum() for name in SUMS})
    flags = ["has_lifecycle", "has_direct", "has_embodied", "failed"]
    named = ["run_id", "name", "place", "region_name", "scope", "g_per_kwh", "pue", "start_ms"]
    joined = summed.join(runs.select("run", *named, *DIMENSIONS, *flags), "run")
    lost = joined.failed == 1
    # What a failed run did again is counted there already.
    own = joined.energy_mj - joined.redone_mj - joined.restart_mj - joined.idle_mj
    return joined.mutate(
        failed_mj=lost.ifelse(own, 0),
        failed_lifecycle_ug=lost.ifelse(joined.lifecycle_ug - joined.wasted_lifecycle_ug, 0),
        failed_direct_ug=lost.ifelse(joined.direct_ug - joined.wasted_direct_ug, 0),
        with_lifecycle_mj=joined.energy_mj * joined.has_lifecycle,
        with_direct_mj=joined.energy_mj * joined.has_direct,
        with_embodied_ms=joined.device_ms * joined.has_embodied,
    )


def _descending(name: str) -> Any:
    import ibis

    return ibis.desc(name)
