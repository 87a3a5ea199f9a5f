"""What real runs take beyond the best case, as published hours tell it."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.plan.real_run import OVERRUNS
from carbon_plugin.validate.run.real_runs import (
    WholeRun,
    class_overruns,
    origin_of,
    overrun_from,
    rewrite_overruns,
    whole_runs,
)


def run_of(name: str, ratio: float, *, mixture: bool = False) -> WholeRun:
    return WholeRun(
        id=name,
        origin=origin_of(name),
        mixture=mixture,
        published_device_hours=1000 * ratio,
        best_case_device_hours={"ordinary": 1000.0, "tuned": 500.0},
    )


def test_every_source_counts_once() -> None:
    one_each = [run_of(f"{name}-1", ratio) for name, ratio in (("a", 1.0), ("b", 1.5), ("c", 3.0))]
    many = [*one_each, *(run_of(f"c-{number}", 3.0) for number in range(2, 9))]

    few, more = overrun_from(one_each, "dense, ordinary"), overrun_from(many, "dense, ordinary")

    assert (few.central, more.central) == (1.5, 1.5)
    assert (few.sources, few.runs, more.sources, more.runs) == (3, 3, 3, 10)
    assert overrun_from(one_each, "dense, tuned").central == 3.0


def test_too_few_mixtures_take_the_range_of_all_runs_and_are_never_planned_below_the_best_case() -> None:
    runs = [run_of(f"{name}-1", ratio) for name, ratio in (("a", 1.0), ("b", 1.5), ("c", 3.0))]
    mixtures = [run_of("m-1", 0.5, mixture=True)]

    found = overrun_from([*runs, *mixtures], "mixture, ordinary")

    assert found.central == 1.0
    assert found.low == 0.5
    assert found.high > 2
    assert found.runs == 4


def test_a_run_of_known_software_counts_in_the_population_of_that_alone() -> None:
    runs = [run_of(f"{name}-1", ratio, mixture=True) for name, ratio in (("a", 1.0), ("b", 1.5), ("c", 3.0))]
    tuned = msgspec.structs.replace(run_of("d-1", 0.2, mixture=True), best_case_device_hours={"tuned": 1000.0})

    without, ordinary = (overrun_from(some, "mixture, ordinary") for some in (runs, [*runs, tuned]))

    assert ordinary == without
    assert overrun_from([*runs, tuned], "mixture, tuned").sources == 4


def test_shipped_overruns_are_those_of_the_published_runs_and_hold_seventy_percent_of_them() -> None:
    runs = whole_runs()
    found = {item.kind: item for item in class_overruns(runs)}

    assert len(runs) == len({run.id for run in runs}) >= 24
    for kind, item in found.items():
        # A tenth: constants of the step may be newer than the overruns by one calibration.
        assert item.overrun.central == pytest.approx(OVERRUNS[kind].central, rel=0.1), kind
        assert (item.overrun.sources, item.overrun.runs) == (OVERRUNS[kind].sources, OVERRUNS[kind].runs)
    for kind in ("dense, ordinary", "dense, tuned"):
        assert found[kind].coverage >= 0.7
        assert found[kind].blind_coverage >= 0.7


def test_overruns_are_written_into_their_lines() -> None:
    found = class_overruns([run_of("a-1", 1.25), run_of("b-1", 1.25), run_of("c-1", 1.25)])[:1]

    assert rewrite_overruns('    "dense, ordinary": Overrun(1, 2,\n 3),', found) == (
        '    "dense, ordinary": Overrun(1.25, 1.25, 1.25, 3, 3),'
    )
    with pytest.raises(ValueError, match="dense, ordinary"):
        rewrite_overruns("nothing", found)
