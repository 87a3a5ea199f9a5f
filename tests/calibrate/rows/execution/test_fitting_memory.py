"""What a published row leaves out of recompute and micro-batch is chosen by what fits in the memory of its devices."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.rows.execution.fitting_memory import BEYOND_DOUBT, need_bytes
from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows

RECORD: dict[str, Any] = {
    "id": "mine-1",
    "kind": "benchmark",
    "arch": "llama2_7b",
    "seq_len": 8192,
    "precision": "bf16",
    "gpu": "A100-80GB-SXM",
    "n_gpus": 8,
    "gpus_per_node": 8,
    "tp": 1,
    "pp": 1,
    "sharding": "FSDP",
    "framework": "PyTorch",
    "step_time_s": 300.0,
}


def read(**changes: Any) -> PublishedRow:
    """Return the one row of `RECORD` with changes."""
    ((row,), _) = parse_rows([{**RECORD, **changes}], {})
    return row


@pytest.mark.parametrize(
    ("framework", "size", "fits", "said"),
    [("PyTorch", 8, "none", "without it"), ("MaxText", 16, "operators", "with less of it")],
)
def test_recompute_is_assumed_where_a_run_could_not_fit_with_less_and_only_there(framework, size, fits, said) -> None:
    small, large = (read(framework=framework, mbs=each, gbs=8 * each) for each in (1, size))

    assert small.spec.layout.recompute == fits
    assert large.spec.layout.recompute == "full"
    assert f"recompute full: {said} the run does not fit in memory" in large.assumed
    assert read(framework=framework, mbs=size, gbs=8 * size, recompute="none").spec.layout.recompute == "none"


def test_recompute_of_the_attention_core_comes_before_that_of_layers_where_scores_go_through_memory() -> None:
    row = read(framework="Megatron-LM (somebody, 2023)", sharding="distributed optimizer", tp=4, mbs=1, gbs=8)

    assert row.spec.layout.recompute == "selective"
    assert "recompute selective: without it the run does not fit in memory" in row.assumed


def micro_batch(**changes: Any) -> int:
    """Return the micro-batch of a row that states a global batch of 64 sequences a device and no micro-batch."""
    row = read(**{"seq_len": 2048, "gbs": 512, "recompute": "none", **changes})
    assert row.spec.layout is not None
    return row.spec.layout.micro_batch_size


def need_of(**changes: Any) -> float:
    """Return the predicted bytes of a row that states its micro-batch."""
    return need_bytes(read(**changes).spec)


def capacity_of(gpu: str) -> float:
    """Return the bytes of memory of a device."""
    return read(gpu=gpu, mbs=1, gbs=8).spec.cluster.accelerator.memory_bytes.value


def test_people_who_shard_and_accumulate_fill_the_memory_of_their_devices() -> None:
    sizes = [micro_batch(gpu=gpu) for gpu in ("A100-40GB-SXM", "A100-80GB-SXM", "H200-SXM")]

    assert 1 <= sizes[0] < sizes[1] < sizes[2]
    assert all(64 % size == 0 for size in sizes)
    assert "mbs 4: the largest that fits in memory" in read(seq_len=2048, gbs=512, recompute="none").assumed
    assert micro_batch(seq_len=8192) < micro_batch()


def test_people_with_whole_copies_in_ordinary_software_fill_the_memory_too() -> None:
    copies = {"arch": "mpt_1b", "sharding": "none (DDP)"}

    assert micro_batch(**copies) > 1
    assert micro_batch(**copies, framework="Megatron-core") == 1


def test_megatrons_relatives_pipelines_and_stated_micro_batches_are_left_as_they_are() -> None:
    assert micro_batch(framework="Megatron-Core", sharding="distributed optimizer") == 1
    assert micro_batch(framework="DeepSpeed", sharding="ZeRO-2", pp=2) == 1
    assert micro_batch(sharding="ZeRO-1") == 1
    assert micro_batch(mbs=2) == 2


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("gpu", ["A100-40GB-SXM", "A100-80GB-SXM", "H200-SXM"])
def test_the_whole_share_of_a_rank_is_one_micro_batch_as_far_as_it_fits(recompute: str, gpu: str) -> None:
    share, stated = {"gbs": 128, "recompute": recompute, "gpu": gpu, "seq_len": 16384}, [1, 2, 4, 8, 16]
    fitting = [size for size in stated if need_of(mbs=size, **share) <= BEYOND_DOUBT * capacity_of(gpu)]

    assert micro_batch(**share) == (max(fitting) if fitting else 16)
    assert micro_batch(mbs=16, **share) == 16


def test_some_whole_shares_fit_and_some_do_not() -> None:
    assert micro_batch(gbs=128, recompute="full", gpu="H200-SXM", seq_len=2048) == 16
    row = read(gbs=128, recompute="full", seq_len=16384)
    assert row.spec.layout is not None
    assert row.spec.layout.micro_batch_size < 16
    assert any(line.endswith("more of a rank's share does not fit in memory") for line in row.assumed)
