"""Compute the overrun of a plan: the ratio of the time of published whole runs to their predicted best case.

`python -m carbon_plugin.validate.run.real_runs` writes it into `plan/real_run.py` of a source checkout. It runs after
`carbon_plugin.calibrate.shipped` and in a process of its own, because it predicts with the constants that are shipped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.plan import real_run
from carbon_plugin.plan.goodput import run_goodput
from carbon_plugin.plan.real_run import Overrun, RunClass, run_class
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS, Population, Stack
from carbon_plugin.validate.run.carbon_rows import carbon_setups, carbon_sources
from carbon_plugin.validate.run.full_runs import full_run_sources, planned_run, states_software

DIGITS = 2
FEWEST_SOURCES = 9
"""With fewer sources the tenth percentile of the next source lies outside of those that are known (rank 0.1 (n+1) of n
sources): the runs of the other kind of model count too then."""
POPULATIONS: tuple[Population, ...] = ("ordinary", "tuned")


class WholeRun(Struct, frozen=True, kw_only=True):
    """One published run: its published hours, and the hours in the best case of its layout on software of its
    population.

    `origin` is the source, which may have published several runs. A run whose software is known has only the hours of
    the population of that.
    """

    id: str
    origin: str
    mixture: bool
    published_device_hours: float
    best_case_device_hours: dict[Population, float]

    def is_of(self, kind: RunClass) -> bool:
        """Return whether the run is of this kind of model and may be of this population."""
        return self.mixture == kind.startswith("mixture") and self.has(kind)

    def has(self, kind: RunClass) -> bool:
        """Return whether the run may be of the population of this class."""
        return _population(kind) in self.best_case_device_hours

    def over_predicted(self, population: Population) -> float:
        """Return the published hours over those of the best case."""
        return self.published_device_hours / self.best_case_device_hours[population]


class ClassOverrun(Struct, frozen=True, kw_only=True):
    """One class: its overrun, and the shares of its runs whose hours lie inside an 80 % range.

    For `coverage` the range comes from all runs, for `blind_coverage` from the runs of other sources only.
    """

    kind: RunClass
    overrun: Overrun
    coverage: float
    blind_coverage: float


@cache
def whole_runs() -> tuple[WholeRun, ...]:
    """Return every published run whose hours are known and can be predicted, each once."""
    found = {run.id: run for raw in full_run_sources() if (run := _of_row(raw)) is not None}
    setups = carbon_setups()
    for row in carbon_sources():
        setup = setups[row.id].run
        if row.accel_hours is None or setup is None or row.id in found:
            continue
        site = setup.get("site", {"intensity_g_per_kwh": 0, "pue": 1})

        def laid_out(stack: Stack, setup: dict[str, Any] = setup, site: dict[str, Any] = site) -> RunSpec:
            spec = msgspec.structs.replace(build_run_spec({"name": "run", **setup, "site": site}), stack=stack)
            return msgspec.structs.replace(spec, layout=search_layout(spec).layout)

        found[row.id] = _run(row.id, row.accel_hours, {kind: laid_out(STACKS[kind]) for kind in POPULATIONS})
    return tuple(found.values())


def class_overruns(runs: Sequence[WholeRun]) -> tuple[ClassOverrun, ...]:
    """Return the overrun of every class that has runs, with each source counted once."""
    found = []
    for kind in get_args(RunClass):
        own = [run for run in runs if run.is_of(kind)]
        if not own:
            continue
        whole = overrun_from(runs, kind)
        blind = {name: overrun_from([run for run in runs if run.origin != name], kind) for name in _origins(own)}
        found.append(
            ClassOverrun(
                kind=kind,
                overrun=whole,
                coverage=float(np.mean([_inside(run, whole, kind) for run in own])),
                blind_coverage=float(np.mean([_inside(run, blind[run.origin], kind) for run in own])),
            )
        )
    return tuple(found)


def overrun_from(runs: Sequence[WholeRun], kind: RunClass) -> Overrun:
    """Return the overrun of one class from these runs: median, p10 and p90 of published over best-case hours.

    Every source is counted once. A plan is never faster than its best case, so the centre is at least 1. With too few
    sources the range is that of the runs of all models, extended to the class's own range where that reaches further.
    """
    own = [run for run in runs if run.is_of(kind)]
    every = [run for run in runs if run.has(kind)]
    low, central, high = _percentiles(own or every, kind)
    if len(_origins(own)) < FEWEST_SOURCES:
        least, _, most = _percentiles(every, kind)
        low, high, own = min(low, least), max(high, most), every
    central = max(1.0, central)
    low, high = min(low, central), max(high, central)
    return Overrun(round(central, DIGITS), round(low, DIGITS), round(high, DIGITS), len(_origins(own)), len(own))


def _percentiles(runs: Sequence[WholeRun], kind: RunClass) -> tuple[float, float, float]:
    """Return p10, median and p90 of the runs, interpolated between the midpoints of their weights.

    Each source has the same total weight.
    """
    logs = np.log([run.over_predicted(_population(kind)) for run in runs])
    weights = np.array([1 / sum(other.origin == run.origin for other in runs) for run in runs])
    order = np.argsort(logs)
    shares = (np.cumsum(weights[order]) - weights[order] / 2) / np.sum(weights)
    low, central, high = np.exp(np.interp((0.1, 0.5, 0.9), shares, logs[order]))
    return float(low), float(central), float(high)


def origin_of(name: str) -> str:
    """Return the source of a row, which is the beginning of its id."""
    return name.partition("-")[0]


def overrun_without(name: str, kind: RunClass) -> Overrun:
    """Return the overrun of one class from the runs of all sources but that of this row."""
    return overrun_from([run for run in whole_runs() if run.origin != origin_of(name)], kind)


def rewrite_overruns(text: str, found: Sequence[ClassOverrun]) -> str:
    """Return the source text of `plan/real_run.py` with these overruns.

    Raises `ValueError` for a class that does not have exactly one line in the text.
    """
    for item in found:
        central, low, high, sources, runs = item.overrun
        numbers = f"{central:.{DIGITS}f}, {low:.{DIGITS}f}, {high:.{DIGITS}f}, {sources}, {runs}"
        text, count = re.subn(rf'"{item.kind}": Overrun\([^)]*\)', f'"{item.kind}": Overrun({numbers})', text)
        if count != 1:
            raise ValueError(f"{item.kind} is not one line of OVERRUNS")
    return text


def _of_row(raw: Mapping[str, Any]) -> WholeRun | None:
    try:
        if states_software(raw):
            spec = planned_run(raw, [])
            specs = {spec.stack.population: spec}
        else:
            specs = {kind: planned_run(raw, [], STACKS[kind]) for kind in POPULATIONS}
    except CarbonPluginError:  # `full_run_rows` reports the reason
        return None
    return _run(str(raw["id"]), float(raw["gpu_hours"]), specs)


def _run(name: str, published_h: float, specs: Mapping[Population, RunSpec]) -> WholeRun:
    return WholeRun(
        id=name,
        origin=origin_of(name),
        mixture=any(run_class(spec).startswith("mixture") for spec in specs.values()),
        published_device_hours=published_h,
        best_case_device_hours={kind: _best_case_h(spec) for kind, spec in specs.items()},
    )


def _best_case_h(spec: RunSpec) -> float:
    return run_goodput(spec, predict_step(spec)).run_time_s * spec.cluster.devices / SECONDS_PER_HOUR


def _population(kind: RunClass) -> Population:
    return "tuned" if kind.endswith("tuned") else "ordinary"


def _origins(runs: Sequence[WholeRun]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.origin for run in runs))


def _inside(run: WholeRun, overrun: Overrun, kind: RunClass) -> bool:
    return overrun.low <= run.over_predicted(_population(kind)) <= overrun.high


def main() -> None:
    """Rewrite the overruns of the source checkout that this file belongs to."""
    path = Path(real_run.__file__)
    found = class_overruns(whole_runs())
    path.write_text(rewrite_overruns(path.read_text("utf-8"), found), "utf-8")
    for item in found:
        sys.stdout.write(f"{item}\n")


if __name__ == "__main__":
    main()
