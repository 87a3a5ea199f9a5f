"""Recompute: what each policy repeats of a layer's forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import msgspec
import numpy as np
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.time.layer import layer_on_device, layer_time
from carbon_plugin.predict.time.overlap import smooth_max
from carbon_plugin.predict.time.recompute import OPERATOR_RECOMPUTE_SHARE, ForwardPass, recompute_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import MixtureOfExperts
from carbon_plugin.spec.stack import KeptOperators, Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=4096, global_batch_size=64, steps=1)
PASSED = ForwardPass(
    total=np.float64(100),
    device=np.float64(100),
    host=np.float64(0),
    products=np.float64(75),
    projections=np.float64(20),
    core=np.float64(10),
    grouped=np.float64(30),
    exchange=np.float64(5),
    last=np.float64(15),
)


def repeated(keep: str, recompute: str = "operators", *, reentrant: bool = False) -> float:
    layout = layout_of(ParallelLayout(recompute=recompute, recompute_reentrant=reentrant))
    return float(recompute_time(layout, work_of(PLAN, Stack(operators_keep=keep)), PASSED))


def test_a_policy_repeats_what_it_does_not_keep() -> None:
    assert repeated("inputs") == repeated("inputs", "full") == 100 - 15
    assert repeated("projections") == 100 - 15 - 20
    assert repeated("products") == pytest.approx(OPERATOR_RECOMPUTE_SHARE * (100 - 30 - 5) + 30 + 5)
    # A policy that does not know the kernel of the attention core repeats the core too.
    assert repeated("products_alone") == pytest.approx(OPERATOR_RECOMPUTE_SHARE * (100 - 30 - 5 - 10) + 30 + 5 + 10)
    # Grouped products of experts are in no list of what is kept, and neither is their exchange.
    assert repeated("every_product") == pytest.approx(100 - (75 - 30) - 10)
    assert repeated("every_product_alone") == pytest.approx(repeated("every_product") + 10)
    assert repeated("core") == 100 - 15 - 10
    assert repeated("products", "selective") == 10
    assert repeated("products", "none") == 0


def test_products_in_nvfp4_are_in_no_list_of_operations_to_be_kept() -> None:
    """`scaled_mm` of PyTorch calls `_scaled_mm_v2`, which its list of intensive operations does not have."""
    layout = layout_of(ParallelLayout(recompute="operators"))

    def again(keep: str, precision: str) -> float:
        plan = msgspec.structs.replace(PLAN, precision=precision)
        return float(recompute_time(layout, work_of(plan, Stack(operators_keep=keep)), PASSED))

    for keep in ("products", "every_product"):
        assert again(keep, "nvfp4") == repeated("core")
        assert again(keep, "mxfp8") == again(keep, "fp8") == repeated(keep)
    assert again("projections", "nvfp4") == repeated("projections")  # kept by their names


def test_reentrant_checkpointing_repeats_the_last_work_too() -> None:
    assert repeated("products", "full", reentrant=True) == 100


def products_again(config_name: str, **fields: int) -> tuple[int, int]:
    """Return the products of one layer of transformers' model in a forward pass, and those that a backward pass repeats
    under non-reentrant checkpointing.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "_grouped_mm")
            return func(*args, **(kwargs or {}))

    widths = {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = getattr(transformers, config_name)(**widths, num_hidden_layers=1, vocab_size=64, **fields)
    model = transformers.AutoModel.from_config(config, attn_implementation="sdpa").train()
    tokens = torch.randint(0, 64, (1, 16))
    torch.manual_seed(0)
    backward = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with Products() as forward:
            last = model(tokens).last_hidden_state
        with Products() as counted:
            last.sum().backward()
        backward.append(counted.count)
    return forward.count, backward[1] - backward[0]


def test_pytorch_repeats_all_products_of_a_sparse_layer_and_all_but_the_last_of_a_dense_one() -> None:
    dense, dense_again = products_again("LlamaConfig")
    sparse, sparse_again = products_again(
        "Qwen3MoeConfig", moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, head_dim=16
    )

    assert dense_again == dense - 1
    assert sparse_again == sparse


def test_whole_layers_repeat_no_less_than_any_policy(gpt, rates) -> None:
    sparse = msgspec.structs.replace(gpt, moe=MixtureOfExperts(experts=64, top_k=4, expert_ffn=2560))

    def again(model, keep: str, recompute: str) -> float:
        layout = layout_of(ParallelLayout(recompute=recompute))
        case = shape_of(model), layout, work_of(PLAN, Stack(operators_keep=keep))
        layer = layer_on_device(*case, rates(), np.float64(1), sparse=model.moe is not None)
        return float(layer_time(layer, rates()).terms["recompute"])

    for model in (gpt, sparse):
        whole = again(model, "inputs", "full")
        for keep in get_args(KeptOperators):
            assert again(model, keep, "operators") <= whole


def test_a_host_that_sets_the_pace_leaves_little_to_be_saved() -> None:
    """Work at the end that gets faster, while the host takes as long as before, makes nothing slower."""
    layout = layout_of(ParallelLayout(recompute="full"))
    host = np.float64(200)
    slow, fast = (
        replace(PASSED, total=smooth_max(85 + last, host), device=85 + last, host=host, last=last)
        for last in (np.float64(15), np.float64(1))
    )

    again = [float(recompute_time(layout, work_of(PLAN, Stack()), passed)) for passed in (slow, fast)]

    assert again[0] == pytest.approx(again[1])
    assert again[0] >= 200


def test_hardware_flops_follow_what_the_policy_keeps(gpt) -> None:
    sparse = msgspec.structs.replace(gpt, moe=MixtureOfExperts(experts=64, top_k=4, expert_ffn=2560))

    def again(model, keep: str, recompute: str = "operators") -> float:
        layout = layout_of(ParallelLayout(recompute=recompute))
        counted, executed = step_flops(shape_of(model), layout, work_of(PLAN, Stack(operators_keep=keep)))
        return float(executed - counted)

    for model in (gpt, sparse):
        whole = again(model, "products", "full")
        assert again(model, "inputs") == pytest.approx(whole)
        assert 0 < again(model, "products") < whole
        assert 0 < again(model, "projections") < whole
        assert again(model, "every_product") < again(model, "products") < again(model, "core") < whole
    # The grouped products of experts are repeated whole, and a third of the others.
    shares = [again(model, "products") / again(model, "inputs") for model in (gpt, sparse)]
    assert shares[0] == pytest.approx(OPERATOR_RECOMPUTE_SHARE)
    assert shares[1] > shares[0]


@pytest.mark.parametrize("keep", ["inputs", "projections", "core", "every_product", "products"])
def test_an_exchange_that_is_kept_is_not_repeated(keep: str) -> None:
    layout = layout_of(ParallelLayout(recompute="operators"))
    kept = recompute_time(layout, work_of(PLAN, Stack(operators_keep=keep, keeps_exchange=True)), PASSED)

    assert repeated(keep) - float(kept) == pytest.approx(float(PASSED.exchange))
