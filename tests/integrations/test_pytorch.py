"""A real FSDP2 job of two processes under a simulated driver, hands-free by the optimizer's hook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Span, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.plan.forecast import make_forecast, save_forecast
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.training import TrainingPlan
from tests.integrations.jobs.telling import told
from tests.ledgers import assert_drawn, energy_of, ledger_of

JOB = Path(__file__).parent / "jobs" / "fsdp.py"
STEPS = 60


def plan() -> RunSpec:
    """Return a plan that is wrong on purpose: one layer too many, and copies instead of shards. The CPU has the numbers
    of an H100.
    """
    cpu = replace(load_accelerator("h100-sxm"), name="this-machine", kind="cpu")
    node = replace(load_node("dgx-h100"), accelerator="this-machine")
    return RunSpec(
        name="tiny",
        model=TransformerModel(
            name="tiny", layers=3, hidden=32, heads=4, kv_heads=4, head_dim=8, ffn=128, vocab=64, gated=False
        ),
        cluster=Cluster(accelerator=cpu, node=node, nodes=1, devices_per_node=2),
        layout=ParallelLayout(dp_replicate=2, micro_batch_size=2),
        training=TrainingPlan(seq_len=16, global_batch_size=4, steps=STEPS, precision="fp32"),
        site=Site(zone="FRA", pue=1.25),
        programme="tests",
        role="ablation",
    )


class Run(msgspec.Struct):
    folder: Path
    file: LedgerFile
    losses: dict[int, tuple[list[float], list[float]]]
    lasted_s: float
    metrics: dict[str, float]

    def records(self, kind: type) -> list[Any]:
        return [record for record in self.file.records if isinstance(record, kind)]


@pytest.fixture(scope="module")
def run(torchrun, nvml_simulator, tmp_path_factory) -> Run:
    import os

    folder = tmp_path_factory.mktemp("fsdp")
    save_forecast(make_forecast(plan()), folder / "forecast.json")
    environ = {**os.environ, "LD_LIBRARY_PATH": str(nvml_simulator), "NVML_SIM": "gpus=2;power=300,400"}
    done = torchrun(JOB, folder / "run", folder / "forecast.json", processes=2, imported_once=(), env=environ)
    losses = {rank: (bare, measured) for rank, bare, measured in told(done.stdout, "LOSSES")}
    (metrics,) = told(done.stdout, "METRICS")
    (lasted_s,) = told(done.stdout, "LASTED")
    file = ledger_of(folder / "run")
    return Run(folder / "run", file, losses, lasted_s, metrics)


def test_losses_of_both_ranks_are_bit_identical(run):
    for bare, measured in (run.losses[0], run.losses[1]):
        assert len(bare) == STEPS
        assert measured == bare


def test_each_gpu_is_metered_once_with_its_power(run):
    windows = run.records(Window)
    seconds = sum(window.duration_s for window in windows)
    for window in windows:
        gpus = [energy for energy in window.energies if energy.key.startswith("GPU")]
        assert len({energy.key for energy in gpus}) == len(gpus) == 2

    counter_step_s = 0.1  # and the last reading may come late on a busy machine
    for key, power_w in (("0", 300), ("1", 400)):
        energy = energy_of(windows, f"-00000000000{key}")
        assert_drawn(energy, power_w, seconds - counter_step_s, run.lasted_s + counter_step_s)


def test_what_runs_is_told_from_what_was_planned(run):
    effective = manifest_of(run.file.records).effective

    assert effective["layout.dp_shard"] == {
        "value": 2, "source": "detected: FSDP2 FSDPMeshInfo of 3 parameter groups", "planned": 1, "declared": None,
        "detected": 2,
    }  # fmt: skip
    assert effective["model.layers"]["value"] == 2
    said = [event.message for event in run.records(Event) if event.kind == "difference"]
    assert "layout.dp_replicate: planned 2, detected 1; detected counts" in said
    assert any(sentence.startswith("model.layers: planned 3, detected 2") for sentence in said)


def test_manifest_carries_forecast_prediction_and_factors(run):
    first, last = run.file.records[0], manifest_of(run.file.records)

    planned = last.forecast["prediction"]["step_time_s"]["value"]

    assert last.prediction["step_time_s"]["value"] != pytest.approx(planned)
    # By the plan alone, whose layout explains both ranks, or on a busy machine by what was read in the meantime.
    known = (pytest.approx(planned), last.prediction["step_time_s"]["value"])
    assert first.prediction["step_time_s"]["value"] in known
    assert last.forecast["spec"]["name"] == "tiny"
    assert last.factors["pue"]["value"] == 1.25
    assert (last.total_steps, last.tokens_per_step) == (STEPS, 64)
    assert any(assumption["field"].startswith("site") for assumption in last.assumptions)


def test_steps_of_the_loader_worker_do_not_count(run):
    (close,) = run.records(Close)

    assert (close.reason, close.steps) == ("closed", STEPS)
    assert sum(window.tokens for window in run.records(Window)) == 64 * STEPS
    assert verify_run(run.folder).ok


def test_measured_steps_stand_beside_predicted_ones(run):
    spans = run.records(Span)

    assert spans
    assert all(span.predicted_step_time_s is not None and span.step_time_s > 0.03 for span in spans)
    assert run.metrics["carbon/step_time_ratio"] == pytest.approx(
        run.metrics["carbon/step_time_s"] / run.metrics["carbon/predicted_step_time_s"]
    )


def test_projection_and_metrics_agree(run):
    projection = run.records(Projection)[-1]

    assert (projection.step, projection.total_steps) == (STEPS, STEPS)
    low, central, high = projection.carbon_kg
    assert low <= central <= high
    assert projection.remaining_s == 0
    assert central == pytest.approx(projection.spent_carbon_kg)
    assert run.metrics["carbon/coverage_gpus"] == 1
    assert run.metrics["carbon/total_kg"] == pytest.approx(
        run.metrics["carbon/operational_kg"] + run.metrics["carbon/embodied_kg"]
    )
    assert run.metrics["carbon/projected_total_kg_low"] <= run.metrics["carbon/projected_total_kg"]


def test_run_is_marked_with_its_programme(run):
    identity = read_run(run.folder).identity

    assert (identity.name, identity.programme, identity.role) == ("tiny", "tests", "ablation")
