"""What Transformer Engine and Megatron hold while gradients of weights are added to their buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import MixtureOfExperts, TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import GPT, LLAMA

MakeRates = Callable[..., Rates]
SEQ_LEN = 128
ENGINE = Stack(gradient_buffers=True, gradient_placeholders=True, cross_entropy="in_place")


def part_of(name: str, model: TransformerModel, rates: Rates, stack: Stack = ENGINE, **layout: Any) -> float:
    work = work_of(TrainingPlan(seq_len=SEQ_LEN, global_batch_size=64, steps=1), stack)
    return float(memory_parts(shape_of(model), layout_of(ParallelLayout(**layout)), work, rates)[name])


@pytest.mark.parametrize("tp", [1, 2])
def test_an_empty_gradient_of_each_shape_of_weight_is_kept(rates: MakeRates, tp: int) -> None:
    shapes = {(768, 256), (256, 256), (1024, 256), (256, 1024)}  # Q, K and V in one, projection, both of the block

    assert part_of("communication", GPT, rates(), tp=tp) == 2 * sum(a * b for a, b in shapes) / tp


def test_experts_have_one_shape_however_many_a_device_has(rates: MakeRates) -> None:
    few, many = (
        msgspec.structs.replace(LLAMA, moe=MixtureOfExperts(experts=count, top_k=2, expert_ffn=512))
        for count in (8, 64)
    )
    dense = part_of("communication", msgspec.structs.replace(LLAMA, ffn=512), rates())

    assert part_of("communication", few, rates()) == part_of("communication", many, rates()) == dense
    assert part_of("communication", many, rates(), ep=8, dp_shard=8, zero_stage=1) == dense


def test_modules_before_megatron_core_keep_none(rates: MakeRates) -> None:
    legacy = msgspec.structs.replace(ENGINE, legacy_modules=True)
    plain = msgspec.structs.replace(ENGINE, gradient_placeholders=False)

    assert part_of("communication", GPT, rates(), legacy) == part_of("communication", GPT, rates(), plain)


def test_the_gradient_of_the_head_lies_beside_that_of_the_logits(rates: MakeRates) -> None:
    """A loss in place holds no more than the gradient, and one over an fp32 copy more where tokens are many."""
    model = msgspec.structs.replace(LLAMA, vocab=50_000, tied_embeddings=False)
    gradients = 2 * SEQ_LEN * model.vocab + 2 * model.hidden * model.vocab
    wide = msgspec.structs.replace(ENGINE, cross_entropy="vocab_parallel")

    assert part_of("logits", model, rates()) == gradients
    assert part_of("logits", model, rates(), wide) == max(6 * SEQ_LEN * model.vocab, gradients)
    assert part_of("logits", model, rates(), wide, micro_batch_size=16) == 16 * 6 * SEQ_LEN * model.vocab
    adapted = msgspec.structs.replace(model, trainable_fraction=0.01)
    assert part_of("logits", adapted, rates()) == 2 * SEQ_LEN * model.vocab  # a frozen head has no gradient


def test_a_gate_alone_keeps_the_result_of_its_activation(rates: MakeRates) -> None:
    fused = msgspec.structs.replace(ENGINE, fused=True)
    alone = msgspec.structs.replace(fused, single_gate=True)

    more = part_of("activations", LLAMA, rates(), alone) - part_of("activations", LLAMA, rates(), fused)
    assert more == 2 * LLAMA.ffn * SEQ_LEN * LLAMA.layers
    assert part_of("activations", GPT, rates(), alone) == part_of("activations", GPT, rates(), fused)
