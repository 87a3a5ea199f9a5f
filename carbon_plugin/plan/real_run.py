"""Estimate how much longer a whole run takes than the best case of its layout, from published whole runs.

The model of losses (`plan.goodput`) holds start-up, checkpoints and failures. Real runs also train in the layout that
their team had, slow down, are repeated in part and wait for people. What all of that takes together is the ratio of
published over predicted device-hours: a factor on the run's time with a spread of its own, by the kind of run.

A production run is planned with that factor. A benchmark (a few hundred steps that people watch), a run whose overhead
is stated and a cluster whose constants were fitted to its own runs are planned as the best case.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.plan.goodput import Goodput, run_goodput, shares_of
from carbon_plugin.predict.rates.evidence import own_software
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.run import RunSpec

RunClass = Literal["dense, ordinary", "dense, tuned", "mixture, ordinary", "mixture, tuned"]


class Overrun(NamedTuple):
    """One instance holds published over best-case device-hours: median, p10 and p90 over runs, and the number of
    sources and runs.
    """

    central: float
    low: float
    high: float
    sources: int
    runs: int

    @property
    def range(self) -> Range:
        """Return the factor with its range."""
        return Range(self.central, self.low, self.high)


OVERRUNS: dict[RunClass, Overrun] = {
    # Computed and written by `python -m carbon_plugin.validate.run.real_runs` from the rows in docs/goodput.md.
    "dense, ordinary": Overrun(1.25, 0.86, 2.23, 24, 42),
    "dense, tuned": Overrun(1.72, 1.26, 3.20, 24, 42),
    "mixture, ordinary": Overrun(1.00, 0.41, 2.16, 26, 48),
    "mixture, tuned": Overrun(1.36, 0.89, 3.16, 26, 49),
}


ON_OTHER_SOFTWARE: dict[RunClass, RunClass] = {
    "dense, ordinary": "dense, tuned",
    "dense, tuned": "dense, ordinary",
    "mixture, ordinary": "mixture, tuned",
    "mixture, tuned": "mixture, ordinary",
}
"""The same models on the other software: its best case is another one, and so is the factor on it."""


class BestCase(Struct, frozen=True, kw_only=True):
    """One instance holds the run in the best case of its layout: it loses only modelled start-up, checkpoints and
    failures.
    """

    run_time_s: Figure
    device_hours: Figure
    footprint: Footprint
    cost_usd: Figure | None = None


def run_class(spec: RunSpec) -> RunClass:
    """Return the published runs that a run is compared with: dense models or mixtures, on software of its
    population.
    """
    mixture = not isinstance(spec.model, CountedModel) and spec.model.moe is not None
    if spec.stack.population == "tuned":
        return "mixture, tuned" if mixture else "dense, tuned"
    return "mixture, ordinary" if mixture else "dense, ordinary"


def overrun_of(spec: RunSpec) -> Overrun | None:
    """Return the overrun that a run is planned with, or None where it is planned as the best case."""
    training = spec.training
    if training.kind == "benchmark" or training.overhead_fraction is not None:
        return None
    if own_software(spec.cluster.accelerator, spec.stack) is not None:
        return None
    return OVERRUNS[run_class(spec)]


Planned = Overrun | Literal["own"] | None
"""What a run is planned with: an overrun, that of the run itself ("own"), or none."""


def factor_of(overrun: Overrun, kind: RunClass) -> Figure:
    """Return the factor on the time of the best case, with its p10 and p90."""
    source = f"{overrun.runs} whole runs of {overrun.sources} sources ({kind} software; docs/goodput.md)"
    return Figure.of(overrun.range, "", "modelled", source)


def planned_goodput(spec: RunSpec, prediction: StepPrediction, overrun: Planned = "own") -> Goodput:
    """Return the time of the run as it is planned: the modelled parts, and the overrun if there is one.

    Runs that are compared with one another are planned with the same overrun. Raises `SpecError` for an overrun that is
    none, and as `run_goodput`."""
    if not (overrun is None or overrun == "own" or isinstance(overrun, Overrun)):
        raise SpecError(
            f'overrun is {overrun!r}, expected "own" (as published runs of its kind took), None (the best case), or an '
            "Overrun such as one of plan.real_run.OVERRUNS"
        )
    best = run_goodput(spec, prediction)
    planned = overrun_of(spec) if overrun == "own" else overrun
    if planned is None or spec.training.overhead_fraction is not None:
        return best
    factor = factor_of(planned, run_class(spec))
    parts = {**best.parts_s, "overrun": (factor.value - 1) * best.run_time_s}
    said = Assumption(
        "training.kind",
        f"production: {factor.value:.2f} ({factor.low:.2f} to {factor.high:.2f}) times the time of the best case",
        f"{factor.source}; `benchmark` plans the best case",
    )
    return msgspec.structs.replace(
        best, parts_s=parts, shares=shares_of(parts), overrun=factor, assumptions=(*best.assumptions, said)
    )


def best_case(goodput: Goodput) -> Goodput | None:
    """Return the goodput without its overrun, or None where there is no overrun."""
    if goodput.overrun is None:
        return None
    parts = {part: seconds for part, seconds in goodput.parts_s.items() if part != "overrun"}
    return msgspec.structs.replace(goodput, parts_s=parts, shares=shares_of(parts), overrun=None)
