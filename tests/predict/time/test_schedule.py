"""The step-time equations: what must hold for any layout, and closed forms where there are any."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import stack_cases
from carbon_plugin.predict.parameters import device_parameters, layer_parameters
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.schedule import POINT_TO_POINT_LATENCY, step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import MixtureOfExperts
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=2048, global_batch_size=512, steps=10)


@st.composite
def layouts(draw: st.DrawFn) -> ParallelLayout:
    """Return valid layouts of 64 devices for a model with 40 layers and 40 heads."""
    tp = draw(st.sampled_from([1, 2, 4, 8]))
    pp = draw(st.sampled_from([1, 2, 4]))
    dp = 64 // (tp * pp)
    zero = draw(st.sampled_from([0, 1, 2, 3]))
    chunks = draw(st.sampled_from([1, 2, 5])) if pp > 1 else 1
    return ParallelLayout(
        tp=tp,
        pp=pp,
        dp_replicate=dp if zero == 0 else 1,
        dp_shard=1 if zero == 0 else dp,
        zero_stage=zero,
        sequence_parallel=draw(st.booleans()),
        pipeline_schedule="interleaved" if chunks > 1 else "1f1b",
        virtual_stages=chunks,
        micro_batch_size=draw(st.sampled_from([1, 2, 4])),
        recompute=draw(st.sampled_from(["none", "selective", "operators", "full"])),
    )


def total(model, layout, rates, plan=PLAN, stack=Stack()):  # noqa: B008
    return step_time(shape_of(model), layout_of(layout), work_of(plan, stack), rates)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(layout=layouts(), field=st.sampled_from(["memory", "gemm_flops", "attention_flops", "scaleup", "nic"]))
def test_a_faster_resource_never_makes_the_step_slower(gpt, rates, layout, field) -> None:
    base = rates()
    faster = rates(**{field: 2 * float(getattr(base, field))})
    assert total(gpt, layout, faster).total <= total(gpt, layout, base).total * (1 + 1e-12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(layout=layouts(), field=st.sampled_from(["kernel_time", "host_op_time", "nic_latency", "scaleup_latency"]))
def test_a_higher_fixed_cost_never_makes_the_step_faster(gpt, rates, layout, field) -> None:
    base = rates()
    costlier = rates(**{field: 2 * float(getattr(base, field))})
    assert total(gpt, layout, costlier).total >= total(gpt, layout, base).total * (1 - 1e-12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(layout=layouts())
def test_the_terms_are_not_negative_and_add_up_to_the_step(gpt, rates, layout) -> None:
    step = total(gpt, layout, rates())
    assert all(float(term) >= -1e-12 for term in step.terms.values())
    assert float(sum(step.terms.values())) == pytest.approx(float(step.total), rel=1e-12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(many=st.lists(layouts(), min_size=2, max_size=6))
def test_many_layouts_at_once_give_what_each_gives_alone(gpt, rates, many) -> None:
    together = step_time(shape_of(gpt), stack_cases([layout_of(x) for x in many]), work_of(PLAN, Stack()), rates())
    alone = [float(total(gpt, layout, rates()).total) for layout in many]
    np.testing.assert_allclose(together.total, alone, rtol=1e-12)


def test_the_bubble_of_1f1b_is_p_minus_1_slots_and_interleaving_divides_it(gpt, rates) -> None:
    # Narayanan et al. 2021 (arXiv 2104.04473), section 2.2: bubble over ideal time is (p-1)/(v*m).
    quiet = rates(nic=1e15, scaleup=1e15, nic_latency=0, scaleup_latency=0)
    plain = total(gpt, ParallelLayout(tp=8, pp=4, dp_replicate=2), quiet)
    slots = float(plain.total - plain.terms["pp_bubble"] - plain.terms["head"] - plain.terms["optimizer"])
    slots -= float(plain.terms["jitter"] + plain.terms["dp"])
    m = float(plain.micro_batches)
    assert float(plain.terms["pp_bubble"]) == pytest.approx(slots * 3 / m, rel=1e-3)
    chunks = ParallelLayout(tp=8, pp=4, dp_replicate=2, pipeline_schedule="interleaved", virtual_stages=5)
    interleaved = total(gpt, chunks, quiet)
    assert float(interleaved.terms["pp_bubble"]) < 0.25 * float(plain.terms["pp_bubble"])


def test_a_pipeline_that_drains_four_times_in_a_step_has_four_bubbles_and_nothing_else_more(gpt, rates) -> None:
    once, often = (
        total(gpt, ParallelLayout(tp=8, pp=4, dp_replicate=2, pipeline_rounds=rounds), rates()).terms
        for rounds in (1, 4)
    )

    assert float(often["pp_bubble"]) == pytest.approx(4 * float(once["pp_bubble"]))
    rest = set(once) - {"pp_bubble", "jitter", "framework"}  # these two are shares of the whole step
    assert {name: float(often[name]) for name in rest} == {name: float(once[name]) for name in rest}


def test_full_recompute_repeats_the_forward_pass_and_non_reentrant_stops_early(gpt, rates) -> None:
    def recompute(**fields) -> float:
        layout = ParallelLayout(dp_replicate=64, micro_batch_size=4, **fields)
        return float(total(gpt, layout, rates()).terms.get("recompute", 0.0))

    assert recompute(recompute="none") == 0
    full = recompute(recompute="full", recompute_reentrant=True)
    assert 0 < recompute(recompute="full") < full
    assert recompute(recompute="operators") < full


def test_expert_parallelism_pays_all_to_all_and_more_experts_cost_no_more_compute(gpt, rates) -> None:
    def step(experts: int, ep: int):
        moe = MixtureOfExperts(experts=experts, top_k=2, expert_ffn=2560)
        model = type(gpt)(**{**{f: getattr(gpt, f) for f in gpt.__struct_fields__}, "moe": moe})
        return total(model, ParallelLayout(dp_replicate=64, ep=ep, micro_batch_size=4), rates())

    assert float(step(8, 1).terms["ep"]) == 0
    assert float(step(8, 8).terms["ep"]) > 0
    assert float(step(64, 64).terms["matmul"]) == pytest.approx(float(step(8, 8).terms["matmul"]), rel=0.2)


def test_the_framework_factor_multiplies_the_whole_step(gpt, rates) -> None:
    layout = ParallelLayout(tp=8, dp_replicate=8)
    slow, fast = total(gpt, layout, rates(framework_factor=1.3)), total(gpt, layout, rates())
    assert float(slow.total) == pytest.approx(1.3 * float(fast.total))


def test_balanced_stages_share_out_the_head_and_the_odd_layers(gpt, rates) -> None:
    layout = {"tp": 8, "pp": 8, "micro_batch_size": 1}

    dealt, balanced = (total(gpt, ParallelLayout(**layout, balanced_stages=flag), rates()) for flag in (False, True))
    alone = total(gpt, ParallelLayout(tp=8), rates())

    assert float(balanced.total) < float(dealt.total)
    per_micro_batch = float(alone.terms["head"] / alone.micro_batches)
    assert float(balanced.terms["head"] / balanced.micro_batches) == pytest.approx(per_micro_batch / 8)


def test_unfused_attention_pays_for_a_softmax_that_megatrons_kernel_cannot_take(gpt, rates) -> None:
    # 40 heads over tp 4 are 10: not a multiple of 4 with one sequence, and one with two (`is_kernel_available`).
    def core(micro_batch_size: int, seq_len: int = 2048) -> float:
        layout = ParallelLayout(tp=4, dp_replicate=16, micro_batch_size=micro_batch_size)
        plan = msgspec.structs.replace(PLAN, seq_len=seq_len)
        return float(total(gpt, layout, rates(attention_unfused=1.0), plan).terms["attention"])

    assert core(1) > 1.5 * core(2)
    # Beyond 4,096 keys the kernel does not exist: a score costs as much more there.
    assert core(2, 8192) > 1.5 * 16 * core(2)


@pytest.mark.parametrize(("precision", "moved", "fused_bytes"), [("bf16", 56, 10), ("fp16", 40, 10), ("fp32", 44, 20)])
def test_plain_pytorch_moves_its_scores_at_every_length_and_a_compiler_makes_the_softmax_one_kernel(
    gpt, rates, precision, moved, fused_bytes
) -> None:
    def core(seq_len: int = 2048, *, fused: float = 0.0, eager: float = 1.0, dropout: float = 0.0) -> float:
        plan = msgspec.structs.replace(PLAN, seq_len=seq_len, precision=precision)
        model = msgspec.structs.replace(gpt, dropout=dropout)
        kernels = rates(attention_unfused=1.0, attention_eager=eager, fused=fused)
        layout = ParallelLayout(tp=8, dp_replicate=8, micro_batch_size=4)
        return float(total(model, layout, kernels, plan).terms["attention"])

    scores = gpt.layers * gpt.heads / 8 * (PLAN.global_batch_size / 8) * 2048**2
    moved_s = moved * scores / float(rates().streaming), fused_bytes * scores / float(rates().memory)
    assert core() - core(eager=0.0) == pytest.approx(moved_s[0] - moved_s[1])
    assert core(fused=1.0) == pytest.approx(core(eager=0.0))
    # Four times the sequence has sixteen times the scores, and no length at which a kernel ends.
    assert core(8192) == pytest.approx(16 * core(2048), rel=0.03)


@given(head=st.integers(1, 512))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_attention_of_a_device_with_lanes_costs_whole_lanes_of_a_head(gpt, rates, head) -> None:
    def core(width: int, lanes: float) -> float:
        model = msgspec.structs.replace(gpt, head_dim=width)
        return float(total(model, ParallelLayout(), rates(attention_lanes=lanes)).terms["attention"])

    assert core(head, 128.0) == pytest.approx(core(-(-head // 128) * 128, 0.0))
    assert core(head, 128.0) >= core(head, 0.0)


def test_an_interleaved_pipeline_hides_its_transfers_beside_compute_unless_each_is_awaited(gpt, rates) -> None:
    def transfer(chunks: int, wait: float) -> float:
        schedule = "interleaved" if chunks > 1 else "1f1b"
        layout = ParallelLayout(pp=8, dp_shard=8, zero_stage=1, pipeline_schedule=schedule, virtual_stages=chunks)
        work = work_of(TrainingPlan(seq_len=4096, global_batch_size=256, steps=1), Stack())
        terms = step_time(shape_of(gpt), layout_of(layout), work, rates(transfer_wait=wait)).terms
        exchanges = 4 * chunks if wait else 2 * chunks
        return float(terms["pp_transfer"]) - exchanges * 256 / 8 * (POINT_TO_POINT_LATENCY + wait)

    assert transfer(2, 0.0) == pytest.approx(0, abs=1e-9)
    assert transfer(1, 0.0) > 0
    # Twice as many chunks, and activations and gradients one after the other.
    assert transfer(2, 1e-3) == pytest.approx(4 * transfer(1, 0.0))


@pytest.mark.parametrize(("devices", "waits"), [(32, True), (8, False)])
def test_a_pipeline_with_several_stages_in_a_node_still_waits_for_the_network_to_the_next_node(
    gpt, rates, devices, waits
) -> None:
    layout = ParallelLayout(pp=devices // 4, dp_shard=4, zero_stage=1)

    def transfer_s(nic: float) -> float:
        case = (shape_of(gpt), layout_of(layout), work_of(PLAN, Stack()))
        return float(step_time(*case, rates(devices=devices, nic=nic)).terms["pp_transfer"])

    bytes_sent = 128 * 2048 * 5120 * 2  # a stage has one neighbour on another node, and sends while it receives
    slower = transfer_s(0.5e9) - transfer_s(5e9)
    assert slower == pytest.approx(bytes_sent / 0.5e9 - bytes_sent / 5e9 if waits else 0)


@pytest.mark.parametrize("layers", [10, 40])
@pytest.mark.parametrize(("dtype", "reduced"), [("fp32", 4), ("bf16", 2), (None, 2)])
def test_hybrid_sharding_shows_the_exchange_of_one_layer_where_compute_hides_the_others(
    gpt, rates, layers, dtype, reduced
) -> None:
    shape = shape_of(msgspec.structs.replace(gpt, layers=layers))
    layout = layout_of(ParallelLayout(dp_replicate=8, dp_shard=8, zero_stage=3, micro_batch_size=8))
    quick = rates(nic=200e9, contention=0.0)

    exposed = step_time(shape, layout, work_of(PLAN, Stack(grad_reduce_dtype=dtype)), quick).terms["dp"]

    gradients = sum(device_parameters(shape, layout)) * reduced / 8
    every_layer = network.group_of(np.float64(8), np.float64(8), quick).all_reduce_time(gradients)
    assert float(exposed) == pytest.approx(float(every_layer) / layers, rel=0.05)


def test_a_bubble_does_not_wait_again_for_what_sharding_sends_once_a_step(gpt, rates) -> None:
    """Parameters are gathered once a step by all stages together: with twice the batch a step had been shorter."""
    layout = ParallelLayout(pp=8, dp_shard=8, zero_stage=3)
    slow = rates(nic=1e9)
    few, many = (
        total(gpt, layout, slow, TrainingPlan(seq_len=2048, global_batch_size=8 * rounds, steps=1)) for rounds in (2, 4)
    )

    assert few.terms["dp_shard"] == pytest.approx(float(many.terms["dp_shard"]))
    assert few.terms["pp_bubble"] == pytest.approx(float(many.terms["pp_bubble"]))
    assert few.total < many.total


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(layout=layouts())
def test_a_host_that_waits_for_every_kernel_adds_its_time_to_that_of_the_device(gpt, rates, layout) -> None:
    usual, waiting = rates(), rates(launch_blocking=1.0)

    beside, after = (total(gpt, layout, each).terms for each in (usual, waiting))

    assert float(after["host"]) > float(beside["host"])
    # What the host takes by itself is what a step of a device without any work takes.
    free = rates(
        memory=1e30, streaming=1e30, gemm_flops=1e30, wide_gemm_flops=1e30, attention_flops=1e30, kernel_time=0.0
    )
    alone = total(gpt, msgspec.structs.replace(layout, tp=1, sequence_parallel=False), free).terms["host"]
    assert layout.tp > 1 or float(after["host"]) == pytest.approx(float(alone), rel=1e-6)


def test_software_that_gathers_nothing_ahead_waits_for_the_parameters_of_every_layer_twice(gpt, rates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3, micro_batch_size=8)
    long_compute = {"contention": 0.0, "gemm_flops": 1e13, "devices": 8}

    ahead, late = (total(gpt, layout, rates(gathers_ahead=flag, **long_compute)).terms["dp_shard"] for flag in (1, 0))

    (shared, _) = layer_parameters(shape_of(gpt), layout_of(layout), sparse=False)
    gather = network.group_of(np.float64(8), np.float64(1), rates(devices=8)).gather_time(2 * shared)
    assert float(late - ahead) == pytest.approx(2 * float(gather) * gpt.layers * 512 / 8 / 8, rel=0.01)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("dtype", "written"), [("fp32", 4), ("bf16", 2)])
def test_sharded_pytorch_copies_parameters_out_of_its_buffers_and_gradients_into_them(
    gpt, rates, stage, dtype, written
) -> None:
    """FSDP's first form gathers into the tensor whose views the parameters are, and XLA copies neither."""
    layout = ParallelLayout(dp_shard=8, zero_stage=stage, micro_batch_size=8)
    hidden = rates(contention=0.0, scaleup=1e15, devices=8)
    (shared, _) = layer_parameters(shape_of(gpt), layout_of(layout), sparse=False)
    one_pass = float(shared) * gpt.layers * 512 / 8 / 8 / float(hidden.streaming)

    copies, flat, weights = (
        float(total(gpt, layout, hidden, stack=Stack(shard_unit=unit, grad_reduce_dtype=dtype)).terms["dp_shard"])
        for unit in ("layer", "flat", "weight")
    )

    assert copies - flat == pytest.approx(one_pass * (4 if stage == 2 else 8), rel=1e-6)  # 16 bit, read and written
    assert flat - weights == pytest.approx(one_pass * (2 + written), rel=1e-6)  # read in 16 bit


def test_a_single_device_copies_nothing(gpt, rates) -> None:
    layout = ParallelLayout(zero_stage=3)
    terms = [total(gpt, layout, rates(), stack=Stack(shard_unit=unit)).terms["dp_shard"] for unit in ("layer", "flat")]
    assert [float(term) for term in terms] == [0, 0]


@pytest.mark.parametrize(
    ("ep", "expert_tp", "sharded", "replicas"), [(1, 1, False, 8), (2, 1, False, 4), (8, 1, False, 1), (4, 2, True, 1)]
)
def test_an_expert_has_as_many_copies_as_expert_parallelism_leaves(ep, expert_tp, sharded, replicas) -> None:
    spread = {"dp_shard": 8, "zero_stage": 1} if sharded else {"dp_replicate": 8, "zero_stage": 0}

    layout = layout_of(ParallelLayout(ep=ep, expert_tp=expert_tp, **spread))

    assert layout.expert_replicas == replicas
    # The ranks that hold an expert are all there are: none counts twice, and none is outside of the job.
    assert layout.expert_split * layout.expert_shards * layout.expert_replicas == 8
