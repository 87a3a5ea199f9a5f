"""Kernels of attention by the names that people give them, in specs as in rows."""

from __future__ import annotations

from typing import get_args

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.attention_kernels import kernel_named
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import AttentionKernel


def spec_of(kernel: str, accelerator: str = "b200-sxm") -> RunSpec:
    return build_run_spec(
        {
            "model": "llama-3.1-8b",
            "cluster": {"accelerator": accelerator, "nodes": 1},
            "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"},
            "training": {"seq_len": 8192, "global_batch_size": 8, "steps": 10, "precision": "fp16"},
            "stack": {"population": "tuned", "attention_kernel": kernel},
            "site": {"zone": "FRA"},
        }
    )


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("flash_attention_2", "flash2"),
        ("flash-attn-3", "flash3"),
        ("FA4", "cudnn"),
        ("flash4", "cudnn"),
        ("fused", "cudnn"),
        ("math", "eager"),
        ("sdpa", None),
        *((kernel, kernel) for kernel in get_args(AttentionKernel)),
    ],
)
def test_a_plan_takes_the_names_that_people_give_to_kernels(written: str, known: str | None) -> None:
    assert spec_of(written).stack.attention_kernel == known


def test_a_kernel_that_nobody_knows_is_refused_by_name() -> None:
    assert kernel_named("lightning-fast") is None
    with pytest.raises(SpecError, match="lightning-fast"):
        spec_of("lightning-fast")


@pytest.mark.parametrize(
    ("accelerator", "kernel", "told"),
    [
        ("b200-sxm", "flash", True),
        ("h100-sxm", "flash", True),
        ("b200-sxm", "flash2", False),
        ("a100-sxm-80gb", "flash", True),
        ("v100-sxm2-32gb", "flash", False),
    ],
)
def test_a_plan_says_that_flash_is_the_first_release_where_later_ones_run(
    accelerator: str, kernel: str, told: bool
) -> None:
    assumed = predict_step(spec_of(kernel, accelerator)).assumptions
    assert any("FlashAttention 1" in item.value for item in assumed) == told
