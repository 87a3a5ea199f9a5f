"""Runs that were planned with what earlier ones taught teach the same as runs that were not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from carbon_plugin.calibrate.rows.basis import on_one_basis
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.user_fit import calibrate
from carbon_plugin.calibrate.user_profile import user_profile, user_stacks
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec

MEASURED_S = (9.0, 8.0)
POWER_W = 500.0


@pytest.fixture(scope="module")
def planned() -> RunSpec:
    return build_run_spec(
        {
            "model": "llama-3.1-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"},
            "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 100, "precision": "bf16"},
            "site": {"zone": "FRA"},
            "stack": "ordinary",
        }
    )


def row_of(spec: RunSpec, measured_s: float) -> PublishedRow:
    return PublishedRow(
        id=f"{measured_s:g} s", source="own", origin="own", collection="first", accelerator="h100-sxm",
        framework="ordinary", model_key="m", spec=spec, measured_step_time_s=measured_s,
        power_ratio=POWER_W / predict_step(spec).gpu_power_w.value,
    )  # fmt: skip


def learned(spec: RunSpec, rows: Iterable[PublishedRow]) -> RunSpec:
    """Return the spec as it is planned with what the rows tell."""
    moved = on_one_basis(list(rows))
    result = calibrate(moved)
    cluster = msgspec.structs.replace(spec.cluster, accelerator=user_profile(moved, result, "runs"))
    return msgspec.structs.replace(spec, cluster=cluster, stack=user_stacks(moved, result.fitted)["ordinary"])


@pytest.mark.parametrize("order", [1, -1])
def test_a_second_run_with_the_learned_profile_teaches_what_one_without_it_does(planned, order) -> None:
    first = row_of(planned, MEASURED_S[0])
    second = row_of(learned(planned, [first]), MEASURED_S[1])
    after = predict_step(learned(planned, [first, second][::order]))
    expected = predict_step(learned(planned, [first, row_of(planned, MEASURED_S[1])]))

    assert min(MEASURED_S) < after.step_time_s.value < max(MEASURED_S)
    assert after.step_time_s.value == pytest.approx(expected.step_time_s.value, rel=1e-3)
    assert after.step_time_s.low == pytest.approx(expected.step_time_s.low, rel=1e-3)
    assert after.gpu_power_w.value == pytest.approx(expected.gpu_power_w.value, rel=1e-3)


def test_other_software_on_a_learned_device_keeps_its_own_constants(planned) -> None:
    first = row_of(planned, MEASURED_S[0])
    after = learned(planned, [first])
    other = msgspec.structs.replace(after, stack=msgspec.structs.replace(planned.stack, framework_factor=2.0))
    moved = on_one_basis([first, row_of(other, MEASURED_S[1])])

    assert moved[1].spec.stack == other.stack
    assert moved[1].spec.cluster.accelerator == planned.cluster.accelerator


def test_rows_without_a_calibration_stay_as_they_are(planned) -> None:
    rows = [row_of(planned, measured_s) for measured_s in MEASURED_S]
    assert on_one_basis(rows) == rows
