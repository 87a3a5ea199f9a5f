"""Published layouts that ran are called feasible, and what a pure 16-bit job keeps is counted as such."""

from __future__ import annotations

import functools
import inspect

import msgspec
import numpy as np
import pytest

from carbon_plugin.calibrate.rows.hybrids import is_hybrid
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import parse_rows
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty import fit
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.validate.hardware.memory import (
    ValidatedMemory,
    fit_bins,
    fit_levels,
    fit_summaries,
    memory_rows,
    memory_summaries,
    peak_errors,
    validate_memory,
)
from carbon_plugin.validate.step.spreads import rewrite_memory_effects

LEAST_FEASIBLE = {
    "llmf": 0.97,
    "vtrain": 1.0,
    "simumax": 1.0,
    "titan": 1.0,
    "korthikanti": 1.0,
    "nanotron": 1.0,
    "mbridge": 0.98,
    "nemo": 1.0,
}
MOST_ERROR = {
    "simumax": 3.0,
    "titan": 3.5,
    "titan_qwen3": 3.0,
    "nanotron": 2.5,
    "torchtune": 4.5,
    "mlp8b": 7.0,
    "litgpt-lora": 3.0,
    "torchao": 5.5,
    "milabench": 4.0,
}
"""Percent of the measured peak."""


@functools.cache
def published() -> tuple[ValidatedMemory, ...]:
    return validate_memory(memory_rows(*all_published_rows()))


def test_layouts_that_ran_fit() -> None:
    ran = [row for row in published() if not row.out_of_memory]
    origins = np.array([row.origin for row in ran])
    fits = np.array([row.fits for row in ran])

    found = {name: float(np.mean(fits[origins == name])) for name in LEAST_FEASIBLE}
    assert {name: share for name, share in found.items() if share < LEAST_FEASIBLE[name]} == {}
    assert np.mean(fits) > 0.97  # recompute and batch are assumed where a source does not state them


def test_rows_predicted_together_need_what_each_needs_alone() -> None:
    """Models with towers and unequal layers among them, which cannot stand beside plain ones in one array."""
    needs = {row.id: row.need_bytes for row in published()}
    rows, _ = all_published_rows()
    some = [*rows[::97], *(row for row in rows if is_hybrid(row))]

    alone = {row.id: predict_step(row.spec).memory.total_bytes for row in some}
    assert {name: needs[name] for name in alone} == pytest.approx(alone, rel=1e-12)


def test_probes_that_ran_out_of_memory_are_called_so() -> None:
    likely = {row.id: row.fit_probability for row in published() if row.out_of_memory}

    feasible = {name for name, probability in likely.items() if probability >= 0.5}
    # The whole model was loaded on each device of the one; what the other's communication library holds is not known.
    assert feasible == {"litgpt-lora-13b-2-mbs1", "aurora-70b-192-tp1pp16-ga16-oom"}
    assert len(likely) == 8


def test_peaks_are_as_near_as_the_documentation_says() -> None:
    errors = {one.source: one.mape for one in memory_summaries(published()) if one.source in MOST_ERROR}

    assert errors.keys() == MOST_ERROR.keys()
    assert {name: error for name, error in errors.items() if error > MOST_ERROR[name]} == {}


def test_the_shipped_spreads_of_memory_are_those_of_the_published_peaks() -> None:
    text = inspect.getsource(fit)

    assert rewrite_memory_effects(text, published()) == text


def test_a_row_without_a_step_time_still_says_whether_it_fit() -> None:
    shape = {
        "layers": 32,
        "hidden": 4096,
        "ffn": 11008,
        "heads": 32,
        "vocab": 32000,
        "mlp": "swiglu",
        "attention": "MHA",
    }
    common = {
        "model": "7B", "seq_len": 2048, "precision": "bf16", "gpu": "A100-80GB-SXM", "n_gpus": 1, "gpus_per_node": 8,
        "tp": 1, "pp": 1, "sharding": "none", "mbs": 1, "gbs": 8, "framework": "PyTorch", **shape,
    }  # fmt: skip
    records = [
        {"id": "probe-oom", "kind": "oom_probe", "oom": True, **common},
        {"id": "probe-peak", "kind": "benchmark", "mem_gib_per_gpu": 60, "padded": True, **common},
        {"id": "probe-odd", "kind": "oom_probe", "oom": True, **common, "gpu": "Abacus"},
    ]
    rows, skipped = parse_rows(records, {})
    found = {row.id: row for row in validate_memory(memory_rows(rows, skipped))}

    assert rows == []
    assert found.keys() == {"probe-oom", "probe-peak"}
    assert found["probe-oom"].out_of_memory
    assert not found["probe-oom"].fits
    assert found["probe-peak"].measured_bytes == 60 * 2**30
    (summary,) = fit_summaries(tuple(found.values()))
    assert (summary.ran, summary.out_of_memory, summary.called_too_large) == (1, 1, 1)


