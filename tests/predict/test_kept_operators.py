"""What real layers keep under torch.compile and under policies that keep the results of single operations.

The partitioner of torch.compile decides what the backward pass gets; the backend `aot_eager_decomp_partition` runs it
and compiles no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import KeptOperators, Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import LLAMA

LENGTH, BATCH = 128, 2
LOGARITHMS = 4 * LLAMA.heads
"""Bytes of the logarithm of the sum of a softmax, one a head and token, which are not counted."""
DEVIATIONS = 2 * 4
"""Bytes of the reciprocal deviations of two norms, which are not counted either."""
LISTED: dict[KeptOperators, int] = {"core": 0, "products": 2, "every_product": 1}
"""Each policy with n where it keeps every n-th product."""


def kept_bytes(policy: KeptOperators | None, *, compiled: bool, normed: bool = False) -> float:
    """Return the bytes a token that one layer of a Llama of transformers leaves allocated after its forward pass, or of
    a Qwen 3, which norms queries and keys.
    """
    one, three = (_left_by(layers, policy, compiled=compiled, normed=normed) for layers in (1, 3))
    return (three - one) / 2 / (LENGTH * BATCH)


def _left_by(layers: int, policy: KeptOperators | None, *, compiled: bool, normed: bool) -> int:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.profiler import ProfilerActivity, profile

    torch._dynamo.reset()
    kind = transformers.Qwen3Config if normed else transformers.LlamaConfig
    config = kind(
        head_dim=LLAMA.head_dim,
        hidden_size=LLAMA.hidden,
        intermediate_size=LLAMA.ffn,
        num_attention_heads=LLAMA.heads,
        num_key_value_heads=LLAMA.kv_heads,
        num_hidden_layers=layers,
        vocab_size=64,
        attn_implementation="sdpa",
    )
    model = transformers.AutoModel.from_config(config).to(torch.bfloat16).train()
    for number in range(layers):
        layer = model.layers[number]
        if policy is not None:
            contexts = partial(_contexts, LISTED[policy])
            layer = checkpoint_wrapper(layer, context_fn=contexts, preserve_rng_state=False)
        model.layers[number] = torch.compile(layer, backend="aot_eager_decomp_partition") if compiled else layer
    tokens = torch.randint(0, 64, (BATCH, LENGTH))

    def step() -> Any:
        return model(input_ids=tokens, use_cache=False).last_hidden_state

    step()  # compiles
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        held = step()
    events = profiled.profiler.kineto_results.events()
    assert held.requires_grad
    return int(sum(event.nbytes() for event in events if event.name() == "[memory]"))


def _contexts(every: int) -> Any:
    """Return the contexts of a checkpoint that keeps attention cores and every n-th product, as torchtitan's does."""
    import torch
    from torch._functorch.partitioners import get_default_op_list
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    intensive: list[Any] = list(get_default_op_list().compute_intensive_ops)
    listed = {operation.default for operation in intensive} | {attention}
    counts = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
        kept = operation in listed
        if operation == torch.ops.aten.mm.default:
            counts[context.is_recompute] += 1
            kept = every > 0 and (every == 1 or counts[context.is_recompute] % every == 1)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def predicted_bytes(rates: Rates, policy: KeptOperators | None, *, compiled: bool) -> float:
    layout = ParallelLayout(recompute="none" if policy is None else "operators")
    stack = Stack(fused=compiled, operators_keep=policy or "products")
    plan = TrainingPlan(seq_len=LENGTH, global_batch_size=8, steps=1)
    parts = memory_parts(shape_of(LLAMA), layout_of(layout), work_of(plan, stack), rates)
    return float(parts["activations"]) / LLAMA.layers / LENGTH


def test_a_compiled_layer_keeps_what_fused_chains_keep(rates: Callable[..., Rates]) -> None:
    kept = kept_bytes(None, compiled=True)

    assert predicted_bytes(rates(), None, compiled=True) == kept - LOGARITHMS - DEVIATIONS


def test_compiled_norms_of_queries_and_keys_keep_their_inputs(rates: Callable[..., Rates]) -> None:
    normed = msgspec.structs.replace(LLAMA, qk_norm=True)
    plan, layout = TrainingPlan(seq_len=LENGTH, global_batch_size=8, steps=1), layout_of(ParallelLayout())

    work = work_of(plan, Stack(fused=True))
    ours = float(memory_parts(shape_of(normed), layout, work, rates())["activations"])
    kept = kept_bytes(None, compiled=True, normed=True)
    assert ours / LLAMA.layers / LENGTH == kept - LOGARITHMS - DEVIATIONS - 4 * (LLAMA.heads + LLAMA.kv_heads)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("policy", LISTED)
def test_a_policy_for_single_operations_keeps_what_pytorch_keeps_by_it(
    rates: Callable[..., Rates], policy: KeptOperators, compiled: bool
) -> None:
    """Compiled code drops the result of the last product, which nothing in the backward pass needs."""
    kept = kept_bytes(policy, compiled=compiled)

    assert predicted_bytes(rates(), policy, compiled=compiled) == kept - LOGARITHMS
