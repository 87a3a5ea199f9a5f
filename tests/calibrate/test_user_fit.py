"""A user's rows to a user's profile: what the rows tell is fitted, what they cannot tell is refused with a reason."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from carbon_plugin.calibrate.rows import PublishedRow
from carbon_plugin.calibrate.table import predict, tabulate
from carbon_plugin.calibrate.user_fit import Calibration, calibrate
from carbon_plugin.calibrate.user_profile import provenance, user_profile, write_profile
from carbon_plugin.calibrate.validate import published_rows
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware import Efficiency
from carbon_plugin.spec.profiles import load_accelerator, load_stack


@pytest.fixture(scope="module")
def published() -> list[PublishedRow]:
    return published_rows()[0]


def rows_of(published, source: str, count: int, *, slower: float = 1.0) -> list[PublishedRow]:
    """Rows whose measured time is the prediction times `slower`."""
    rows = [row for row in published if row.source == source][:count]
    predicted = np.asarray(predict(table := tabulate(rows), table.shipped).total)
    return [
        msgspec.structs.replace(row, measured_step_time_s=slower * float(time))
        for row, time in zip(rows, predicted, strict=True)
    ]


def fitted_names(calibration: Calibration) -> set[str]:
    return {constant.field for constant in calibration.fitted}


def refusals(calibration: Calibration) -> dict[str, str]:
    return {refused.name: refused.reason for refused in calibration.refused}


def test_rows_that_are_slower_throughout_are_put_down_to_software_that_nobody_knows(published) -> None:
    rows = [msgspec.structs.replace(row, framework="ours") for row in rows_of(published, "llmf-h100", 12, slower=1.3)]
    result = calibrate(rows)
    (factor,) = [constant for constant in result.fitted if constant.field == "framework_factor"]
    assert factor.stack == "ours"
    assert factor.after / factor.before == pytest.approx(1.3, rel=0.05)
    assert result.mape_before > 20
    assert result.mape_after < 2


def test_a_device_that_nobody_calibrated_gets_its_own_share_of_peak(published) -> None:
    rows = rows_of(published, "tpu", 12, slower=1.15)
    assert "gemm_share" in fitted_names(calibrate(rows))


def test_eight_rows_of_a_new_device_predict_the_others(published, tmp_path) -> None:
    rows = [_on_a_new_device(row) for row in published if row.source == "llmf-h100"]
    chosen, others = rows[::9], [row for index, row in enumerate(rows) if index % 9]
    result = calibrate(chosen)
    device = user_profile(chosen[0].spec.cluster.accelerator, result, "a test")
    errors = []
    for row in others:
        cluster = msgspec.structs.replace(row.spec.cluster, accelerator=device)
        predicted = predict_step(msgspec.structs.replace(row.spec, cluster=cluster)).step_time_s.value
        errors.append(abs(predicted / row.measured_step_time_s - 1))
    assert len(chosen) == 8
    assert 100 * np.mean(errors) < 4


def _on_a_new_device(row: PublishedRow) -> PublishedRow:
    blank = msgspec.structs.replace(row.spec.cluster.accelerator, efficiency=Efficiency())
    cluster = msgspec.structs.replace(row.spec.cluster, accelerator=blank)
    return msgspec.structs.replace(row, spec=msgspec.structs.replace(row.spec, cluster=cluster))


def test_one_odd_row_does_not_win(published) -> None:
    rows = [msgspec.structs.replace(row, framework="ours") for row in rows_of(published, "llmf-h100", 12, slower=1.3)]
    odd = msgspec.structs.replace(rows[0], measured_step_time_s=5 * rows[0].measured_step_time_s)
    (factor,) = [c for c in calibrate([odd, *rows[1:]]).fitted if c.field == "framework_factor"]
    assert factor.after / factor.before == pytest.approx(1.3, rel=0.05)


def test_the_host_cost_is_refused_from_large_models(published) -> None:
    result = calibrate(rows_of(published, "sc21", 10))
    assert "host_op_time_s" not in fitted_names(result)
    assert "moves no row by over" in refusals(result)["host_op_time_s of megatron-lm-2021"]


def test_the_host_cost_is_told_by_small_models(published) -> None:
    assert "host_op_time_s" in fitted_names(calibrate(rows_of(published, "vtrain_single_node", 200)))


def test_links_are_refused_from_one_gpu(published) -> None:
    reasons = refusals(calibrate([_on_one_device(row) for row in rows_of(published, "llmf-h100", 4)]))
    for name in ("scaleup_latency_s", "scaleup_share", "scaleout_latency_s", "scaleout_share", "all_to_all_share"):
        assert reasons[name] == "no row shows it"


def _on_one_device(row: PublishedRow) -> PublishedRow:
    spec = row.spec
    layout = msgspec.structs.replace(spec.layout, dp_shard=1, dp_replicate=1, zero_stage=0)
    cluster = msgspec.structs.replace(spec.cluster, nodes=1, devices_per_node=1)
    return msgspec.structs.replace(row, spec=msgspec.structs.replace(spec, layout=layout, cluster=cluster))


def test_every_constant_is_either_fitted_or_refused_once(published) -> None:
    result = calibrate(rows_of(published, "simumax", 6))
    names = [refused.name for refused in result.refused]
    assert len(names) == len(set(names))
    assert len(result.fitted) + len(names) == 12


def test_rows_on_two_accelerators_are_refused(published) -> None:
    with pytest.raises(SpecError, match="rows on a100-sxm-80gb, b200-sxm; expected one accelerator"):
        calibrate([*rows_of(published, "sc21", 1), *rows_of(published, "simumax", 1)])


def test_no_predictable_row_is_an_error_with_the_first_reason() -> None:
    with pytest.raises(SpecError, match="none of 0 rows"):
        calibrate([])


def test_the_written_profile_and_stack_reproduce_the_fitted_step_times(published, tmp_path) -> None:
    rows = [msgspec.structs.replace(row, framework="ours") for row in rows_of(published, "llmf-h100", 12, slower=1.3)]
    result = calibrate(rows)
    line = provenance(result, "rows.yaml", "2026-01-02")
    paths = write_profile(tmp_path / "h100-sxm.yaml", rows, result, line)

    assert paths == [tmp_path / "h100-sxm.yaml", tmp_path / "stacks" / "ours.yaml"]
    device = load_accelerator("h100-sxm", profile_dirs=[tmp_path])
    assert device.sources["user-calibration"] == line
    assert "12 rows" in line
    assert "2026-01-02" in line
    stack = load_stack("ours", profile_dirs=[tmp_path])
    for row, residual in zip(rows, result.rows, strict=True):
        cluster = msgspec.structs.replace(row.spec.cluster, accelerator=device)
        spec = msgspec.structs.replace(row.spec, cluster=cluster, stack=stack)
        assert predict_step(spec).step_time_s.value == pytest.approx(residual.after_s, rel=1e-4)


@pytest.mark.parametrize(("count", "kind"), [(4, "sustained_law"), (12, "calibrated")])
def test_a_few_rows_do_not_narrow_the_interval_of_a_new_device(published, tmp_path, count, kind) -> None:
    rows = rows_of(published, "tpu", count, slower=1.2)
    result = calibrate(rows)
    write_profile(tmp_path / "tpu.yaml", rows, result, provenance(result, "rows.yaml", "2026-01-02"))
    device = load_accelerator(result.accelerator, profile_dirs=[tmp_path])
    cluster = msgspec.structs.replace(rows[0].spec.cluster, accelerator=device)
    assert predict_step(msgspec.structs.replace(rows[0].spec, cluster=cluster)).accuracy_class == kind
