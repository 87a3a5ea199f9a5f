"""Sparse layers: the host's wait, overlapped all-to-all, DualPipe, and experts that are split themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.parameters import device_parameters
from carbon_plugin.predict.rates.datasheet import routed_row_time
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.time.experts import (
    CHUNK_SORT_BYTES,
    EXPERT_BIAS_BYTES,
    EXPERT_TILE_ROWS,
    HOST_OPS_LOOPED,
    HOST_OPS_SORTED,
    ONE_HOT_BYTES,
    PERMUTATION_BYTES,
    SAME_INDEX_S,
    expert_loop,
    fullest_rank,
    one_hot_products,
    room_for_rows,
)
from carbon_plugin.predict.time.host import HOST_OPS_GROUPED, HOST_OPS_WAIT, host_floor, host_wait
from carbon_plugin.predict.time.operators import Cost
from carbon_plugin.predict.time.overlap import DEVICE_SMS, EXCHANGE_SMS, exposed_experts, smooth_max
from carbon_plugin.predict.time.schedule import StepTime, step_time
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import MixtureOfExperts, MultiLatentAttention, TransformerModel
from carbon_plugin.spec.stack import ROUTING_SPREAD, STACKS, Stack, routing_spread_of
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.test_step import spec_of
from tests.predict.time.test_written_out import VIEWS

PLAN = TrainingPlan(seq_len=4096, global_batch_size=256, steps=1)


@pytest.fixture
def sparse(gpt) -> TransformerModel:
    return msgspec.structs.replace(gpt, moe=MixtureOfExperts(experts=64, top_k=4, expert_ffn=2560))


def step(model: TransformerModel, rates, **layout) -> StepTime:
    return step_time(shape_of(model), layout_of(ParallelLayout(**layout)), work_of(PLAN, Stack()), rates)


def test_the_device_waits_for_the_host_in_the_forward_pass_where_it_is_the_slower_of_the_two(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}
    waits = HOST_OPS_WAIT * sparse.layers * 256 / 64

    def lost(**changes: float) -> float:
        # Counts for an exchange alone, which launches no expert by itself.
        free, waiting = (
            step(sparse, rates(counts_on_host=0.0, counts_to_exchange=flag, kernel_time=0.0, **changes), **layout)
            for flag in (0.0, 1.0)
        )
        return float(waiting.total - free.total)

    assert lost(host_op_time=1e-6) == pytest.approx(waits * 1e-6, rel=0.02)
    assert lost(host_op_time=1e-6, static_dispatch=1.0) == 0
    # A host that is far slower than the device waits anyway, and the device has nothing queued that it could drain.
    assert lost(host_op_time=1e-3, gemm_flops=1e30, memory=1e30, scaleup=1e30) < 0.8 * waits * 1e-3


@pytest.mark.parametrize(
    ("needed", "loop", "apart", "together"),
    [
        ("host", False, True, True),
        ("exchange", False, False, True),
        ("exchange", True, True, True),
        ("device", False, False, False),
        ("device", True, False, False),
    ],
)
def test_the_host_reads_token_counts_where_its_software_needs_them(rates, needed: str, loop, apart, together) -> None:
    own = rates(counts_on_host=needed == "host", counts_to_exchange=needed == "exchange", expert_loop=loop)

    waits = [float(host_wait(layout_of(ParallelLayout(dp_shard=8, zero_stage=1, ep=ep)), own)) for ep in (1, 8)]

    assert [wait > 0 for wait in waits] == [apart, together]
    assert max(waits) in (0, pytest.approx(HOST_OPS_WAIT * float(own.host_op_time)))


def test_routed_experts_gather_no_tokens_over_tensor_parallel_ranks_and_shared_ones_do(sparse, rates) -> None:
    shared = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, shared_ffn=2560))

    def gathered(model: TransformerModel, *, sequence: bool = True, ep: int = 8) -> float:
        layout = {"tp": 4, "dp_shard": 16, "zero_stage": 1, "ep": ep, "sequence_parallel": sequence}
        return float(step(model, rates(), **layout).terms["tp"])

    assert gathered(sparse) == pytest.approx(gathered(shared) / 2)
    assert gathered(shared) == pytest.approx(gathered(sparse, ep=1))
    assert gathered(sparse, sequence=False) == pytest.approx(gathered(shared, sequence=False))


def test_graphs_of_attention_and_routing_take_part_of_the_hosts_time_and_whole_iterations_all_of_it(
    sparse, rates
) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}
    eager, scoped = (step(sparse, rates(scoped_graphs=flag), **layout).terms["host"] for flag in (0.0, 1.0))
    whole = step(sparse, rates(host_op_time=0.0), **layout).terms["host"]

    assert 0 == float(whole) < float(scoped) < float(eager)


def test_graphs_of_sparse_layers_leave_dense_layers_as_they_are(gpt, rates) -> None:
    eager, scoped = (step(gpt, rates(scoped_graphs=flag), dp_shard=64, zero_stage=1) for flag in (0.0, 1.0))

    assert float(eager.total) == float(scoped.total)


@pytest.mark.parametrize(
    ("software", "kind"),
    [
        ({}, 0),
        ({"fused": 1.0}, 0),
        ({"plain_dispatch": 1.0}, 1),
        ({"plain_dispatch": 1.0, "fused": 1.0}, 2),
        ({"plain_dispatch": 1.0, "fused": 1.0, "laid_out": 1.0}, 0),
    ],
)
def test_biases_of_experts_are_bytes_of_the_routed_rows_and_free_where_they_are_fused(
    sparse, rates, software, kind
) -> None:
    biased = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, bias=True))
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}

    unfused, fused = (
        [
            float(step(model, rates(fused_experts=flag, **software), **layout).terms["matmul"])
            for model in (sparse, biased)
        ]
        for flag in (0.0, 1.0)
    )

    rows = sparse.layers * (256 / 64) * 4096 * sparse.moe.top_k
    assert unfused[1] - unfused[0] == pytest.approx(sum(EXPERT_BIAS_BYTES[kind]) * rows * sparse.hidden / 1.37e12)
    assert fused[0] == fused[1] < unfused[0]


def test_fused_experts_save_the_casts_between_their_products(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}

    wide, narrow = (
        [step(sparse, rates(fused_experts=flag, cast_bytes=size), **layout).terms["matmul"] for flag in (0.0, 1.0)]
        for size in (0.0, 1.1)
    )

    assert float(narrow[0] - narrow[1]) > float(wide[0] - wide[1]) > 0


def test_overlap_hides_expert_traffic_but_never_makes_it_free(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 64}

    plain, hidden = (step(sparse, rates(), **layout, expert_overlap=flag).terms["ep"] for flag in (False, True))

    assert 0 < float(hidden) < float(plain)


@given(
    forward=st.floats(1e-5, 1),
    sent=st.floats(1e-7, 1),
    ranks=st.sampled_from([2, 8, 16, 64]),
    contention=st.floats(0, 1),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_left_of_overlapped_traffic_is_what_the_compute_of_both_directions_does_not_hide(
    rates, forward, sent, ranks, contention
) -> None:
    layout = layout_of(ParallelLayout(dp_shard=64, zero_stage=1, ep=ranks, expert_overlap=True))
    compute, traffic = Cost(values(forward), values(2 * forward)), Cost(values(sent), values(sent))

    left = exposed_experts(traffic, compute, layout, rates(contention=contention))

    both = float(left.forward + left.backward)
    assert float(left.forward) == pytest.approx(float(left.backward))
    assert max(0.0, 2 * sent - 3 * forward) * (1 - 1e-9) <= both
    if ranks > 8:  # they leave the node, so that the traffic takes SMs and no memory bandwidth
        taken = EXCHANGE_SMS / (DEVICE_SMS - EXCHANGE_SMS) * min(2 * sent, 3 * forward)
        assert both == pytest.approx(float(smooth_max(values(3 * forward + taken), values(2 * sent))) - 3 * forward)


def test_tokens_that_travel_in_low_precision_take_less_of_the_exchange(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 64}
    plan = msgspec.structs.replace(PLAN, precision="fp8")

    def exchanged(*, narrow: bool) -> float:
        work = work_of(plan, Stack(narrow_dispatch=narrow))
        made = rates(scaleup_latency=0.0, deduplicated=1.0)
        return float(step_time(shape_of(sparse), layout_of(ParallelLayout(**layout)), work, made).terms["ep"])

    # One of three bytes goes there and two of three come back.
    assert exchanged(narrow=True) == pytest.approx(3 / 4 * exchanged(narrow=False))


def test_recompute_of_latent_projections_repeats_their_forward_products(gpt, rates) -> None:
    latent = MultiLatentAttention(
        q_lora_rank=512, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=128
    )
    model = msgspec.structs.replace(gpt, mla=latent)

    def again(**layout) -> float:
        return float(step(model, rates(), **layout).terms["recompute"])

    modules = {"recompute": "selective", "recompute_modules": ("mla_up_proj",)}
    flops = 2 * PLAN.seq_len * gpt.heads * (512 * 128 + 256 * (64 + 128)) * gpt.layers * PLAN.global_batch_size
    assert again() == 0
    assert again(**modules) == pytest.approx(flops / float(rates().gemm_flops), rel=0.05)


def test_dualpipe_has_a_smaller_bubble_and_overlaps_the_experts(sparse, rates) -> None:
    # DeepSeek-V3 (arXiv 2412.19437), table 2: (pp/2-1)(F&B+B-3W) against (pp-1)(F+B).
    layout = {"dp_shard": 8, "zero_stage": 1, "pp": 8, "ep": 8}

    plain, dual = (step(sparse, rates(), **layout, pipeline_schedule=kind) for kind in ("1f1b", "dualpipe"))

    assert float(dual.terms["pp_bubble"]) < 0.3 * float(plain.terms["pp_bubble"])
    assert float(dual.terms["ep"]) < float(plain.terms["ep"])
    assert float(sum(dual.terms.values())) == pytest.approx(float(dual.total))


def test_expert_tensor_parallelism_splits_the_experts_and_pays_for_it(sparse, rates) -> None:
    layout = {"tp": 4, "dp_shard": 16, "zero_stage": 1, "sequence_parallel": True}
    whole, split = ({**layout, "ep": 8, "expert_tp": degree} for degree in (1, 4))

    _, kept = device_parameters(shape_of(sparse), layout_of(ParallelLayout(**whole)))
    _, quarter = device_parameters(shape_of(sparse), layout_of(ParallelLayout(**split)))

    assert float(quarter) == pytest.approx(float(kept) / 4)
    assert float(step(sparse, rates(), **split).terms["ep"]) > float(step(sparse, rates(), **whole).terms["ep"])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"expert_tp": 2}, "expert_tp 2 needs ep above 1"),
        ({"dp_replicate": 8, "ep": 4, "expert_tp": 4}, r"ep 4 \* expert_tp 4 = 16 does not divide .* = 8"),
        ({"pp": 3, "pipeline_schedule": "dualpipe"}, "dualpipe needs an even pp, got pp 3"),
    ],
)
def test_impossible_combinations_name_the_rule_and_the_numbers(layout, message) -> None:
    with pytest.raises(InfeasibleLayoutError, match=message):
        ParallelLayout(**layout)


def test_frozen_weights_need_no_gradient_of_their_own(gpt, rates) -> None:
    frozen = msgspec.structs.replace(gpt, trainable_fraction=1e-6)

    whole, dgrad = (float(step(model, rates(), micro_batch_size=4).terms["matmul"]) for model in (gpt, frozen))

    assert dgrad == pytest.approx(whole * 2 / 3, rel=0.03)


@pytest.mark.parametrize("layout", [{"dp_replicate": 64}, {"dp_shard": 64, "zero_stage": 1}])
def test_frozen_weights_send_no_gradients(gpt, rates, layout) -> None:
    frozen = msgspec.structs.replace(gpt, trainable_fraction=1e-6)

    whole, little = (float(step(model, rates(), **layout).terms["dp"]) for model in (gpt, frozen))

    # What is left are latencies.
    assert little < 0.05 * whole


def test_muon_and_offload_take_longer_than_adam_on_the_device(gpt, rates) -> None:
    def optimizer(**plan) -> float:
        work = work_of(TrainingPlan(seq_len=2048, global_batch_size=64, steps=1, **plan), Stack())
        terms = step_time(shape_of(gpt), layout_of(ParallelLayout()), work, rates()).terms
        return float(terms["optimizer"] + terms.get("offload", 0.0))

    assert optimizer(optimizer="muon") > optimizer(optimizer="adamw") > optimizer(optimizer="sgd")
    assert optimizer(optimizer_offload=True) > 10 * optimizer()


def test_a_loop_over_experts_costs_host_slots_for_every_expert_that_a_rank_holds(sparse, rates) -> None:
    few = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, experts=sparse.moe.experts // 2))

    def host(model: TransformerModel, **changes: float) -> float:
        return float(step(model, rates(devices=1, counts_on_host=0.0, **changes)).terms["host"])

    added = [host(model, expert_loop=1.0) - host(model) for model in (few, sparse)]
    assert added[1] == pytest.approx(2 * added[0])
    slots = sparse.layers * sparse.moe.experts * sum(HOST_OPS_LOOPED) * PLAN.global_batch_size
    assert added[1] == pytest.approx(slots * float(rates().host_op_time))
    hooked = host(sparse, expert_loop=1.0, shard_host_ops=65.0) - host(sparse, shard_host_ops=65.0)
    assert hooked > 1.5 * added[1]


def test_a_loop_over_sorted_rows_is_issued_beside_the_device_and_slices_of_weights_add_up_a_gradient_of_all(
    sparse, rates
) -> None:
    def terms(**changes: float) -> dict[str, float]:
        found = step(sparse, rates(devices=1, **changes)).terms
        return {name: float(seconds) for name, seconds in found.items()}

    slow = {"host_op_time": 1.0, "kernel_time": 0.0, "counts_on_host": 0.0}
    more = terms(expert_loop=1.0, sorted_loop=1.0, **slow)["host"] - terms(**slow)["host"]
    runs = sparse.layers * sparse.moe.experts * PLAN.global_batch_size
    assert more == pytest.approx(runs * sum(HOST_OPS_SORTED), rel=1e-3)

    fast, loop = {"host_op_time": 0.0}, {"expert_loop": 1.0, "sorted_loop": 1.0}
    plain, apart, looped = (terms(**flags, **fast) for flags in ({}, loop, {**loop, "sliced_weights": 1.0}))
    assert looped["host"] == pytest.approx(plain["host"])
    assert apart["matmul"] == pytest.approx(plain["matmul"])  # weights of its own have a gradient of their own
    experts = sparse.moe.experts * (2 + sparse.gated) * sparse.hidden * sparse.moe.expert_ffn * sparse.layers
    gradients = 4 * 2 * sparse.moe.experts * experts * PLAN.global_batch_size / float(rates().streaming)
    assert looped["matmul"] - plain["matmul"] == pytest.approx(gradients)


def test_the_last_tile_of_each_expert_is_half_empty_however_many_tokens_there_are(sparse, rates) -> None:
    """Twice the tokens cost less than twice: what is missing is half a tile of rows in every expert of a rank."""
    at_once = rates(memory=1e30, kernel_time=0.0)
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}

    one, two = (float(step(sparse, at_once, micro_batch_size=size, **layout).terms["matmul"]) for size in (1, 2))

    local, micro_batches = sparse.moe.experts / 8, 256 / 64
    matrices = (2 + sparse.gated) * sparse.hidden * sparse.moe.expert_ffn
    wasted = 3 * 2 * EXPERT_TILE_ROWS / 2 * local * matrices / float(at_once.gemm_flops) * sparse.layers
    assert one - two == pytest.approx(wasted * micro_batches / 2)


def test_single_operations_move_more_bytes_of_every_routed_row_than_fused_permutation(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}
    fused, plain = (float(step(sparse, rates(plain_dispatch=flag), **layout).terms["matmul"]) for flag in (0.0, 1.0))

    rows = PLAN.seq_len * PLAN.global_batch_size / 64 * sparse.moe.top_k
    # A rank that holds several experts sorts once more what it got.
    more = sum(apart + CHUNK_SORT_BYTES - one for one, apart in PERMUTATION_BYTES)
    assert plain - fused == pytest.approx(more * rows * sparse.hidden / 1.37e12 * sparse.layers, rel=1e-6)


def test_a_device_that_moves_rows_one_by_one_needs_time_for_each_in_both_passes_unless_kernels_sort_them(
    sparse, rates
) -> None:
    def matmul(**flags: float) -> float:
        return float(step(sparse, rates(**flags), dp_shard=64, zero_stage=1, ep=8).terms["matmul"])

    rows = PLAN.seq_len * PLAN.global_batch_size / 64 * sparse.moe.top_k
    plain, slow = (matmul(plain_dispatch=1.0, routed_row_time=time) for time in (0.0, 2e-7))
    assert slow - plain == pytest.approx(2 * 2e-7 * rows * sparse.layers, rel=1e-6)
    assert matmul(routed_row_time=2e-7) == matmul()


def test_seven_times_as_many_experts_a_seventh_as_wide_cost_maxtext_on_v5p_what_one_of_its_users_measured() -> None:
    """Mixtral without attention: 50.4 % of peak, and 28 % with 56 experts of which a token takes 14 (issue 1256)."""
    without_attention = []
    for experts, top_k, width in ((8, 2, 14336), (56, 14, 2048)):
        moe = {"experts": experts, "top_k": top_k, "expert_ffn": width}
        model = {"name": "m", "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "vocab": 32000, "ffn": width}
        found = predict_step(
            spec_of(
                model={**model, "gated": True, "moe": moe},
                cluster={"accelerator": "tpu-v5p", "nodes": 8},
                layout={"dp_shard": 32, "zero_stage": 3, "micro_batch_size": 4, "recompute": "full"},
                training={"seq_len": 4096, "global_batch_size": 128, "steps": 1, "precision": "bf16"},
                stack={"preset": "maxtext"},
            )
        )
        core = found.breakdown_s["attention"] * (1 + 1 / 3.9)  # and its forward pass once more
        without_attention.append(found.step_time_s.value - core * STACKS["maxtext"].framework_factor)

    assert without_attention[1] / without_attention[0] == pytest.approx(50.4 / 28, rel=0.05)


@pytest.mark.parametrize(
    ("name", "one_by_one"), [("tpu-v4", True), ("tpu-v5p", True), ("tpu-v7", False), ("h100-sxm", False)]
)
def test_tpus_move_routed_rows_one_by_one_but_for_the_seventh_generation(name: str, one_by_one: bool) -> None:
    assert (routed_row_time(load_accelerator(name)) > 0) == one_by_one


def test_ranks_that_split_every_expert_each_sort_all_of_their_tokens(sparse, rates) -> None:
    layout = {"tp": 8, "dp_shard": 8, "zero_stage": 1, "sequence_parallel": True}
    fused, plain = (float(step(sparse, rates(plain_dispatch=flag), **layout).terms["matmul"]) for flag in (0.0, 1.0))

    rows = PLAN.seq_len * PLAN.global_batch_size / 8 * sparse.moe.top_k
    more = sum(apart - one for one, apart in PERMUTATION_BYTES)
    assert plain - fused == pytest.approx(more * rows * sparse.hidden / 1.37e12 * sparse.layers, rel=1e-6)


def test_products_that_take_their_counts_from_the_host_are_launched_expert_by_expert(sparse, rates) -> None:
    def issued(ep: int, **flags: float) -> float:
        layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=1, ep=ep))
        return float(host_floor(shape_of(sparse), layout, work_of(PLAN, Stack()), rates(**flags), sparse=True).forward)

    fewer = sparse.moe.experts * (1 - 1 / 8)
    assert issued(1) - issued(8) == pytest.approx(fewer * HOST_OPS_GROUPED[0] * 31e-6)
    assert issued(1, counts_on_host=0.0) == issued(8, counts_on_host=0.0)
    # Graphs of attention and routing hold no expert.
    assert issued(1, scoped_graphs=1.0) - issued(8, scoped_graphs=1.0) == pytest.approx(issued(1) - issued(8))
    assert issued(8, scoped_graphs=1.0) < issued(8) / 2


def test_natural_routing_costs_more_the_more_ranks_share_the_experts(sparse, rates) -> None:
    def slower(ep: int) -> float:
        layout = {"dp_shard": 64, "zero_stage": 1, "ep": ep}
        forced, natural = (float(step(sparse, rates(routing_spread=s), **layout).total) for s in (0.0, 0.2))
        return natural / forced

    assert slower(1) == 1
    assert 1 < slower(2) < slower(8) < slower(32) < 1.5


def test_a_stated_imbalance_is_not_multiplied_by_the_assumed_spread(sparse, rates) -> None:
    stated = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, imbalance=2.0))
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8}
    forced, natural = (float(step(stated, rates(routing_spread=s), **layout).total) for s in (0.0, 0.2))

    assert forced == natural


def test_routing_is_natural_in_ordinary_software_and_balanced_in_tuned_recipes_unless_stated() -> None:
    assert routing_spread_of(Stack()) == ROUTING_SPREAD > 0
    assert routing_spread_of(Stack(population="tuned")) == 0
    assert routing_spread_of(Stack(population="tuned", routing_spread=0.3)) == 0.3


def test_recompute_that_stops_early_saves_nothing_of_a_sparse_layer(gpt, sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "recompute": "full"}

    def saved_s(model: TransformerModel) -> float:
        again, early = (step(model, rates(), **layout, recompute_reentrant=flag) for flag in (True, False))
        return float(again.terms["recompute"] - early.terms["recompute"])

    assert saved_s(gpt) > 0
    assert saved_s(sparse) == 0


def test_a_loop_over_sharded_experts_waits_for_the_slowest_of_more_ranks(sparse, rates) -> None:
    def loop_s(ranks: int) -> float:
        layout = {"dp_shard": ranks, "zero_stage": 3}
        plan = msgspec.structs.replace(PLAN, global_batch_size=ranks)
        looped, grouped = (
            step_time(
                shape_of(sparse), layout_of(ParallelLayout(**layout)), work_of(plan, Stack()), rates(expert_loop=flag)
            ).terms["host"]
            for flag in (1.0, 0.0)
        )
        return float(looped - grouped)

    assert loop_s(2) < loop_s(8) < loop_s(64)


def test_biases_that_are_gathered_by_index_are_added_up_row_by_row_of_the_fullest_expert(sparse, rates) -> None:
    biased = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, bias=True))

    def more_s(model: TransformerModel, **changes: float) -> float:
        with_index, without = (
            step(model, rates(devices=1, indexed_biases=flag, **changes)).terms["matmul"] for flag in (1.0, 0.0)
        )
        return float(with_index - without)

    assert more_s(sparse) == 0
    rows = PLAN.seq_len * sparse.moe.top_k * sparse.layers * PLAN.global_batch_size
    assert more_s(biased) == pytest.approx(2 * SAME_INDEX_S * rows / sparse.moe.experts)
    assert more_s(biased, routing_spread=0.5) > 1.3 * more_s(biased)
    alike = more_s(biased, one_kind_of_token=1.0)
    assert alike == pytest.approx(2 * SAME_INDEX_S * rows / min(sparse.moe.experts, 2 * sparse.moe.top_k))
    assert more_s(msgspec.structs.replace(biased, trainable_fraction=0.01)) == 0


def test_single_operations_pass_over_a_buffer_of_fixed_shape_that_has_room_for_all_rows(sparse, rates) -> None:
    layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=3, ep=8))

    def room(**changes: float) -> float:
        fixed = {"plain_dispatch": 1.0, "counts_on_host": 0.0, "counts_to_exchange": 0.0, **changes}
        return float(room_for_rows(layout, rates(**fixed)))

    assert room() == 8
    told = ({"counts_on_host": 1.0}, {"counts_to_exchange": 1.0}, {"capacity_factor": 1.25}, {"plain_dispatch": 0.0})
    assert [room(**changes) for changes in told] == [1.0] * 4

    def seconds(dropping: float) -> float:
        own = rates(plain_dispatch=1.0, counts_on_host=0.0, counts_to_exchange=0.0, capacity_factor=dropping)
        return float(step(sparse, own, dp_shard=64, zero_stage=3, ep=8).terms["matmul"])

    assert seconds(0.0) > seconds(1.0)


def test_a_loop_waits_for_gathers_of_single_modules_only_where_hooks_gather_them(sparse, rates) -> None:
    def loop_s(hooks: float, latency: float) -> float:
        sharded = ParallelLayout(dp_shard=64, zero_stage=3)
        work = work_of(msgspec.structs.replace(PLAN, global_batch_size=64), Stack())
        looped, grouped = (
            step_time(
                shape_of(sparse),
                layout_of(sharded),
                work,
                rates(expert_loop=flag, shard_host_ops=hooks, nic_latency=latency, scaleup_latency=latency),
            ).terms["host"]
            for flag in (1.0, 0.0)
        )
        return float(looped - grouped)

    assert loop_s(65.0, 1e-3) > 1.1 * loop_s(65.0, 0.0)
    assert loop_s(0.0, 1e-3) == pytest.approx(loop_s(0.0, 0.0), rel=0.02)


@pytest.mark.parametrize(
    ("capacity", "static", "load"),
    [(0.0, 0.0, 1.4), (1.0, 0.0, 1.0), (1.25, 0.0, 1.25), (2.0, 0.0, 1.4), (1.25, 1.0, 1.25), (2.0, 1.0, 2.0)],
)
def test_a_capacity_cuts_the_load_of_the_fullest_rank_and_padding_fills_every_rank_up_to_it(
    sparse, rates, capacity, static, load
) -> None:
    uneven = msgspec.structs.replace(sparse, moe=msgspec.structs.replace(sparse.moe, imbalance=1.4))
    own = rates(capacity_factor=capacity, static_dispatch=static)
    layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=1, ep=8))

    assert float(fullest_rank(shape_of(uneven), layout, own)) == pytest.approx(load)


def test_padding_to_a_capacity_lengthens_the_products_of_experts_in_proportion(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8, "micro_batch_size": 4}
    quick = {"memory": 1e30, "kernel_time": 0.0, "static_dispatch": 1.0}

    even, half_more, twice = (
        float(step(sparse, rates(capacity_factor=factor, **quick), **layout).terms["matmul"])
        for factor in (1.0, 1.5, 2.0)
    )

    assert half_more - even == pytest.approx((twice - even) / 2)
    assert twice > even


def test_products_with_one_hot_matrices_grow_with_the_square_of_the_length(sparse, rates) -> None:
    one_hot = rates(one_hot_dispatch=1.0, memory=1e30)

    def seconds(seq_len: int, sequences: int) -> float:
        layout = layout_of(ParallelLayout(micro_batch_size=sequences))
        work = work_of(msgspec.structs.replace(PLAN, seq_len=seq_len), Stack())
        there, back = one_hot_products(sequences * seq_len, shape_of(sparse), layout, work, one_hot)
        return float(there.forward + there.backward + back.forward + back.backward)

    assert seconds(4096, 2) == pytest.approx(2 * seconds(4096, 1))
    assert seconds(8192, 1) == pytest.approx(4 * seconds(4096, 1))
    # Forward one product each way; backward the gradient of the tokens there, and also that of the weights back.
    flops = 5 * 2 * 4096 * 4096 * sparse.moe.top_k * sparse.hidden
    assert seconds(4096, 1) == pytest.approx(flops / 240e12)


def bytes_of(run: Callable[[], Any], size: int) -> tuple[Any, int]:
    """Return what `run` returns, and the bytes that its operations move of tensors with so many elements."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Bytes(TorchDispatchMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        moved = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._schema.name.split("::")[1] not in VIEWS:
                tensors = [tensor for tensor in (*args, out) if isinstance(tensor, torch.Tensor)]
                self.moved += sum(tensor.nbytes for tensor in tensors if tensor.numel() == size)
            return out

    with Bytes() as counter:
        found = run()
    return found, counter.moved


