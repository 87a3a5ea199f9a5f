"""A frozen base: adapters beside its matrices, weights in few bits, and what of them is stored, sent and widened."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case_of_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_bytes
from carbon_plugin.predict.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=2048, global_batch_size=64, steps=1)
ALONE = ParallelLayout()


def terms(model, rates, layout: ParallelLayout = ALONE) -> dict[str, float]:
    step = step_time(shape_of(model), layout_of(layout), work_of(PLAN, Stack()), rates)
    return {name: float(time) for name, time in step.terms.items()}


def parts(model, rates, layout: ParallelLayout = ALONE) -> dict[str, float]:
    found = memory_bytes(shape_of(model), layout_of(layout), work_of(PLAN, Stack()), rates)
    return {name: float(size) for name, size in found.items()}


@pytest.fixture
def adapters(gpt):
    return msgspec.structs.replace(gpt, trainable_fraction=0.005)


def quantised(model, bits: int):
    return msgspec.structs.replace(model, frozen_bits=bits)


def test_widening_four_bit_weights_takes_two_and_a_half_bytes_a_parameter_in_either_direction(adapters, rates) -> None:
    plain, narrow = terms(adapters, rates()), terms(quantised(adapters, 4), rates())
    frozen = (adapters.attention_parameters + adapters.ffn_parameters(adapters.ffn)) * adapters.layers * 0.995
    expected = 64 * 2 * frozen * 2.5 / 1.37e12  # micro-batches, directions, bytes over memory bandwidth
    assert narrow["elementwise"] - plain["elementwise"] == pytest.approx(expected, rel=1e-3)
    assert narrow["matmul"] == plain["matmul"]


@pytest.mark.parametrize(("bits", "share"), [(8, 0.5), (4, 4.127 / 16)])
def test_layers_are_kept_in_their_bits_and_tables_in_sixteen(adapters, rates, bits, share) -> None:
    tables = (1 if adapters.tied_embeddings else 2) * adapters.vocab * adapters.hidden * 2
    whole = parts(adapters, rates())["parameters"] - tables
    narrow = parts(quantised(adapters, bits), rates())["parameters"] - tables
    one_weight = adapters.hidden * adapters.ffn * 2  # widened at a time
    assert narrow - one_weight == pytest.approx(whole * (0.005 + 0.995 * share), rel=1e-3)


def test_sharded_four_bit_weights_are_gathered_at_four_bits(adapters, rates) -> None:
    layout = ParallelLayout(dp_shard=64, zero_stage=3)
    slow = rates(nic=0.2e9, contention=0.0)
    plain, narrow = (terms(model, slow, layout)["dp_shard"] for model in (adapters, quantised(adapters, 4)))
    assert narrow == pytest.approx(plain * 4.127 / 16, rel=0.1)


def test_adapters_move_the_outputs_of_their_matrices(adapters, gpt, rates) -> None:
    barely = msgspec.structs.replace(gpt, trainable_fraction=0.5)
    more = terms(adapters, rates())["elementwise"] - terms(barely, rates())["elementwise"]
    h, f = gpt.hidden, gpt.ffn
    elements = (5 * h + f) + 6 * (5 * h + f)  # inputs of q, k, v, o, up and down; their outputs
    tokens = 64 * PLAN.seq_len
    assert more == pytest.approx(gpt.layers * 2.6 * elements * 2 * tokens / 1.37e12, rel=0.01)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"trainable_fraction": 0.01, "frozen_bits": 3}, "frozen_bits is 3, expected one of 4, 8, 16"),
        ({"frozen_bits": 4}, "frozen_bits 4 needs frozen parameters; state trainable_fraction below 1"),
    ],
)
def test_bits_that_cannot_be_are_refused_in_one_line(model, message) -> None:
    spec = {
        "model": {"preset": "llama3-8b", **model},
        "cluster": {"accelerator": "a100", "nodes": 1},
        "training": {"seq_len": 2048, "global_batch_size": 64, "steps": 10},
        "site": {"zone": "FRA"},
    }
    with pytest.raises(SpecError, match=message):
        build_run_spec(spec)
