"""Layers of plain PyTorch: the operations and bytes that a Llama and a GPT-2 layer issue, against the constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.parameters import layer_parameters
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import host, operators
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import GPT, LLAMA

MakeRates = Callable[..., Rates]
TOKENS = 1024
VIEWS = frozenset(
    (
        "view", "_unsafe_view", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "permute",
        "detach", "reshape", "as_strided", "alias", "split", "chunk", "narrow", "_reshape_alias", "empty",
        "empty_like", "new_empty", "new_empty_strided", "empty_strided", "unbind", "lift_fresh", "split_with_sizes",
    )
)  # fmt: skip
PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm"))


def counted(
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    *,
    llama: bool,
    autocast: bool = False,
    gelu: str = "gelu",
    frozen: bool = False,
) -> dict[str, np.ndarray]:
    """Return kernels, views and bytes a token, forward and backward, of one layer of transformers' model in 16 bit.

    The bytes are those of every operation that is neither a product nor the attention core. Of a frozen layer the
    gradient passes on to the table of words.
    """
    one, two = (
        _run(layers, hidden, ffn, heads, kv_heads, llama=llama, autocast=autocast, gelu=gelu, frozen=frozen)
        for layers in (1, 2)
    )
    return {name: two[name] - one[name] for name in one}


def _run(
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    *,
    llama: bool,
    autocast: bool,
    gelu: str,
    frozen: bool,
) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        def __init__(self) -> None:
            super().__init__()
            self.kernels = self.views = 0
            self.moved = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func._schema.name.split("::")[1]
            if name in VIEWS:
                self.views += 1
                return out
            self.kernels += 1
            if name not in PRODUCTS and "attention" not in name:
                tensors = [*_tensors(torch, args), *_tensors(torch, kwargs or {}), *_tensors(torch, out)]
                self.moved += sum(_own_bytes(tensor) for tensor in tensors)
            return out

    common = {"use_cache": False, "attn_implementation": "sdpa", "vocab_size": 64}
    if llama:
        config = transformers.LlamaConfig(
            hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, **common,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPT2Config(
            n_embd=hidden, n_inner=ffn, n_layer=layers, n_head=heads, n_positions=TOKENS, resid_pdrop=0.0,
            attn_pdrop=0.0, embd_pdrop=0.0, activation_function=gelu, bos_token_id=0, eos_token_id=0, **common,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    model = (model if autocast else model.to(torch.bfloat16)).train()
    if frozen:
        model.requires_grad_(requires_grad=False)
        model.get_input_embeddings().requires_grad_(requires_grad=True)
    # Autocast of CPUs leaves a softmax in 16 bit and has norms follow their input, which is in 32 bit here too.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), Count() as forward:
        logits = model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long)).logits
    with Count() as backward:
        logits.float().sum().backward()
    return {
        "kernels": np.array([forward.kernels, backward.kernels]),
        "views": np.array([forward.views, backward.views]),
        "bytes": np.array([forward.moved, backward.moved]) / TOKENS,
    }


def _tensors(torch: Any, tree: Any) -> list[Any]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _own_bytes(tensor: Any) -> int:
    """Return the bytes of a tensor's own elements: what is broadcast along a dimension is read once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0]
    return int(np.prod(sizes, dtype=np.int64)) * int(tensor.element_size())


def case(model: TransformerModel, stack: Stack) -> tuple[Shape, Layout, StepWork]:
    plan = TrainingPlan(seq_len=TOKENS, global_batch_size=1, steps=1)
    return shape_of(model), layout_of(ParallelLayout(micro_batch_size=1)), work_of(plan, stack)


def chain_bytes(model: TransformerModel, stack: Stack, rates: Rates) -> np.ndarray:
    shape, layout, work = case(model, stack)
    weights = np.asarray(sum(layer_parameters(shape, layout, sparse=False)))
    cost = operators.elementwise(shape, layout, work, values(TOKENS), values(model.ffn), rates)
    cost = cost + operators.weight_casts(shape, layout, work, weights, rates)
    return np.array([float(cost.forward), float(cost.backward)]) / TOKENS