@pytest.mark.parametrize("top_k", [1, 2])
def test_deepspeed_builds_its_one_hot_matrices_and_their_gradients_by_so_many_bytes(top_k: int) -> None:
    torch, gating = pytest.importorskip("torch"), pytest.importorskip("deepspeed.moe.sharded_moe")
    tokens = torch.randn(256, 16, dtype=torch.bfloat16, requires_grad=True)
    scores = torch.randn(256, 8, requires_grad=True)

    def places() -> tuple[Any, Any]:
        chosen = (
            gating.top1gating(scores, 1.0, 0, use_rts=False) if top_k == 1 else gating.topkgating(scores, 2, 1.0, 0)
        )
        return chosen[1], chosen[2]

    def there_and_back() -> Any:
        weights, mask = places()
        sent = gating.einsum("sec,sm->ecm", mask.type_as(tokens), tokens)
        return gating.einsum("sec,ecm->sm", weights.type_as(tokens), sent * 1)

    size = places()[0].numel()
    out, forward = bytes_of(there_and_back, size)
    _, backward = bytes_of(out.sum().backward, size)

    counted = [forward / size, backward / size]
    # Two products write and read a matrix of 16 bit forward, and read it backward, which is counted with them.
    assert counted == [ONE_HOT_BYTES[0][top_k - 1] + 8, ONE_HOT_BYTES[1][top_k - 1] + 4]


