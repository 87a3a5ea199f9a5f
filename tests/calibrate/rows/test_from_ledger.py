"""A run directory becomes rows: measured step times of its spans against the effective spec of its manifest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from carbon_plugin.calibrate.rows.from_ledger import ledger_rows
from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import LEDGER_VERSION, Event, Manifest, Record, Span, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.hardware.cluster import OwnSoftware
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import host_op_time_of

RUN = "b" * 32


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return build_run_spec(
        {
            "model": "llama-3.1-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"},
            "training": {"seq_len": 4096, "global_batch_size": 8, "steps": 100, "precision": "bf16"},
            "site": {"zone": "FRA"},
            "stack": "torchtitan",
        }
    )


def manifest(spec: RunSpec | None, *, node: int = 0, attempt: int = 0) -> Manifest:
    return Manifest(
        version=LEDGER_VERSION,
        run_id=RUN,
        attempt=attempt,
        node=node,
        nodes=1,
        host_key="boot",
        hostname="host",
        world_size=8,
        started_unix_s=0.0,
        reserved_since_unix_s=None,
        devices=[],
        effective={},
        factors={},
        versions={},
        spec=None if spec is None else msgspec.to_builtins(spec),
    )


def span(first: int, last: int, step_time_s: float) -> Span:
    return Span(
        first_step=first,
        last_step=last,
        start_unix_s=0.0,
        duration_s=step_time_s * (last - first + 1),
        step_time_s=step_time_s,
        predicted_step_time_s=None,
        gpu_energy_per_step_j=None,
        predicted_gpu_energy_per_step_j=None,
        boundary_error_s=0.0,
    )


def write(run_dir: Path, *records: Record, node: int = 0, attempt: int = 0) -> None:
    agree_run(run_dir, name="run", run_id=RUN)
    writer = LedgerWriter(run_dir, run_id=RUN, node=node, attempt=attempt)
    for record in records:
        writer.write(record)
    writer.close()


def test_a_run_is_one_row_with_the_median_step_time_of_its_spans(spec, tmp_path) -> None:
    write(tmp_path, manifest(None), manifest(spec), span(4, 13, 0.9), span(14, 33, 0.5), span(34, 53, 0.52))
    (row,), skipped = ledger_rows(tmp_path)
    assert not skipped
    assert row.spec == spec
    assert row.measured_step_time_s == 0.52
    assert row.accelerator == "h100-sxm"
    assert row.framework == "torchtitan"


def test_a_row_and_an_attempt_without_one_are_named_by_directory_run_and_attempt(spec, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, attempt, *measured in (("first", 0, span(4, 13, 0.5)), ("second", 0, span(4, 13, 0.6)), ("second", 1)):
        write(tmp_path / "runs" / name, manifest(spec, attempt=attempt), *measured, attempt=attempt)

    found = [ledger_rows(place) for place in ("runs/first", "runs/second/../second")]

    names = [name for rows, skipped in found for name in [row.id for row in rows] + [one.id for one in skipped]]
    assert names == [
        f"runs/first {RUN}-attempt-0",
        f"runs/second {RUN}-attempt-0",
        f"runs/second {RUN}-attempt-1",
    ]


def test_step_time_and_power_are_medians_over_the_same_steps(spec, tmp_path) -> None:
    few, many = (
        msgspec.structs.replace(
            span(first, last, step_time_s),
            gpu_energy_per_step_j=watts * step_time_s,
            predicted_step_time_s=1.0,
            predicted_gpu_energy_per_step_j=100.0,
        )
        for first, last, step_time_s, watts in ((4, 13, 0.9, 50.0), (14, 53, 0.5, 80.0))
    )
    write(tmp_path, manifest(spec), few, many)
    ((row,), _) = ledger_rows(tmp_path)
    assert (row.measured_step_time_s, row.power_ratio) == (0.5, pytest.approx(0.8))


def test_the_nodes_of_an_attempt_are_one_row_and_its_attempts_are_several(spec, tmp_path) -> None:
    for attempt in (0, 1):
        for node in (0, 1):
            record = manifest(spec, node=node, attempt=attempt)
            write(tmp_path, record, span(4, 13, 0.5 + attempt), node=node, attempt=attempt)
    rows, _ = ledger_rows(tmp_path)
    assert [row.measured_step_time_s for row in rows] == [0.5, 1.5]


def test_a_spec_that_changed_within_an_attempt_makes_a_row_of_its_own(spec, tmp_path) -> None:
    training = msgspec.structs.replace(spec.training, seq_len=2048)
    other = msgspec.structs.replace(spec, training=training)
    write(tmp_path, manifest(spec), span(4, 13, 0.5), manifest(other), span(14, 23, 0.3))
    rows, _ = ledger_rows(tmp_path)
    assert [(row.spec.training.seq_len, row.measured_step_time_s) for row in rows] == [(4096, 0.5), (2048, 0.3)]


def test_what_cannot_be_compared_is_skipped_with_the_reason(spec, tmp_path) -> None:
    counted = CountedModel(
        name="ResNet",
        parameters=1,
        trainable_parameters=1,
        forward_flops_per_sample=1.0,
        activation_bytes_per_sample=1.0,
        kernels=1,
        source="test",
    )
    lacks = Event(at_unix_s=0.0, kind="missing", message="cluster.accelerator: no profile")
    write(tmp_path, manifest(None), lacks, lacks, span(4, 13, 0.5))
    write(tmp_path, manifest(spec, attempt=1), attempt=1)
    write(tmp_path, manifest(msgspec.structs.replace(spec, model=counted), attempt=2), span(1, 9, 1.0), attempt=2)
    rows, skipped = ledger_rows(tmp_path)
    assert not rows
    assert [row.reason for row in skipped] == [
        "the spec that ran was never known as a whole: cluster.accelerator: no profile",
        "it ended before its first step",
        "ResNet is known only by its counted FLOPs, not by its layers; state them with model_spec= of watch",
    ]


def test_a_directory_without_ledgers_is_refused(tmp_path) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        ledger_rows(tmp_path)


def window(steps: int, duration_s: float) -> Window:
    return Window(
        index=0, phase="train", start_unix_s=0.0, duration_s=duration_s, energies=[], steps=steps, last_step=steps,
        tokens=0, intensity_g_per_kwh=None, pue=None,
    )  # fmt: skip


def test_a_run_too_short_for_a_span_is_a_row_by_its_short_spans_else_by_its_windows(spec, tmp_path) -> None:
    short = msgspec.structs.replace(span(4, 6, 0.5), short=True)
    write(tmp_path, manifest(None), window(1, 9.0), manifest(spec), window(6, 4.2), short)
    write(tmp_path, manifest(spec, attempt=1), window(6, 4.2), attempt=1)
    rows, skipped = ledger_rows(tmp_path)
    assert not skipped
    assert [row.measured_step_time_s for row in rows] == [0.5, pytest.approx(0.7)]


def test_a_run_that_was_planned_with_a_calibration_is_of_the_software_that_was_calibrated(spec, tmp_path) -> None:
    stack = msgspec.structs.replace(spec.stack, framework_factor=1.25)
    own = OwnSoftware(
        framework="torchtitan", rows=1, host_op_time_s=host_op_time_of(stack), framework_factor=1.25, faster=1, slower=1
    )
    device = msgspec.structs.replace(spec.cluster.accelerator, own_software=(own,))
    cluster = msgspec.structs.replace(spec.cluster, accelerator=device)
    write(tmp_path, manifest(msgspec.structs.replace(spec, cluster=cluster, stack=stack)), span(1, 9, 2.0))

    ((row,), _) = ledger_rows(tmp_path)
    assert row.framework == "torchtitan"
