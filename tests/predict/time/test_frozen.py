"""A frozen base: adapters beside its matrices, weights in few bits, and what of them is stored, sent and widened."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.time import operators
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=2048, global_batch_size=64, steps=1)
PLAIN = Stack()
ALONE = ParallelLayout()


def terms(model, rates, layout: ParallelLayout = ALONE, stack: Stack = PLAIN) -> dict[str, float]:
    step = step_time(shape_of(model), layout_of(layout), work_of(PLAN, stack), rates)
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


def test_products_in_eight_bit_take_weights_of_eight_bits_as_they_are(adapters, rates) -> None:
    cast = {"cast_bytes": 3.0}
    plain, eight, four = (
        terms(model, rates(**cast)) for model in (adapters, *(quantised(adapters, b) for b in (8, 4)))
    )
    assert eight["elementwise"] == pytest.approx(plain["elementwise"])
    assert four["elementwise"] > plain["elementwise"]
    assert terms(quantised(adapters, 8), rates())["elementwise"] > terms(adapters, rates())["elementwise"]


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


def test_the_head_of_an_adapted_model_is_frozen_too(adapters, gpt, rates) -> None:
    products = rates(memory=1e30, streaming=1e30, kernel_time=0.0, host_op_time=0.0)
    assert terms(adapters, products)["head"] == pytest.approx(terms(gpt, products)["head"] * 2 / 3, rel=0.01)


def half_of_the_gradients_s(gpt, rates) -> float:
    """Return the seconds of the gradients of biases and norms of which a model with half of its weights trained has
    half, and one with adapters nearly none.
    """
    spared = operators.FROZEN_HIDDEN[0] * gpt.hidden + operators.FROZEN_FFN[0] * gpt.ffn
    return 0.495 * spared * gpt.layers * 64 * PLAN.seq_len / float(rates().streaming)


@pytest.mark.parametrize(("fused", "moves", "rate"), [(0.0, 6, "streaming"), (1.0, 4, "memory")])
def test_adapters_move_the_outputs_of_their_matrices(adapters, gpt, rates, fused, moves, rate) -> None:
    barely = msgspec.structs.replace(gpt, trainable_fraction=0.5)
    more = terms(adapters, rates(fused=fused))["elementwise"] - terms(barely, rates(fused=fused))["elementwise"]
    h, f = gpt.hidden, gpt.ffn
    elements = (5 * h + f) + moves * (5 * h + f)  # inputs of q, k, v, o, up and down; their outputs
    tokens = 64 * PLAN.seq_len
    expected = gpt.layers * 2.6 * elements * 2 * tokens / float(getattr(rates(fused=fused), rate))
    assert more == pytest.approx(expected - half_of_the_gradients_s(gpt, rates), rel=0.01)


def test_adapters_that_products_add_read_and_write_the_outputs_once(gpt, rates) -> None:
    barely = msgspec.structs.replace(gpt, trainable_fraction=0.5)
    adapted = msgspec.structs.replace(gpt, trainable_fraction=0.005)
    moved = [
        terms(adapted, rates(fused=1.0), stack=stack)["elementwise"] - terms(barely, rates(fused=1.0))["elementwise"]
        for stack in (Stack(adapters_in_products=True), Stack())
    ]
    added, apart = (each + half_of_the_gradients_s(gpt, rates) for each in moved)
    assert added == pytest.approx(apart * 3 / 5, rel=0.01)


ADAPTERS = ("none", "query_value", "query_key_value", "attention", "all_matrices")


@given(st.floats(0.001, 0.998), st.sampled_from(ADAPTERS), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_with_adapters_stated_the_time_does_not_jump_with_the_trained_share(gpt, rates, share, stated, fused) -> None:
    def seconds(fraction: float) -> float:
        model = msgspec.structs.replace(gpt, trainable_fraction=fraction, adapters=stated)
        layout = ParallelLayout(dp_shard=8, zero_stage=3)
        return sum(terms(model, rates(fused=float(fused)), layout).values())

    # A share that is larger by 0.001 of all weights trains at most 0.1 % more of a third of the step.
    assert seconds(share + 0.001) == pytest.approx(seconds(share), rel=0.001)
    assert seconds(share + 0.001) >= seconds(share) * (1 - 1e-12)


@given(st.floats(0.001, 0.999), st.booleans(), st.sampled_from([1, 2, 8]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_step_with_fewer_adapted_matrices_is_never_slower(gpt, rates, share, fused, tp) -> None:
    seconds = []
    for stated in ADAPTERS:
        model = msgspec.structs.replace(gpt, trainable_fraction=share, adapters=stated)
        seconds.append(sum(terms(model, rates(fused=float(fused)), ParallelLayout(tp=tp)).values()))
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


@pytest.mark.parametrize(
    ("stated", "inputs", "outputs"), [("query_value", 2, 2), ("query_key_value", 3, 3), ("attention", 4, 4)]
)
def test_only_the_stated_matrices_move_bytes_for_their_adapters(gpt, rates, stated, inputs, outputs) -> None:
    chosen, none = (
        terms(msgspec.structs.replace(gpt, trainable_fraction=0.005, adapters=one), rates()) for one in (stated, "none")
    )
    elements = (inputs + 6 * outputs) * gpt.hidden  # queries, keys, values and output of this model are equally wide
    tokens = 64 * PLAN.seq_len
    expected = gpt.layers * 2.6 * elements * 2 * tokens / float(rates().streaming)
    assert chosen["elementwise"] - none["elementwise"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("fraction", "taken"), [(0.099, "all_matrices"), (0.101, "none")])
def test_a_plan_that_does_not_state_adapters_says_which_side_of_the_rule_it_took(fraction, taken) -> None:
    def forecast(**model):
        spec = build_run_spec(
            {
                "model": {"preset": "llama3-8b", "trainable_fraction": fraction, **model},
                "cluster": {"accelerator": "h100-sxm", "nodes": 1},
                "layout": {"dp_shard": 8, "zero_stage": 3},
                "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 10},
                "site": {"zone": "FRA"},
            }
        )
        return make_forecast(spec)

    by_rule, stated = forecast(), forecast(adapters=taken)
    (assumption,) = [item for item in by_rule.assumptions if item.field == "model.adapters"]
    assert assumption.value == taken
    assert f"trainable_fraction {fraction:g}" in assumption.source
    assert any(assumption.source in warning for warning in by_rule.warnings)
    assert by_rule.prediction.step_time_s == stated.prediction.step_time_s
    assert not [item for item in stated.assumptions if item.field == "model.adapters"]
    assert not [warning for warning in stated.warnings if "adapters" in warning]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"trainable_fraction": 0.01, "frozen_bits": 3}, "frozen_bits is 3, expected one of 4, 8, 16"),
        ({"adapters": "attention"}, "adapters attention needs frozen parameters; state trainable_fraction below 1"),
        ({"trainable_fraction": 0.01, "adapters": "mlp"}, "model.adapters"),
        ({"frozen_bits": 4}, "frozen_bits 4 needs frozen parameters; state trainable_fraction below 1"),
    ],
)
def test_bits_and_adapters_that_cannot_be_are_refused_in_one_line(model, message) -> None:
    spec = {
        "model": {"preset": "llama3-8b", **model},
        "cluster": {"accelerator": "a100", "nodes": 1},
        "training": {"seq_len": 2048, "global_batch_size": 64, "steps": 10},
        "site": {"zone": "FRA"},
    }
    with pytest.raises(SpecError, match=message):
        build_run_spec(spec)
