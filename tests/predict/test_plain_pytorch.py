"""What plain PyTorch does beside the layers: updates by list kernels, heads of odd widths, attention in 32 bit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.from_spec import LIST_PASSES, layout_of, list_bytes, shape_of, work_of
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time import operators
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import STACKS, AttentionKernel, Stack
from carbon_plugin.spec.training import Precision, TrainingPlan
from tests.predict.small_models import GPT

PLAN = TrainingPlan(seq_len=1024, global_batch_size=8, steps=1)
ONE_PASS = 7
"""Values that one kernel reads (parameter, gradient, two moments) and writes (all but the gradient)."""


def cluster(name: str) -> Cluster:
    device = load_accelerator(name)
    return Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_list_kernels_of_adam_pass_over_values_as_often_as_pytorchs_operations_do(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        moved = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            written = args[0] if func._schema.name.endswith("_") else out
            for tree in (args, kwargs or {}, written):
                leaves = torch.utils._pytree.tree_leaves(tree)
                self.moved += sum(
                    leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.numel() > 1
                )
            return out

    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=getattr(torch, dtype)))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], foreach=True, weight_decay=0.1)
    optimizer.step()
    with Count() as count:
        optimizer.step()
    assert count.moved / weight.numel() == pytest.approx(ONE_PASS + LIST_PASSES, abs=0.1)


def test_plain_pytorch_updates_by_list_kernels_unless_its_optimizer_is_fused() -> None:
    assert list_bytes(PLAN, Stack()) == 4 * LIST_PASSES
    assert list_bytes(PLAN, STACKS["pytorch-compiled"]) == 4 * LIST_PASSES
    assert list_bytes(msgspec.structs.replace(PLAN, master_weights=False), Stack()) == 2 * LIST_PASSES
    for training, stack in [
        (PLAN, Stack(fused_optimizer=True)),
        (PLAN, msgspec.structs.replace(STACKS["pytorch-compiled"], fused_optimizer=True)),
        (msgspec.structs.replace(PLAN, optimizer="sgd"), Stack()),
        *((PLAN, STACKS[name]) for name in ("deepspeed", "megatron-core", "torchtitan", "ordinary-megatron")),
    ]:
        assert list_bytes(training, stack) == 0


def head_s(name: str, vocab: int, stack: Stack, precision: Precision = "bf16") -> float:
    rates, _ = resolve_rates(cluster(name), stack, precision)
    plan = msgspec.structs.replace(PLAN, precision=precision)
    shape = shape_of(msgspec.structs.replace(GPT, vocab=vocab))
    # Without the traffic of the loss only the products are left.
    free = without_traffic(rates)
    layout = layout_of(ParallelLayout(micro_batch_size=8))
    cost = operators.head(shape, layout, work_of(plan, stack), values(8 * 1024), values(1), free)
    return float(cost.forward + cost.backward)


def without_traffic(rates: Any) -> Any:
    from dataclasses import replace

    return replace(rates, streaming=np.float64(1e30), host_op_time=np.float64(0))


@pytest.mark.parametrize(
    ("device", "stack", "precision", "ratio"),
    [
        ("a100-sxm-80gb", Stack(), "bf16", operators.UNALIGNED_COLUMNS),
        ("a100-sxm-80gb", STACKS["compiled"], "bf16", operators.UNALIGNED_COLUMNS),
        ("a100-sxm-80gb", Stack(), "tf32", operators.UNALIGNED_COLUMNS),
        ("a100-sxm-80gb", Stack(), "fp32", 1.0),
        ("a100-sxm-80gb", STACKS["megatron-core"], "bf16", 1.0),
        ("mi300x", Stack(), "bf16", 1.0),
    ],
)
def test_a_head_whose_columns_are_not_aligned_takes_twice_as_long_on_nvidias_matrix_units(
    device: str, stack: Stack, precision: Precision, ratio: float
) -> None:
    padded, odd = (head_s(device, vocab, stack, precision) for vocab in (50304, 50257))
    assert odd / padded == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("name", ["rtx3090", "rtx4090", "rtx5090"])
def test_a_geforce_is_not_slower_in_tf32_than_in_fp32_whatever_the_vocabulary(name: str) -> None:
    for vocab in (50304, 50257):
        assert head_s(name, vocab, Stack(), "tf32") <= head_s(name, vocab, Stack(), "fp32")
    assert head_s(name, 50257, Stack(), "bf16") > 1.5 * head_s(name, 50304, Stack(), "bf16")


@pytest.mark.parametrize(
    ("device", "kernel", "computed"),
    [
        ("a100-sxm-80gb", "flash2", {32: 32, 48: 64, 64: 64, 72: 96, 80: 96, 96: 96, 112: 128, 128: 128}),
        ("h100-sxm", "flash3", {48: 64, 80: 96, 128: 128}),
        ("rtx4090", None, {48: 64, 80: 96, 128: 128}),
        ("a100-sxm-80gb", "masked", {48: 48, 80: 80}),
        ("mi300x", "flash2", {48: 48, 80: 80}),
    ],
)
def test_flash_attention_takes_a_head_for_as_wide_as_its_next_kernel(
    device: str, kernel: AttentionKernel | None, computed: dict[int, int]
) -> None:
    rates, _ = resolve_rates(cluster(device), Stack(attention_kernel=kernel), "bf16")
    assert {width: int(operators.filled_lanes(values(width), rates)) for width in computed} == computed


@pytest.mark.parametrize("name", ["megatron-lm", "megatron-core", "megatron-lm-2021", "ordinary-megatron"])
def test_megatrons_loss_passes_over_an_fp32_copy_of_the_logits_once_for_each_operation(name: str) -> None:
    read_and_written = {
        "copy": 2 + 4,
        "maximum": 4,
        "difference in place": 4 + 4,
        "exponential in place": 4 + 4,
        "sum": 4,
        "quotient in place": 4 + 4,
        "product with the gradient in place": 4 + 4,
        "cast of the gradient": 4 + 2,
    }
    rates, _ = resolve_rates(cluster("a100-sxm-80gb"), STACKS[name], "bf16")
    layout, tokens = layout_of(ParallelLayout(micro_batch_size=8)), values(8 * 1024)
    work = work_of(PLAN, STACKS[name])

    def of_logits(vocab: int) -> float:
        shape = shape_of(msgspec.structs.replace(GPT, vocab=vocab))
        whole, products = (
            operators.head(shape, layout, work, tokens, values(1), each) for each in (rates, without_traffic(rates))
        )
        return float(whole.forward + whole.backward - products.forward - products.backward)

    # What does not depend on the logits falls out of the difference.
    logits = 8 * 1024 * (131072 - 65536)
    wanted = sum(read_and_written.values()) * logits / float(rates.streaming)
    assert of_logits(131072) - of_logits(65536) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    ("stack", "ratio"),
    [
        (Stack(), 1.0),
        (STACKS["ordinary-megatron"], 1.0),
        (Stack(cross_entropy="compiled"), 2.0),
        (Stack(cross_entropy="in_place"), 2.0),
    ],
)
def test_a_loss_on_an_fp32_copy_moves_no_more_for_logits_that_are_fp32_already(stack: Stack, ratio: float) -> None:
    narrow, wide = (
        float(work_of(msgspec.structs.replace(PLAN, precision=precision), stack).entropy_bytes)
        for precision in ("bf16", "fp32")
    )
    assert wide == ratio * narrow


def test_pytorchs_loss_of_fp32_logits_moves_no_more_than_that_of_16_bit_ones() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    rows, columns = 64, 1024

    class Bytes(TorchDispatchMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        moved = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is not torch.ops.aten.detach.default:
                whole = [each for each in (*args, out) if getattr(each, "shape", ()) == (rows, columns)]
                self.moved += sum(each.element_size() for each in whole)
            return out

    def moved(dtype: Any) -> int:
        logits = torch.zeros(rows, columns, dtype=dtype, requires_grad=True)
        with Bytes() as count:
            torch.nn.functional.cross_entropy(logits.float(), torch.zeros(rows, dtype=torch.long)).backward()
        return int(count.moved)

    assert moved(torch.bfloat16) - moved(torch.float32) == 2 * (2 + 4)  # both casts


@pytest.mark.parametrize(
    ("device", "ratio"), [("a100-sxm-80gb", 1 / 6), ("h100-sxm", 1 / 6), ("v100-sxm2-32gb", 15.7 / 125)]
)
@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_attention_in_32_bit_runs_in_three_tf32_products_or_on_vector_units(
    device: str, ratio: float, precision: Precision
) -> None:
    if precision not in load_accelerator(device).peak_flops:
        pytest.skip("the device has no such units")
    narrow: Precision = "fp16"
    found = {
        each: float(resolve_rates(cluster(device), Stack(attention_kernel="flash2"), each)[0].attention_flops)
        for each in (narrow, precision)
    }
    assert found[precision] / found[narrow] == pytest.approx(ratio, rel=0.02)
