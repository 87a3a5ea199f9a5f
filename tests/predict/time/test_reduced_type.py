"""Gradients are reduced in fp32 or in the type of the compute, by the software and by what it shards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import CountedModel

WHOLE = {"dp_replicate": 16}
SLOW = {"accelerator": "a10", "nodes": 16, "devices_per_node": 1}


COUNTED = CountedModel(
    name="counted", parameters=10**9, trainable_parameters=10**9, forward_flops_per_sample=1e9,
    activation_bytes_per_sample=1e6, kernels=10, source="counted", seq_len=128,
)  # fmt: skip


def step_of(layout: dict[str, int], stack: dict[str, Any], *, counted: bool = False, **training: Any) -> float:
    """Return the seconds of a step whose gradients wait for a slow network, of a transformer or a counted module."""
    spec = build_run_spec(
        {
            "model": "llama2-7b",
            "cluster": SLOW,
            "layout": layout | {"micro_batch_size": 1, "recompute": "none"},
            "training": {"seq_len": 128, "global_batch_size": 16, "steps": 1} | training,
            "site": {"zone": "FRA"},
            "stack": stack,
        },
        origin="test",
    )
    return predict_step(msgspec.structs.replace(spec, model=COUNTED) if counted else spec).step_time_s.value


def sharded(stage: int) -> dict[str, int]:
    return {"dp_shard": 16, "zero_stage": stage}


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("layout", "stack", "usual"),
    [
        (sharded(3), {"preset": "ordinary"}, "bf16"),
        (sharded(2), {"preset": "ordinary", "shard_unit": "flat"}, "bf16"),
        (sharded(3), {"preset": "pytorch-compiled"}, "bf16"),
        ({"dp_shard": 4, "dp_replicate": 4, "zero_stage": 3}, {"preset": "ordinary"}, "bf16"),
        (sharded(1), {"preset": "ordinary"}, "fp32"),
        (WHOLE, {"preset": "ordinary"}, "fp32"),
        (sharded(1), {"preset": "deepspeed"}, "bf16"),
        (sharded(3), {"preset": "deepspeed"}, "bf16"),
        (WHOLE, {"preset": "deepspeed"}, "fp32"),
        (sharded(3), {"preset": "ordinary", "shard_unit": "weight"}, "fp32"),
        (sharded(3), {"preset": "torchtitan"}, "fp32"),
        (sharded(3), {"preset": "llm-foundry"}, "fp32"),
    ],
)
def test_an_unstated_type_is_that_of_the_compute_where_ordinary_software_shards_gradients(
    layout: dict[str, int], stack: dict[str, Any], usual: str, counted: bool
) -> None:
    unstated = step_of(layout, stack, counted=counted)
    wide, narrow = (
        step_of(layout, stack | {"grad_reduce_dtype": dtype}, counted=counted) for dtype in ("fp32", "bf16")
    )
    assert narrow < wide
    assert unstated == (narrow if usual == "bf16" else wide)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_gradients_of_32_bit_computation_are_reduced_in_32_bit(precision: str) -> None:
    plain = {"preset": "ordinary"}
    found = step_of(sharded(3), plain, precision=precision)
    assert found == step_of(sharded(3), plain | {"grad_reduce_dtype": "fp32"}, precision=precision)
