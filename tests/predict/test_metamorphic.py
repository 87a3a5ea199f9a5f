"""Relations that predictions of random valid runs keep, seen from outside.

What a faster machine, less work, a larger batch or more sharding does to a step is known without any measurement. Where
a relation does not hold for a reason of the model, the test says which.
"""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.rates.islands import island_size
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.time.schedule import stage_layers, step_of_layers, step_time
from carbon_plugin.spec.layout import SHARED_OUT, Recompute
from carbon_plugin.spec.run import RunSpec
from tests.predict.random_changes import (
    FASTER,
    SMALL,
    need_bytes,
    numbers_of,
    of_vocabulary,
    step_s,
    times,
    with_network,
)
from tests.predict.random_runs import runs

replace = msgspec.structs.replace
EQUAL = 1 + 1e-9
"""Rounding of sums of many terms."""
FEWER = settings(max_examples=max(1, settings.default.max_examples // 3))  # type: ignore[union-attr]
"""For tests of many changes."""


@pytest.mark.parametrize("what", FASTER)
@FEWER
@given(spec=runs(), factor=st.floats(1.001, 3))
def test_a_faster_machine_is_never_slower(what: str, spec: RunSpec, factor: float) -> None:
    change, sign = FASTER[what]

    assert step_s(change(spec, factor**sign)) <= step_s(change(spec, 1.0)) * EQUAL


@given(spec=runs())
def test_a_job_on_several_islands_waits_for_a_network_that_hardly_sends(spec: RunSpec) -> None:
    assume(spec.cluster.devices > island_size(spec.cluster))
    rate = spec.cluster.node.network.bandwidth_bytes_per_s
    crawling = with_network(spec, bandwidth_bytes_per_s=times(rate, 1e-8))

    assert step_s(crawling) > 2 * step_s(spec)


@given(spec=runs())
def test_a_job_on_one_node_takes_as_long_on_any_network(spec: RunSpec) -> None:
    assume(spec.cluster.nodes == 1)
    rate = spec.cluster.node.network.bandwidth_bytes_per_s

    assert step_s(with_network(spec, bandwidth_bytes_per_s=times(rate, 1e-3))) == step_s(spec)


def shorter(spec: RunSpec) -> RunSpec:
    """Return the run with sequences of half the length, twice as many in a micro-batch."""
    assert spec.layout is not None
    layout = replace(spec.layout, micro_batch_size=2 * spec.layout.micro_batch_size)
    plan = spec.training
    plan = replace(plan, seq_len=plan.seq_len // 2, global_batch_size=2 * plan.global_batch_size)
    return replace(spec, layout=layout, training=plan)


@given(spec=runs())
def test_shorter_sequences_of_the_same_tokens_are_never_slower(spec: RunSpec) -> None:
    assert step_s(shorter(spec)) <= step_s(spec) * EQUAL


@given(spec=runs())
def test_a_smaller_vocabulary_is_never_slower(spec: RunSpec) -> None:
    assert step_s(of_vocabulary(spec, 0.5)) <= step_s(of_vocabulary(spec, 1.0)) * EQUAL


@given(spec=runs(), rounds=st.integers(4, 8))
def test_fewer_layers_are_never_slower(spec: RunSpec, rounds: int) -> None:
    """Layers that divide evenly over the stages. 33 layers on 4 stages leave the last one three layers fewer, which may
    then pay for the head: 32 layers have no such stage.
    """
    assume(not spec.model.blocks)
    few, many = (with_layers(spec, count) for count in (rounds - 1, rounds))

    assert step_s(few) <= step_s(many) * EQUAL
    assert need_bytes(few) <= need_bytes(many) * EQUAL


def with_layers(spec: RunSpec, rounds: int) -> RunSpec:
    """Return the run of a model that has so many times the layers of a chunk on every rank of the pipeline."""
    layout = spec.layout
    assert layout is not None
    moe = spec.model.moe
    # Every second layer may be sparse: an even number of layers keeps their share.
    layers = 2 * rounds * layout.pp * layout.virtual_stages
    changes = {"layers": layers, "moe": None if moe is None else replace(moe, first_dense_layers=0)}
    if spec.model.sliding_window_layers is not None:
        changes["sliding_window_layers"] = layers // 2
    return replace(spec, model=replace(spec.model, **changes))


@given(spec=runs())
def test_twice_the_batch_takes_at_most_twice_as_long_and_never_less(spec: RunSpec) -> None:
    """From two micro-batches on: with more than one, gradients are added up in fp32."""
    plan = spec.training
    once, twice = (replace(spec, training=replace(plan, global_batch_size=n * plan.global_batch_size)) for n in (2, 4))

    assert step_s(once) <= step_s(twice) * EQUAL
    assert step_s(twice) <= 2 * step_s(once) * EQUAL


def recomputing(spec: RunSpec, kind: Recompute, share: float = 1.0) -> RunSpec:
    """Return the run with this kind of recompute in a share of the layers."""
    return replace(spec, layout=replace(spec.layout, recompute=kind, recompute_modules=(), recompute_share=share))


@given(spec=runs())
def test_full_recompute_takes_longer_and_needs_less_than_none(spec: RunSpec) -> None:
    none, full = (
        replace(spec, layout=replace(spec.layout, recompute=kind, recompute_modules=(), recompute_share=1.0))
        for kind in ("none", "full")
    )

    assert step_s(none) <= step_s(full) * EQUAL
    assert need_bytes(full) <= need_bytes(none) * EQUAL


@pytest.mark.parametrize("kind", SHARED_OUT)
@given(spec=runs(), share=st.floats(0.05, 0.95))
def test_recompute_of_some_layers_lies_between_that_of_none_and_of_all(
    kind: Recompute, spec: RunSpec, share: float
) -> None:
    """Of memory it needs no less than recompute of all layers. It may need more than none, because the layer that is
    repeated is there once more.
    """
    plain = recomputing(spec, "none")
    some, every = (recomputing(spec, kind, part) for part in (share, 1.0))

    assert step_s(plain) <= step_s(some) * EQUAL
    assert step_s(some) <= step_s(every) * EQUAL
    assert need_bytes(every) <= need_bytes(some) * EQUAL


@given(spec=runs())
def test_full_recompute_takes_longer_in_software_with_a_large_overhead(spec: RunSpec) -> None:
    stretched = replace(spec, stack=replace(spec.stack, overhead_factor=1.8))
    none, full = (recomputing(stretched, kind) for kind in ("none", "full"))

    assert step_s(none) <= step_s(full) * EQUAL


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(spec=runs(), stage=st.sampled_from((0, 1, 2)))
def test_a_higher_stage_of_sharding_never_needs_more_memory(spec: RunSpec, stage: int) -> None:
    """Over four ranks or more, those of an expert's weights too, and without a pipeline.

    Experts that expert parallelism deals out to all ranks have gradients that no stage shards, and which ZeRO-2 may add
    up in fp32 and ZeRO-1 in 16 bit. Buffers of ZeRO-2 and 3 hold some layers whole, which fewer ranks do not outweigh.
    Under a pipeline ZeRO-2 adds up whole gradients in fp32, where ZeRO-1 may have them in 16 bit. An optimizer in the
    backward pass keeps no gradients that could be sharded.
    """
    layout, plan = spec.layout, spec.training
    assert layout is not None
    ranks = layout.dp * layout.pp
    assume(ranks >= 4 * layout.ep * layout.expert_tp)
    assume(not plan.optimizer_in_backward)
    rounds = layout.micro_batches(plan.global_batch_size)
    plan = replace(plan, global_batch_size=ranks * layout.micro_batch_size * rounds)
    flat = replace(layout, pp=1, virtual_stages=1, pipeline_rounds=1, pipeline_schedule="1f1b")
    low, high = (
        replace(
            spec,
            training=plan,
            layout=replace(flat, zero_stage=one, dp_replicate=1 if one else ranks, dp_shard=ranks if one else 1),
        )
        for one in (stage, stage + 1)
    )

    assert need_bytes(high) <= need_bytes(low) * EQUAL


@given(spec=runs(alone=True))
def test_one_device_communicates_with_nobody(spec: RunSpec) -> None:
    terms = predict_step(spec).breakdown_s

    assert terms.keys().isdisjoint({"tp", "cp", "ep", "dp", "dp_shard", "pp_transfer", "pp_bubble", "jitter"})


@given(spec=runs())
def test_terms_and_parts_add_up_and_everything_is_finite_and_positive(spec: RunSpec) -> None:
    found = predict_step(spec)

    assert found.step_time_s.value == pytest.approx(sum(found.breakdown_s.values()), rel=1e-12)
    assert found.memory.total_bytes == pytest.approx(sum(found.memory.parts_bytes.values()), rel=1e-12)
    assert all(time > 0 for name, time in found.breakdown_s.items() if name != "framework")
    assert all(size > 0 for size in found.memory.parts_bytes.values())
    for number in numbers_of(found):
        assert math.isfinite(number)
        assert number > 0
    assert found.activity is not None
    assert sum(msgspec.structs.astuple(found.activity)) == pytest.approx(1)


@given(spec=runs())
def test_ranges_hold_their_central_values_and_power_lies_between_idle_and_the_limit(spec: RunSpec) -> None:
    found, cluster = predict_step(spec), spec.cluster
    for figure in (found.step_time_s, found.gpu_power_w, found.gpu_energy_per_step_j):
        assert figure.low <= figure.value <= figure.high
    low, high = found.step_time_95_s
    assert low < found.step_time_s.low < found.step_time_s.high < high

    power = found.gpu_power_w
    assert cluster.accelerator.idle_with_context_w <= power.value * EQUAL
    assert power.high <= cluster.power_limit_w * EQUAL
    energy_j = power.value * found.step_time_s.value * cluster.devices
    assert found.gpu_energy_per_step_j.value == pytest.approx(energy_j)


@given(spec=runs(), share=st.floats(0.001, 1))
def test_a_device_at_any_cap_that_is_accepted_is_slower_and_not_absurd(spec: RunSpec, share: float) -> None:
    device = spec.cluster.accelerator
    idle, limit = device.idle_with_context_w, device.tdp_w.value
    capped = replace(spec, cluster=replace(spec.cluster, power_cap_w=min(limit, idle + share * (limit - idle))))

    found = predict_step(capped)

    assert all(math.isfinite(number) and number > 0 for number in numbers_of(found))
    assert found.step_time_s.value >= step_s(spec) / EQUAL
    with pytest.raises(SpecError, match="power_cap_w is"):
        replace(spec.cluster, power_cap_w=idle)


LARGEST_JUMP = 0.004
"""Of a logarithm, for 0.1 %: nothing grows faster than the third power of an input."""


@pytest.mark.parametrize("what", SMALL)
@FEWER
@given(spec=runs())
def test_a_tenth_of_a_percent_is_no_jump(what: str, spec: RunSpec) -> None:
    before, after = (predict_step(SMALL[what](spec, factor)) for factor in (1.0, 1.001))

    for one, other in zip(numbers_of(before), numbers_of(after), strict=True):
        if before.accuracy_class == after.accuracy_class:
            assert abs(math.log(one / other)) < LARGEST_JUMP
    assert before.memory.fit_probability == pytest.approx(after.memory.fit_probability, abs=0.03)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(run=runs())
def test_what_layers_need_of_a_device_is_the_same_whether_experts_are_looped_over_or_not(run: RunSpec) -> None:
    """The range of a run whose software says neither rests on it: its layers are computed once for both."""
    assert run.layout is not None
    case = shape_of(run.model), layout_of(run.layout), work_of(run.training, run.stack)
    rates, _ = resolve_rates(run.cluster, run.stack, run.training.precision)
    looped = dataclasses.replace(rates, expert_loop=1.0)

    assert step_of_layers(stage_layers(*case, rates), *case, looped).total == step_time(*case, looped).total