def layer_of(hidden: int, ffn: int, *, llama: bool) -> TransformerModel:
    return TransformerModel(
        name="layer", layers=2, hidden=hidden, heads=8, kv_heads=8, head_dim=hidden // 8, ffn=ffn, vocab=64,
        gated=llama, source="test",
    )  # fmt: skip


@pytest.mark.parametrize(("hidden", "ffn", "kv_heads"), [(256, 512, 8), (256, 1024, 2), (512, 1024, 8)])
def test_a_written_out_llama_layer_moves_the_bytes_that_its_operations_do(
    hidden: int, ffn: int, kv_heads: int, rates: MakeRates
) -> None:
    model = TransformerModel(
        name="llama", layers=2, hidden=hidden, heads=8, kv_heads=kv_heads, head_dim=hidden // 8, ffn=ffn, vocab=64,
        gated=True, source="test",
    )  # fmt: skip
    unit = rates(streaming=1.0, memory=1.0, kernel_time=0.0)
    found = counted(hidden, ffn, 8, kv_heads, llama=True)["bytes"]
    assert chain_bytes(model, Stack(plain_modules=True), unit) == pytest.approx(found, rel=0.02)


def test_slots_of_plain_layers_are_their_kernels_and_a_third_of_their_views() -> None:
    for llama, slots in ((True, host.HOST_OPS_WRITTEN_OUT), (False, host.HOST_OPS_EAGER)):
        layer = counted(256, 1024, 8, 8, llama=llama)
        # Releases of transformers differ by an operation: the forward pass of GPT-2 has one less in 5.22 than in 5.24.
        assert layer["kernels"] + layer["views"] / 3 == pytest.approx(np.array(slots), rel=0.05, abs=1.01)


def test_kernels_beside_products_and_attention_are_those_of_a_written_out_layer() -> None:
    products, cores = np.array([7, 14]), np.array([1, 1])
    kernels = counted(256, 1024, 8, 8, llama=True)["kernels"]
    assert kernels - products - cores == pytest.approx(np.array(operators.PLAIN_KERNELS[1]))


@pytest.mark.parametrize(("hidden", "ffn"), [(256, 1280), (512, 2048)])
def test_a_gpt_2_layer_moves_the_bytes_that_its_operations_do(hidden: int, ffn: int, rates: MakeRates) -> None:
    unit = rates(streaming=1.0, memory=1.0, kernel_time=0.0)
    found = counted(hidden, ffn, 8, 8, llama=False)["bytes"]
    assert chain_bytes(layer_of(hidden, ffn, llama=False), Stack(plain_modules=True), unit) == pytest.approx(
        found, rel=0.02
    )


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize(("hidden", "ffn"), [(256, 1280), (512, 1024)])
def test_a_frozen_layer_moves_and_issues_nothing_for_the_gradients_of_its_weights(
    hidden: int, ffn: int, llama: bool, rates: MakeRates
) -> None:
    trained, frozen = (counted(hidden, ffn, 8, 8, llama=llama, frozen=each) for each in (False, True))
    model = layer_of(hidden, ffn, llama=llama)
    fixed = msgspec.structs.replace(model, trainable_fraction=1e-9, adapters="none")
    stack, unit = Stack(plain_modules=True), rates(streaming=1.0, memory=1.0, kernel_time=0.0)
    assert chain_bytes(fixed, stack, unit) == pytest.approx(frozen["bytes"], rel=0.02)
    spared = chain_bytes(model, stack, unit) - chain_bytes(fixed, stack, unit)
    assert spared == pytest.approx(trained["bytes"] - frozen["bytes"], abs=20)
    slots = (trained["kernels"] - frozen["kernels"]) + (trained["views"] - frozen["views"]) / 3
    a_slot = rates(host_op_time=1.0)
    floors = [host.host_floor(*case(each, stack), a_slot, sparse=False) for each in (model, fixed)]
    assert float(floors[0].forward - floors[1].forward) == pytest.approx(slots[0], abs=0.5)
    assert float(floors[0].backward - floors[1].backward) == pytest.approx(slots[1], abs=1)
    # What is left of kernels beside products: a matrix of a frozen layer has one product in the backward pass.
    matrices = 7 if llama else 4
    kernels = trained["kernels"][1] - frozen["kernels"][1] - matrices
    assert kernels == operators.FROZEN_KERNELS[llama]


