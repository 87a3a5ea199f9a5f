"""The words that papers and frameworks use for sharding and recompute are read, and others are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows

ROW: dict[str, Any] = {
    "id": "mine-1", "framework": "PyTorch", "arch": "llama3-8b", "seq_len": 8192, "precision": "bf16", "tp": 1,
    "gpu": "h100-sxm", "n_gpus": 16, "gpus_per_node": 8, "mbs": 1, "gbs": 16, "step_time_s": 1.9,
}  # fmt: skip


def parsed(**changes: Any) -> PublishedRow:
    """Return `ROW` with changes, as it is read."""
    (rows, skipped) = parse_rows([{**ROW, **changes}], {})
    assert not skipped, skipped[0].reason
    return rows[0]


def refusal(**changes: Any) -> str:
    """Return why `ROW` with changes is skipped."""
    (rows, skipped) = parse_rows([{**ROW, **changes}], {})
    assert not rows
    return skipped[0].reason


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        ("FULL_SHARD", 3),
        ("full shard", 3),
        ("fully sharded", 3),
        ("SHARD_GRAD_OP", 2),
        ("ZeRO Stage 2", 2),
        ("stage 3", 3),
        (2, 2),
        ("optimizer state sharding", 1),
        ("NO_SHARD", 0),
        ("data parallel", 0),
        ("DP", 0),
        ("replicated", 0),
        (False, 0),
    ],
)
def test_sharding_is_read_in_the_words_of_pytorch_deepspeed_and_papers(words: object, stage: int) -> None:
    row = parsed(sharding=words)
    layout = row.spec.layout

    assert layout is not None
    assert layout.zero_stage == stage
    assert layout.dp_shard == (16 if stage else 1)
    assert not [said for said in row.assumed if said.startswith("sharding")]


@pytest.mark.parametrize(("words", "stage"), [("HYBRID_SHARD", 3), ("FSDP hybrid", 3), ("_HYBRID_SHARD_ZERO2", 2)])
def test_hybrid_sharding_keeps_shards_within_the_node(words: str, stage: int) -> None:
    layout = parsed(sharding=words).spec.layout

    assert layout is not None
    assert (layout.dp_replicate, layout.dp_shard, layout.zero_stage) == (2, 8, stage)


@pytest.mark.parametrize(
    "words", ["within node", "unknown", "MiCS", "ZeRO-Infinity", "ZeRO++", "hpZ", "expert parallel only", True]
)
def test_words_that_say_nothing_of_a_stage_are_refused_and_not_taken_for_the_default(words: object) -> None:
    assert "is not understood; expected none, DDP, ZeRO-1, ZeRO-2, ZeRO-3, FSDP or HSDP" in refusal(sharding=words)


@pytest.mark.parametrize("words", ["ZeRO-3 offload", "ZeRO-3, CPU offload", "FSDP with offloading to the host"])
def test_offloading_beside_a_stage_is_read(words: str) -> None:
    assert parsed(sharding=words).spec.training.optimizer_offload
    assert not parsed(sharding="ZeRO-3, no offload").spec.training.optimizer_offload


@pytest.mark.parametrize("words", ["gradient checkpointing", "activation checkpointing", "checkpointing"])
def test_checkpointing_is_recompute_of_whole_layers(words: str) -> None:
    row = parsed(recompute=words)

    assert row.spec.layout is not None
    assert row.spec.layout.recompute == "full"
    assert "recompute full" in row.assumed


@pytest.mark.parametrize("words", ["full recompute of 4 layers per stage", "full except attention", "not full"])
def test_recompute_of_a_part_that_is_not_understood_is_refused(words: str) -> None:
    assert "is not understood" in refusal(recompute=words)
