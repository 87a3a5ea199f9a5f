"""Tensor parallelism of PyTorch splits weights into DTensors, whose operations take the host longer to issue."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.predict.rates.datasheet import WRAPPED_OP_S
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import STACKS

FIELD = "stack.wraps_weights"


def step_of(tp: int, stack: dict[str, Any]) -> tuple[float, list[str]]:
    """Return the seconds of a small step whose host is slower than its device, and the fields that are assumed."""
    shards = {"dp_shard": 8 // tp, "zero_stage": 3} if tp < 8 else {}
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"tp": tp, **shards, "micro_batch_size": 1, "recompute": "none"},
            "training": {"seq_len": 512, "global_batch_size": 8, "steps": 1},
            "site": {"zone": "FRA"},
            "stack": stack,
        },
        origin="test",
    )
    found = predict_step(spec)
    return found.step_time_s.value, [assumption.field for assumption in found.assumptions]


@pytest.mark.parametrize(
    ("stack", "wrapped"),
    [
        ({"preset": "torchtitan"}, True),
        ({"preset": "torchtitan", "fused": True}, False),
        ({"preset": "automodel"}, True),
        ({"preset": "ordinary"}, False),
        ({"preset": "ordinary", "wraps_weights": "eager"}, True),
        ({"preset": "megatron-core"}, False),
        ({"preset": "ordinary-megatron"}, False),
        ({"preset": "megatron-core", "wraps_weights": "always"}, True),
        ({"preset": "megatron-core", "wraps_weights": "always", "cuda_graphs": "iteration"}, False),
    ],
)
def test_a_plan_with_tensor_parallelism_pays_for_dtensors_where_its_software_has_them(
    stack: dict[str, Any], wrapped: bool
) -> None:
    (seconds, assumed), (plain, _) = step_of(8, stack), step_of(8, {**stack, "wraps_weights": "never"})

    assert (seconds > 1.1 * plain) == wrapped
    assert seconds >= plain
    assert (FIELD in assumed) == wrapped


def test_weights_that_nothing_splits_are_plain_tensors() -> None:
    (seconds, assumed) = step_of(1, {"preset": "torchtitan"})

    assert seconds == step_of(1, {"preset": "torchtitan", "wraps_weights": "never"})[0]
    assert FIELD not in assumed


def test_a_dtensor_costs_as_much_as_a_slower_host() -> None:
    issued = STACKS["torchtitan"].host_op_time_s
    assert issued is not None
    slower = {"preset": "torchtitan", "wraps_weights": "never", "host_op_time_s": issued + WRAPPED_OP_S}

    assert step_of(8, {"preset": "torchtitan"})[0] == pytest.approx(step_of(8, slower)[0], rel=1e-12)