@pytest.mark.parametrize(("hidden", "ffn"), [(256, 1280), (512, 2048)])
def test_a_gelu_by_its_formula_adds_the_bytes_kernels_and_slots_of_its_operations(
    hidden: int, ffn: int, rates: MakeRates
) -> None:
    model = msgspec.structs.replace(layer_of(hidden, ffn, llama=False), written_gelu=True)
    found = counted(hidden, ffn, 8, 8, llama=False, gelu="gelu_new")
    stack, unit = Stack(plain_modules=True), rates(streaming=1.0, memory=1.0, kernel_time=0.0)
    assert chain_bytes(model, stack, unit) == pytest.approx(found["bytes"], rel=0.02)
    plain = counted(hidden, ffn, 8, 8, llama=False)
    assert found["kernels"] - plain["kernels"] == pytest.approx(np.array(operators.GELU_KERNELS))
    slots = found["kernels"] + found["views"] / 3 - plain["kernels"] - plain["views"] / 3
    assert slots == pytest.approx(np.array(host.HOST_OPS_GELU), rel=0.05)


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize(("hidden", "ffn"), [(256, 1280), (512, 2048)])
def test_autocast_adds_the_casts_of_products_and_weights_and_a_residual_stream_in_32_bit(
    hidden: int, ffn: int, llama: bool, rates: MakeRates
) -> None:
    unit = rates(streaming=1.0, memory=1.0, kernel_time=0.0)
    found = counted(hidden, ffn, 8, 8, llama=llama, autocast=True)["bytes"]
    stack = Stack(plain_modules=True, autocast=True)
    assert chain_bytes(layer_of(hidden, ffn, llama=llama), stack, unit) == pytest.approx(found, rel=0.03)


def test_autocast_casts_nothing_where_weights_are_16_bit_or_sharded_or_frozen(rates: MakeRates) -> None:
    stack, plan = Stack(autocast=True), TrainingPlan(seq_len=TOKENS, global_batch_size=8, steps=1)
    frozen = msgspec.structs.replace(LLAMA, trainable_fraction=0.01, adapters="all_matrices")
    sharded = ParallelLayout(dp_shard=8, zero_stage=3)
    cases = [
        (LLAMA, ParallelLayout(dp_replicate=8), plan, stack, True),
        (LLAMA, ParallelLayout(dp_replicate=8), plan, Stack(), False),
        (LLAMA, ParallelLayout(dp_replicate=8), msgspec.structs.replace(plan, precision="fp16"), Stack(), True),
        (LLAMA, ParallelLayout(dp_replicate=8), msgspec.structs.replace(plan, master_weights=False), stack, False),
        (LLAMA, ParallelLayout(dp_replicate=8), plan, msgspec.structs.replace(stack, population="tuned"), False),
        (LLAMA, sharded, plan, stack, False),
        (frozen, ParallelLayout(dp_replicate=8), plan, stack, False),
    ]
    for model, layout, training, software, cast in cases:
        found = operators.is_cast(shape_of(model), layout_of(layout), work_of(training, software))
        assert bool(found) is cast


def test_chains_that_are_written_out_never_move_less_than_single_kernels(rates: MakeRates) -> None:
    unit = rates(streaming=1.0, memory=1.0)
    apart = chain_bytes(LLAMA, Stack(plain_modules=True), unit)
    assert np.all(apart > chain_bytes(LLAMA, Stack(plain_modules=False), unit))


def test_the_host_issues_more_for_a_written_out_layer_than_for_one_of_single_kernels(rates: MakeRates) -> None:
    floors = {
        (model.name, plain): host.host_floor(*case(model, Stack(plain_modules=plain)), rates(), sparse=False)
        for model in (LLAMA, GPT)
        for plain in (True, False)
    }
    assert float(floors["small", True].forward) > float(floors["small", False].forward)
    assert float(floors["gpt", True].forward) < float(floors["small", True].forward)
    assert float(floors["gpt", True].backward) < float(floors["small", True].backward)