@pytest.mark.parametrize(
    ("notes", "framework", "scope"),
    [
        ("memory is the device-level reading", "PyTorch", "device"),
        ("", "torchtitan", "reserved"),
        ("", "PyTorch", "allocated"),
    ],
)
def test_what_a_source_reports_of_memory_is_told_apart(notes: str, framework: str, scope: str) -> None:
    record = {
        "id": "a-b", "model": "tiny", "layers": 2, "hidden": 256, "ffn": 1024, "heads": 4, "seq_len": 128,
        "precision": "bf16", "gpu": "A100-80GB-SXM", "n_gpus": 1, "tp": 1, "pp": 1, "sharding": "none", "mbs": 1,
        "gbs": 1, "framework": framework, "step_time_s": 0.1, "mem_gib_per_gpu": 3, "notes": notes,
    }  # fmt: skip
    (row,), _ = parse_rows([record], {})

    assert row.memory_scope == scope


def test_a_peak_of_rank_0_is_compared_with_the_first_stage_of_a_pipeline() -> None:
    """A small model with a large vocabulary needs most on the last stage."""
    first = next(row for row in published() if row.id == "nb16h100-1.7b-pp2")

    assert first.predicted_bytes == pytest.approx(first.measured_bytes, rel=0.03)
    assert first.need_bytes > 1.12 * (first.measured_bytes or 0)


def test_peaks_of_the_device_do_not_enter_the_spread() -> None:
    rows = published()
    peaks = tuple(row for row in rows if row.scope != "device")

    assert peak_errors(rows, "ordinary") == peak_errors(peaks, "ordinary")


def test_ordinary_software_has_at_least_the_spread_of_tuned_software() -> None:
    rows = published()
    near = tuple(row for row in rows if row.population == "tuned" or row.origin in ("nanotron", "litgpt"))
    far = tuple(
        msgspec.structs.replace(
            row, predicted_bytes=(row.predicted_bytes or 0) * (1.3 if row.origin == "litgpt" else 1)
        )
        for row in near
    )

    near_ordinary, near_tuned = peak_errors(near, "ordinary"), peak_errors(near, "tuned")
    assert near_ordinary == near_tuned._replace(offset=near_ordinary.offset)
    assert fit.width(peak_errors(far, "ordinary")) > fit.width(peak_errors(far, "tuned"))


def test_each_scope_of_a_source_is_summed_up_by_itself() -> None:
    rows = [row for row in published() if row.origin == "nanotron"][:4]
    mixed = [*rows[:2], *(msgspec.structs.replace(row, scope="device") for row in rows[2:])]

    assert [(one.scope, one.n) for one in memory_summaries(mixed)] == [("allocated", 2), ("device", 2)]


def test_a_pure_16_bit_job_keeps_a_quarter_of_adams_states() -> None:
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"dp_replicate": 8, "micro_batch_size": 1},
            "training": {"seq_len": 2048, "global_batch_size": 8, "steps": 1, "precision": "bf16"},
            "site": {"zone": "FRA"},
        },
        origin="test",
    )
    pure = msgspec.structs.replace(spec.training, master_weights=False, optimizer_state_dtype="bf16")
    streamed = msgspec.structs.replace(pure, optimizer_in_backward=True)
    usual, bare, least = (
        predict_step(msgspec.structs.replace(spec, training=plan)) for plan in (spec.training, pure, streamed)
    )
    count = spec.model.parameters
    assert usual.memory.parts_bytes["optimizer"] > 2.9 * bare.memory.parts_bytes["optimizer"]
    assert bare.memory.parts_bytes["gradients"] / count < 2.1
    assert "gradients" not in least.memory.parts_bytes
    assert bare.breakdown_s["optimizer"] < 0.5 * usual.breakdown_s["optimizer"]


def test_a_peak_fits_about_as_often_as_it_was_said_to() -> None:
    levels = {level.probability: level.share for level in fit_levels(published())}

    assert list(levels.values()) == sorted(levels.values())
    assert {said: kept for said, kept in levels.items() if abs(kept - said) > 0.1} == {}


def test_every_row_counts_once_by_how_likely_it_was_said_to_fit() -> None:
    bins = fit_bins(published())

    assert sum(one.rows for one in bins) == len(published())
    assert sum(one.rows - one.ran for one in bins) == sum(row.out_of_memory for row in published())