def test_a_one_hot_matrix_over_the_micro_batch_grows_with_the_square_of_its_sequences(sparse, rates) -> None:
    def seconds(sequences: int, **flags: float) -> float:
        layout = layout_of(ParallelLayout(micro_batch_size=sequences))
        one_hot = rates(one_hot_dispatch=1.0, memory=1e30, streaming=1e30, **flags)
        work = work_of(PLAN, Stack())
        there, back = one_hot_products(sequences * PLAN.seq_len, shape_of(sparse), layout, work, one_hot)
        return float(there.forward + back.forward)

    assert seconds(1, one_hot_batch=1.0) == pytest.approx(seconds(1))
    assert seconds(4, one_hot_batch=1.0) == pytest.approx(4 * seconds(4)) == pytest.approx(16 * seconds(1))


def test_one_hot_dispatch_sorts_nothing(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1}
    one_hot = [
        float(step(sparse, rates(one_hot_dispatch=1.0, plain_dispatch=flag), **layout).terms["matmul"])
        for flag in (0.0, 1.0)
    ]
    assert one_hot[0] == one_hot[1] > float(step(sparse, rates(), **layout).terms["matmul"])


def test_adapters_on_looped_experts_triple_the_modules_that_hooks_gather(sparse, rates) -> None:
    def loop_s(adapted: str, **changes: float) -> float:
        shape = shape_of(msgspec.structs.replace(sparse, adapters=adapted, trainable_fraction=0.005))
        layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=3))
        cost = expert_loop(shape, layout, rates(expert_loop=1.0, scaleup_latency=0.0, **changes))
        return float(cost.forward + cost.backward)

    def gathers_s(adapted: str) -> float:
        hooked, free = (loop_s(adapted, shard_host_ops=65.0, nic_latency=each) for each in (1e-3, 0.0))
        return hooked - free

    def hooks_s(adapted: str) -> float:
        return loop_s(adapted, shard_host_ops=65.0, nic_latency=0.0) - loop_s(adapted, shard_host_ops=0.0)

    for cost_s in (gathers_s, hooks_s):
        assert cost_s("all_matrices") == pytest.approx(3 * cost_s("none"), rel=0.02)
        assert cost_s("attention") == cost_s("none")
    # The operations of adapters are there without hooks too.
    assert loop_s("all_matrices", shard_host_ops=0.0) > loop_s("attention", shard_host_ops=0.0)
