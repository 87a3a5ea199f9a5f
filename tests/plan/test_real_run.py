"""A production run is planned as real runs are, and the best case of its layout stands beside it."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.alternatives import Question, search_alternatives
from carbon_plugin.plan.forecast import Forecast, load_forecast, make_forecast, save_forecast
from carbon_plugin.plan.real_run import OVERRUNS, overrun_of, run_class
from carbon_plugin.plan.whatif.axes import parse_axes
from carbon_plugin.plan.whatif.planned_run import PLAN_AXES, compare_plan
from carbon_plugin.spec.hardware.cluster import OwnSoftware
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS, factor_of, host_op_time_of


def spec_of(*, training: dict[str, object] | None = None, **changes: object) -> RunSpec:
    mapping: dict[str, object] = {
        "model": "llama3-8b",
        "cluster": {"accelerator": "h100-sxm", "nodes": 2},
        "layout": {"dp_shard": 16, "zero_stage": 3, "recompute": "operators"},
        "training": {"seq_len": 8192, "global_batch_size": 64, "tokens": 1e11, **(training or {})},
        "site": {"zone": "FRA", "pue": 1.2},
        "price_usd_per_device_hour": 2.0,
    }
    return build_run_spec({**mapping, **changes}, origin="test")


def of_own_runs(spec: RunSpec) -> RunSpec:
    """Return the run on a device on which the user's own runs were of its software."""
    own = OwnSoftware(
        framework="ordinary", rows=3, faster=0.5, slower=0.5,
        host_op_time_s=host_op_time_of(spec.stack), framework_factor=factor_of(spec.stack),
    )  # fmt: skip
    device = msgspec.structs.replace(spec.cluster.accelerator, own_software=(own,))
    return msgspec.structs.replace(spec, cluster=msgspec.structs.replace(spec.cluster, accelerator=device))


def test_the_headline_is_a_real_run_and_the_best_case_is_beside_it() -> None:
    forecast = make_forecast(spec_of())
    best, factor = forecast.best_case, OVERRUNS["dense, ordinary"].central

    assert best is not None
    assert factor > 1
    assert forecast.run_time_s.value == pytest.approx(factor * best.run_time_s.value)
    assert forecast.device_hours.value == pytest.approx(factor * best.device_hours.value)
    assert forecast.cost_usd is not None
    assert best.cost_usd is not None
    assert forecast.cost_usd.value == pytest.approx(factor * best.cost_usd.value)
    # Start-up waits at idle power, the rest of the difference trains.
    assert forecast.footprint.energy_j["gpu"].value == pytest.approx(
        factor * best.footprint.energy_j["gpu"].value, rel=0.01
    )
    assert forecast.footprint.embodied_kg.value == pytest.approx(factor * best.footprint.embodied_kg.value)
    assert forecast.run_time_s.low < best.run_time_s.value < forecast.run_time_s.high
    assert forecast.goodput is not None
    assert sum(forecast.goodput.shares.values()) == pytest.approx(1)
    assert any(item.field == "training.kind" and "whole runs of" in item.source for item in forecast.assumptions)


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(training={"kind": "benchmark"}),
        spec_of(training={"overhead_fraction": 0.1}),
        of_own_runs(spec_of()),
    ],
    ids=["benchmark", "overhead stated", "own runs"],
)
def test_a_benchmark_a_stated_overhead_and_a_cluster_with_own_runs_are_planned_as_the_best_case(spec: RunSpec) -> None:
    forecast = make_forecast(spec)

    assert forecast.best_case is None
    assert forecast.goodput is not None
    assert "overrun" not in forecast.goodput.parts_s
    assert not any(item.field == "training.kind" for item in forecast.assumptions)


def test_other_software_than_that_of_the_own_runs_is_planned_with_the_overrun_of_a_stranger() -> None:
    assert overrun_of(msgspec.structs.replace(of_own_runs(spec_of()), stack=STACKS["torchtitan"])) is not None


def test_the_factor_is_that_of_the_models_kind_and_the_population_of_its_software() -> None:
    kinds = [
        run_class(spec_of(model=model, stack=stack, layout="auto"))
        for model in ("llama3-8b", "mixtral-8x7b")
        for stack in ({}, {"preset": "tuned"})
    ]

    assert kinds == ["dense, ordinary", "dense, tuned", "mixture, ordinary", "mixture, tuned"]
    assert all(item.low <= item.central <= item.high and item.central >= 1 for item in OVERRUNS.values())


def test_a_comparison_plans_every_side_with_the_overrun_of_the_run() -> None:
    axes = parse_axes(["zone=SWE", "accelerator=a100-sxm-80gb"], PLAN_AXES)
    for spec in (spec_of(), of_own_runs(spec_of())):
        comparison = compare_plan(spec, axes)
        planned = overrun_of(spec)

        assert all(one.footprint is not None for one in comparison.alternatives)
        for one in (comparison.base, *comparison.alternatives):
            if planned is None:
                assert one.best_case is None
            else:
                assert one.best_case is not None
                assert one.elapsed_s is not None
                assert one.elapsed_s / one.best_case.run_time_s.value == pytest.approx(planned.central)


def test_a_search_ranks_real_runs_by_the_same_factor_and_holds_the_deadline_to_them() -> None:
    spec = spec_of(layout="auto")
    found = search_alternatives(spec, Question()).report.options
    best = found[0].best_case

    assert best is not None
    assert all(one.best_case is not None for one in found)
    assert found[0].run_time_s.value / best.run_time_s.value == pytest.approx(OVERRUNS["dense, ordinary"].central)
    between = (found[0].run_time_s.value + best.run_time_s.value) / 2
    assert not [one for one in found if one.run_time_s.value <= between]


def test_a_forecast_of_a_version_without_best_case_is_read(tmp_path) -> None:
    forecast = make_forecast(spec_of(training={"overhead_fraction": 0}))
    tree = msgspec.json.decode(msgspec.json.encode(forecast))
    del tree["best_case"], tree["goodput"]["overrun"], tree["spec"]["training"]["kind"]
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(tree))

    old = load_forecast(tmp_path / "old.json")

    assert isinstance(old, Forecast)
    assert old.best_case is None
    assert old.run_time_s == forecast.run_time_s
    save_forecast(make_forecast(spec_of()), tmp_path / "new.json")
    assert load_forecast(tmp_path / "new.json").best_case is not None


@pytest.mark.parametrize("overrun", ["x", 1.2, ("own",), OVERRUNS])
def test_an_overrun_that_is_none_is_named(overrun):
    with pytest.raises(SpecError, match=r'^overrun is .*, expected "own"'):
        make_forecast(spec_of(), overrun=overrun)
