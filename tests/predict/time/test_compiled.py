"""Layers under torch.compile: what autocast adds to them, against what Inductor moves, and where it applies."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, under_autocast, work_of
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time import operators
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import STACKS, Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import GPT

HIDDEN, TOKENS, HEADS = 64, 4096, 2
PLAN = TrainingPlan(seq_len=1024, global_batch_size=8, steps=1)
COMPILED = STACKS["pytorch-compiled"]


def compiled(**fields: Any) -> Stack:
    return msgspec.structs.replace(COMPILED, **fields)


def moved(layers: int, *, autocast: bool) -> list[float]:
    """Return the bytes that Inductor's kernels move in the forward and the backward pass, without products and the core
    of attention."""
    torch = pytest.importorskip("torch")
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import graph
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    class Core(torch.autograd.Function):  # type: ignore[misc]  # torch has no types where the tests are checked
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            ctx.save_for_backward(q, k, v)
            return torch.mm(q, torch.mm(k.t(), v))

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            q, k, v = ctx.saved_tensors
            return tuple(torch.mm(grad, torch.mm(one.t(), other)) for one, other in ((v, k), (q, v), (k, q)))

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(HIDDEN) for _ in range(2))
            sizes = ((HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN, HIDDEN))
            self.weights = torch.nn.ModuleList(torch.nn.Linear(*size) for size in sizes)

        def forward(self, x: Any) -> Any:
            q, k, v = self.weights[0](self.norms[0](x)).split(HIDDEN, dim=-1)
            x = x + self.weights[1](Core.apply(q, k, v))
            return x + self.weights[3](torch.nn.functional.gelu(self.weights[2](self.norms[1](x))))

    seen: list[float] = []

    class StopError(Exception):
        pass

    def lowered(module: Any, inputs: Any) -> Any:
        def count(self: Any) -> Any:
            self.init_wrapper_code()
            self._update_scheduler()
            nodes = [node for node in self.scheduler.nodes if not node.is_extern()]
            seen.append(sum(node.get_read_write_buffers_sizes() for node in nodes))
            raise StopError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph.GraphLowering, "codegen", count)
            with pytest.raises(Exception, match="StopError"):
                compile_fx_inner(copy.deepcopy(module), inputs)
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=lowered,
        bw_compiler=lowered,
        decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    dtype = torch.float32 if autocast else torch.bfloat16
    model = torch.nn.Sequential(*(Layer() for _ in range(layers))).to(dtype)
    x = torch.ones(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = torch.compile(model, backend=backend)(x)
    out.float().sum().backward()
    return seen


@pytest.mark.exhaustive
def test_autocast_adds_to_a_compiled_layer_the_bytes_that_inductor_counts() -> None:
    counts = {(wide, layers): moved(layers, autocast=wide) for wide, layers in product((False, True), (2, 3))}
    for way, said in enumerate(operators.AUTOCAST_FUSED):
        plain, wide = (counts[autocast, 3][way] - counts[autocast, 2][way] for autocast in (False, True))
        of_weights = operators.AUTOCAST_WEIGHT * 12 * HIDDEN**2
        assert (wide - plain - of_weights) / (TOKENS * HIDDEN) == pytest.approx(said, abs=2)


def chain_s(stack: Stack) -> float:
    device = load_accelerator("a100-sxm-80gb")
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=1)
    rates, _ = resolve_rates(cluster, stack, "bf16")
    layout, work, shape = layout_of(ParallelLayout(micro_batch_size=8)), work_of(PLAN, stack), shape_of(GPT)
    cost = operators.elementwise(shape, layout, work, values(8 * 1024), shape.ffn, rates)
    return float(cost.forward + cost.backward)


def test_a_compiled_layer_under_autocast_moves_more_than_in_16_bit_and_less_than_single_operations() -> None:
    assert chain_s(compiled(autocast=False)) < chain_s(compiled(autocast=True)) < chain_s(Stack(autocast=True))
    assert chain_s(compiled()) == chain_s(compiled(autocast=False))


def test_autocast_that_is_stated_holds_for_ordinary_software_with_32_bit_weights_alone() -> None:
    assert under_autocast(PLAN, compiled(autocast=True))
    assert not under_autocast(msgspec.structs.replace(PLAN, master_weights=False), compiled(autocast=True))
    assert not under_autocast(msgspec.structs.replace(PLAN, precision="fp16"), compiled())
    for name in ("megatron-core", "torchtitan", "ordinary-megatron"):
        assert not under_autocast(PLAN, msgspec.structs.replace(STACKS[name], autocast=True))
