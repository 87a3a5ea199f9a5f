"""Spent plus remaining: by measured rates where there are any, with a range, and never a zero for what is unknown."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Reservation
from carbon_plugin.ledger.held.account_inputs import UncertaintyScope, UsedEnergy, energy_item
from carbon_plugin.monitor.run.metrics import metrics_of
from carbon_plugin.monitor.run.projection import has_rates, outlook, remaining_measured, remaining_predicted
from carbon_plugin.monitor.run.totals import RunTotals
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.training import TrainingPlan

CLUSTER = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=1, devices_per_node=8)
SITE = Site(zone="FRA", pue=1.2)
SCOPE: UncertaintyScope = ("gpu", "gpu:H100")
FACTORS = resolve_factors(SITE, CLUSTER)


def totals(*, joules: float = 1e6, steady_s: float = 100.0, steps: int = 200, startup_j: float = 2e5) -> RunTotals:
    def energy(energy_j: float) -> Range:
        return Range(energy_j, 0.95 * energy_j, 1.05 * energy_j)

    def reserved(time_s: float) -> tuple[Reservation, ...]:
        units = {"device": 8.0, "host": 1.0, "network": 8.0}
        return tuple(Reservation(scope=scope, units=count, time_s=time_s) for scope, count in units.items())

    return RunTotals(
        spent={SCOPE: UsedEnergy(energy=energy(joules + startup_j), without_factors_j=joules + startup_j)},
        steady=(energy_item(SCOPE, energy(joules)),), steady_s=steady_s, steady_steps=steps,
        reserved=reserved(steady_s + 20), reserved_now=reserved(1.0), power_w=5000.0, gpus=8, gpus_measured=8,
        nodes_seen=1, last_step=steps,
    )  # fmt: skip


def test_measured_rates_carry_on_and_leave_start_up_out():
    rest = remaining_measured(totals(), 400, None)

    assert rest.time_s == 200
    assert rest.energies[0].energy.value == pytest.approx(2e6)
    assert {r.scope: r.units * r.time_s for r in rest.reserved} == {"device": 1600, "host": 200, "network": 1600}


def test_whole_run_is_spent_plus_remaining():
    now = totals()

    view = outlook(now, remaining_measured(now, 400, None), FACTORS)

    low, central, high = view.energy_j.low, view.energy_j.value, view.energy_j.high
    assert central == pytest.approx(1.2e6 + 2e6)
    assert low < central < high
    assert view.whole.operational_kg.value == pytest.approx(3.2e6 * 1.2 * FACTORS.intensity.figure.value / 3.6e9)
    assert view.spent.total_kg < view.whole.total_kg.value


def test_range_shrinks_as_the_run_ends():
    def width(steps_left: int) -> float:
        view = outlook(totals(), remaining_measured(totals(), steps_left, 0.2), None)
        low, central, high = view.energy_j.low, view.energy_j.value, view.energy_j.high
        return (high - low) / central

    assert width(10) < width(1000)


def test_at_the_end_nothing_remains():
    now = totals()

    view = outlook(now, remaining_measured(now, 0, 0.1), FACTORS)

    assert view.remaining_s == 0
    assert view.energy_j.value == pytest.approx(now.energy_j)
    assert view.whole.total_kg.value == pytest.approx(view.spent.total_kg)


@pytest.mark.parametrize(
    ("steady_s", "steps", "enough"), [(9.0, 100, False), (12.0, 9, True), (12.0, 0, False), (100.0, 5, True)]
)
def test_rates_need_time_and_steps(steady_s, steps, enough):
    assert has_rates(totals(steady_s=steady_s, steps=steps)) is enough


def test_before_anything_is_measured_the_prediction_stands_in():
    model = TransformerModel(name="m", layers=8, hidden=1024, heads=8, kv_heads=8, head_dim=128, ffn=4096, vocab=32000)
    spec = RunSpec(
        name="r", model=model, cluster=CLUSTER, site=SITE, layout=ParallelLayout(dp_shard=8, zero_stage=3),
        training=TrainingPlan(seq_len=2048, global_batch_size=64, steps=100),
    )  # fmt: skip
    prediction = predict_step(spec)

    rest = remaining_predicted(prediction, CLUSTER, 100, 0.25, (0.8, 1.5))

    assert rest.time_s == pytest.approx(125 * prediction.step_time_s.value)
    assert {item.rung for item in rest.energies} == {"gpu", "host", "network"}
    assert rest.spread == (0.8, 1.5)


def test_measured_rates_leave_only_the_failures_to_come():
    now = totals()
    steady, failing = remaining_measured(now, 400, None), remaining_measured(now, 400, None, 0.1)

    assert failing.time_s == pytest.approx(1.1 * steady.time_s)
    pairs = list(zip(failing.energies, steady.energies, strict=True))
    assert pairs
    assert all(more.energy.value == pytest.approx(1.1 * less.energy.value) for more, less in pairs)
    # No failure at all lies inside the range.
    assert failing.spread[0] < 1 / 1.1


def test_unknown_quantities_have_no_key():
    now = totals()

    bare = metrics_of(now, outlook(now, None, None), step_time_s=None, predicted_step_time_s=None)
    without_embodied = metrics_of(
        now, outlook(now, None, resolve_factors(SITE, None)), step_time_s=0.5, predicted_step_time_s=0.4
    )

    assert set(bare) == {"carbon/energy_kwh", "carbon/measured_share", "carbon/power_w", "carbon/coverage_gpus"}
    assert without_embodied["carbon/operational_kg"] > 0
    assert "carbon/embodied_kg" not in without_embodied
    assert "carbon/total_kg" not in without_embodied
    assert without_embodied["carbon/step_time_ratio"] == 1.25


class Counted(dict[UncertaintyScope, UsedEnergy]):
    """The energies of a run, which count how often they are gone through."""

    times = 0

    def values(self):
        self.times += 1
        return super().values()


def test_the_metrics_sum_the_energy_of_a_run_once():
    now = totals()
    told = Counted({SCOPE: msgspec.structs.replace(now.spent[SCOPE], told_j=1e6, estimated_j=2e5)})
    now = msgspec.structs.replace(now, spent=told)

    metrics = metrics_of(now, outlook(now, None, None), step_time_s=None, predicted_step_time_s=None)

    assert told.times == 1
    assert metrics["carbon/energy_kwh"] == 1.2e6 / 3.6e6
    assert metrics["carbon/estimated_energy_kwh"] == 2e5 / 3.6e6
    assert metrics["carbon/measured_share"] == pytest.approx(8e5 / 1.2e6)


def test_known_ones_have_all_keys():
    now = totals()
    view = outlook(now, remaining_measured(now, 400, None), FACTORS)

    metrics = metrics_of(now, view, step_time_s=0.5, predicted_step_time_s=0.4, by_measured_rates=True)

    assert metrics["carbon/projected_by_rates"] == 1.0
    parts = metrics["carbon/operational_kg"] + metrics["carbon/embodied_kg"]
    assert parts == pytest.approx(metrics["carbon/total_kg"])
    ends = (metrics[f"carbon/projected_total_kg{end}"] for end in ("_low", "", "_high"))
    assert list(ends) == sorted({metrics[f"carbon/projected_total_kg{end}"] for end in ("_low", "", "_high")})
    assert metrics["carbon/remaining_h"] == pytest.approx(200 / 3600)
