"""Rules for what a description leaves open hold at any size, and take nothing that cannot be run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.calibrate.rows.rows import parse_rows
from carbon_plugin.spec.defaults import MOST_CHUNKS, SPARE_LAYERS, interleaved_chunks
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import STACKS


@given(pp=st.integers(1, 64), layers=st.integers(1, 200), rounds=st.integers(1, 20))
def test_chunks_always_deal_out_the_layers(pp, layers, rounds) -> None:
    taken = interleaved_chunks(pp, layers, pp * rounds)
    assert taken.why
    assert 1 <= taken.value <= MOST_CHUNKS
    if taken.value > 1:
        assert pp * taken.value <= layers
        assert any((layers + spare) % (pp * taken.value) == 0 for spare in range(SPARE_LAYERS + 1))


@pytest.mark.parametrize(
    ("pp", "layers", "micro_batches", "chunks"),
    [(8, 96, 64, 6), (16, 126, 32, 4), (16, 112, 32, 7), (1, 80, 7, 1), (8, 96, 12, 1), (8, 61, 64, 1)],
)
def test_stages_interleave_as_published_layouts_do(pp, layers, micro_batches, chunks) -> None:
    assert interleaved_chunks(pp, layers, micro_batches).value == chunks


PLAN: dict[str, Any] = {
    "model": "gpt3-175b",
    "cluster": {"accelerator": "a100-sxm-80gb", "nodes": 8},
    "training": {"seq_len": 2048, "global_batch_size": 512, "steps": 10},
    "site": {"zone": "FRA"},
}
ROW: dict[str, Any] = {
    "id": "mine-1",
    "model": "GPT-3 175B",
    "layers": 96,
    "hidden": 12288,
    "heads": 96,
    "ffn": 49152,
    "vocab": 51200,
    "seq_len": 2048,
    "gpu": "A100-80GB-SXM",
    "n_gpus": 64,
    "tp": 8,
    "pp": 8,
    "mbs": 1,
    "gbs": 512,
    "framework": "Megatron-Core",
    "step_time_s": 300.0,
}
LAYOUT = {"tp": 8, "pp": 8, "dp_shard": 1, "micro_batch_size": 1}


@pytest.mark.parametrize(
    ("stack", "stated", "chunks"),
    [
        ("megatron-core", {}, 6),
        ("megatron-core", {"pipeline_schedule": "1f1b"}, 1),
        ("megatron-core", {"pipeline_schedule": "interleaved", "virtual_stages": 2}, 2),
        ("ordinary", {}, 1),
    ],
)
def test_a_users_layout_is_filled_by_the_rule_of_its_software_and_the_rule_is_named(stack, stated, chunks) -> None:
    spec = build_run_spec({**PLAN, "stack": stack, "layout": {**LAYOUT, **stated}})
    assert spec.layout is not None
    assert spec.layout.virtual_stages == chunks
    named = [item.value for item in spec.assumptions if item.field == "layout.virtual_stages"]
    assert named == ([] if stated else [str(chunks)])


@pytest.mark.parametrize(
    ("stack", "sequences", "beside"),
    [
        ("ordinary", False, False),
        ("deepspeed", False, False),
        ("megatron-deepspeed", False, False),
        ("megatron-deepspeed-2022", False, False),
        ("maxtext", False, False),
        ("torchtitan", True, False),
        ("megatron-core", True, False),
        ("megatron-bridge", True, True),
        ("nemo", True, True),
        ("tuned", True, False),
    ],
)
def test_a_stated_tensor_parallelism_is_that_of_its_software_and_said_to_be_assumed(
    stack: str, sequences: bool, beside: bool
) -> None:
    def planned(**stated: Any) -> tuple[ParallelLayout, dict[str, str]]:
        layout = {"tp": 2, "pp": 4, "dp_shard": 8, "zero_stage": 1, **stated}
        spec = build_run_spec({**PLAN, "stack": stack, "layout": layout})
        assert spec.layout is not None
        return spec.layout, {item.field: item.value for item in spec.assumptions}

    layout, assumed = planned()
    assert (layout.sequence_parallel, layout.async_tp) == (sequences, beside)
    assert assumed["layout.sequence_parallel"] == str(sequences).lower()
    assert assumed["layout.async_tp"] == str(beside).lower()
    stated, named = planned(sequence_parallel=not sequences, async_tp=not beside)
    assert (stated.sequence_parallel, stated.async_tp) == (not sequences, not beside)
    assert not named.keys() & {"layout.sequence_parallel", "layout.async_tp"}
    alone, open_fields = planned(tp=1, dp_shard=16)
    assert not alone.sequence_parallel
    assert not alone.async_tp
    assert not open_fields.keys() & {"layout.sequence_parallel", "layout.async_tp"}


def test_plans_and_published_rows_split_sequences_alike() -> None:
    row = {**ROW, "sharding": "ZeRO-1"}
    for name, stack in (("Megatron-Core", "megatron-core"), ("torchtitan", "torchtitan"), ("DeepSpeed", "deepspeed")):
        read = parse_rows([{**row, "framework": name}], {})[0][0].spec
        assert read.layout is not None
        assert read.layout.sequence_parallel == STACKS[stack].shards_sequences
        assert read.layout.async_tp == STACKS[stack].hides_tensor_traffic


def test_plans_and_published_rows_fill_a_pipeline_alike() -> None:
    row, _ = parse_rows([ROW], {})
    spec = build_run_spec({**PLAN, "stack": "megatron-core", "layout": LAYOUT})
    assert spec.layout is not None
    assert row[0].spec.layout.virtual_stages == spec.layout.virtual_stages
