"""A user's rows to a user's profile: what the rows tell is fitted, what they cannot tell is refused with a reason."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import predict, tabulate
from carbon_plugin.calibrate.user_fit import Calibration, calibrate, learned_power, told_too_little
from carbon_plugin.calibrate.user_profile import provenance, user_profile, user_stacks, write_profile
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty.interval import WHOLE
from carbon_plugin.spec.hardware.cluster import Accelerator, Efficiency
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node, load_stack
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import STACKS, Stack, factor_of


@pytest.fixture(scope="module")
def published() -> list[PublishedRow]:
    return published_rows()[0]


def rows_of(published, source: str, count: int, *, slower: float = 1.0) -> list[PublishedRow]:
    """Return rows whose measured time is the prediction times `slower`."""
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
    device = user_profile(chosen, result, "a test")
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
    alone = msgspec.structs.replace(spec, layout=layout, cluster=cluster)
    return msgspec.structs.replace(row, spec=alone, measured_step_time_s=predict_step(alone).step_time_s.value)


def test_every_constant_is_either_fitted_or_refused_once(published) -> None:
    result = calibrate(rows_of(published, "simumax", 6))
    names = [refused.name for refused in result.refused]
    assert len(names) == len(set(names))
    assert len(result.fitted) + len(names) == 12


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.1, 0.0998, "tell nothing about it, which is known to ± 10 % as before"),
     (0.3, 0.28, "tell too little about it, which is known to ± 28 %, and was to ± 30 % before")],
)  # fmt: skip
def test_a_constant_that_the_rows_do_not_narrow_is_said_to_be_untold(before, after, words) -> None:
    assert words in told_too_little(before, after)


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


def test_a_node_that_is_none_of_ours_is_written_beside_the_profile(published, tmp_path) -> None:
    rows = [with_node(row, "our-rack") for row in rows_of(published, "llmf-h100", 2, slower=1.3)]

    write_profile(tmp_path / "h100-sxm.yaml", rows, calibrate(rows), "rows.yaml")

    assert load_node("our-rack", profile_dirs=[tmp_path]) == rows[0].spec.cluster.node


def with_node(row: PublishedRow, name: str) -> PublishedRow:
    """Return the row on a node that is called otherwise."""
    cluster = row.spec.cluster
    renamed = msgspec.structs.replace(cluster, node=msgspec.structs.replace(cluster.node, name=name, aliases=[]))
    return msgspec.structs.replace(row, spec=msgspec.structs.replace(row.spec, cluster=renamed))


def test_more_runs_of_a_cluster_predict_its_next_run_better_and_in_a_narrower_range() -> None:
    layouts = [
        {"tp": tp, "dp_shard": 16 // tp, "zero_stage": 3, "micro_batch_size": mbs, "sequence_parallel": tp > 1}
        for tp in (1, 2, 4)
        for mbs in (1, 2)
    ]
    usual = STACKS["ordinary"]
    truth = msgspec.structs.replace(usual, framework_factor=1.5 * factor_of(usual))  # this cluster is half slower
    rows = []
    for number, layout in enumerate(layouts):
        spec = build_run_spec(
            {
                "model": "llama-3.1-8b",
                "cluster": {"accelerator": "h100-sxm", "nodes": 2},
                "layout": {**layout, "recompute": "operators"},
                "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 10, "precision": "bf16"},
                "site": {"zone": "FRA"},
            }
        )
        noise = (1.03, 0.98, 1.01, 0.97, 1.02, 0.99)[number]
        measured_s = noise * predict_step(msgspec.structs.replace(spec, stack=truth)).step_time_s.value
        rows.append(
            PublishedRow(
                id=f"own-{number}", source="own", origin="own", collection="first", accelerator="h100-sxm",
                framework="ordinary", model_key="m", spec=spec, measured_step_time_s=measured_s,
            )
        )  # fmt: skip

    def error_and_width(seen: int) -> tuple[float, float]:
        held = rows[-2:]
        specs = [row.spec for row in held]
        if seen:
            calibration = calibrate(rows[:seen])
            device = user_profile(rows[:seen], calibration, "runs")
            stack = user_stacks(rows[:seen], calibration.fitted)["ordinary"]
            cluster = msgspec.structs.replace(specs[0].cluster, accelerator=device)
            specs = [msgspec.structs.replace(spec, cluster=cluster, stack=stack) for spec in specs]
        figures = [predict_step(spec).step_time_s for spec in specs]
        errors = [abs(f.value / row.measured_step_time_s - 1) for f, row in zip(figures, held, strict=True)]
        return sum(errors) / len(errors), figures[0].high / figures[0].low

    (none, wide), (one, narrower), (three, narrow) = (error_and_width(seen) for seen in (0, 1, 3))

    assert none > 0.15
    assert one < 0.6 * none  # about half, whatever constants the next fit ships
    assert three < 0.06
    assert narrow < narrower < wide


@pytest.mark.parametrize(("slower", "narrows"), [(1.1, True), (4.0, False)])
def test_a_run_far_outside_of_its_range_narrows_no_range(published, slower, narrows) -> None:
    row = rows_of(published, "llmf-h100", 1, slower=slower)[0]
    result = calibrate([row])
    cluster = msgspec.structs.replace(row.spec.cluster, accelerator=user_profile([row], result, "runs"))
    stack = user_stacks([row], result.fitted)[row.framework]

    before = predict_step(row.spec).step_time_s
    after = predict_step(msgspec.structs.replace(row.spec, cluster=cluster, stack=stack)).step_time_s

    (left,) = result.carried
    assert ((left.faster, left.slower) != WHOLE[:2]) == narrows
    assert (after.high / after.low < 0.99 * before.high / before.low) == narrows


@pytest.mark.parametrize("name", ["megatron-core", "torchtitan", "nemo"])
def test_runs_of_one_software_narrow_no_range_of_another(published, name) -> None:
    rows = rows_of(published, "llmf-h100", 6, slower=1.1)
    result = calibrate(rows)
    own = user_stacks(rows, result.fitted)[rows[0].framework]
    device = user_profile(rows, result, "runs")

    def width(accelerator: Accelerator, stack: Stack) -> float:
        cluster = msgspec.structs.replace(rows[0].spec.cluster, accelerator=accelerator)
        figure = predict_step(msgspec.structs.replace(rows[0].spec, cluster=cluster, stack=stack)).step_time_s
        return figure.high / figure.low

    stranger = rows[0].spec.cluster.accelerator
    assert {constant.stack for constant in result.fitted} - {rows[0].framework}  # the device was told something, too
    assert width(device, own) < 0.9 * width(stranger, own)
    assert width(device, STACKS[name]) == pytest.approx(width(stranger, STACKS[name]))


def test_power_of_runs_moves_the_sustained_power_by_what_they_tell(published) -> None:
    row = rows_of(published, "llmf-h100", 1)[0]
    alike, less = (
        learned_power([msgspec.structs.replace(row, id=str(number), power_ratio=ratio) for number in range(count)])
        for ratio, count in ((1.0, 1), (0.9, 3))
    )

    assert learned_power([row]) is None
    assert alike is not None
    assert less is not None
    assert alike.after_w == pytest.approx(alike.before_w)
    assert 0.85 * less.before_w < less.after_w < 0.95 * less.before_w
    assert less.spread < alike.spread
    assert (alike.runs, less.runs) == (1, 3)


@pytest.mark.parametrize("times", [1000, 60, 1 / 40])
def test_a_row_in_another_unit_is_refused_by_name_and_fits_nothing(published, times) -> None:
    right, wrong = rows_of(published, "llmf-h100", 2)
    wrong = msgspec.structs.replace(wrong, measured_step_time_s=times * wrong.measured_step_time_s)

    with pytest.raises(
        SpecError, match=f"{wrong.id}: a step of .* times the predicted .* s, and no cluster is so far from it"
    ):
        calibrate([right, wrong])


def test_a_cluster_that_is_far_slower_than_predicted_is_still_fitted(published) -> None:
    slow = rows_of(published, "llmf-h100", 4, slower=9)

    assert calibrate(slow).mape_after < calibrate(slow).mape_before
