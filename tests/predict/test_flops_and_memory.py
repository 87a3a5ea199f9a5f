"""FLOP and byte counts against closed forms of the literature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from carbon_plugin.predict.activations import layer_activation_bytes
from carbon_plugin.predict.case.from_spec import LOGIT_BYTES, layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import stack_cases
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.peak import (
    CONTEXT_BYTES,
    FRAGMENTATION_SHARE,
    LAID_OUT_BYTES,
    LAID_OUT_SHARE,
    allocated_bytes,
    memory_bytes,
    reserved_bytes,
)
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import MixtureOfExperts
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=2048, global_batch_size=64, steps=1)
ONE_KERNEL = Stack(fused_optimizer=True)
"""Plain PyTorch whose update makes no copy, so that the loss is the peak of a step where its activations are large."""


def test_model_flops_are_megatrons_72_bslh2(gpt) -> None:
    # Narayanan et al. 2021, appendix: 72 B s l h^2 (1 + s/6h + V/12lh) with full attention; causal halves s/6h.
    model, hardware = step_flops(shape_of(gpt), layout_of(ParallelLayout()), work_of(PLAN, Stack()))
    b, s, n, h, v = 64, 2048, gpt.layers, gpt.hidden, gpt.vocab
    assert float(model) == pytest.approx(72 * b * s * n * h**2 * (1 + s / (12 * h) + v / (12 * n * h)), rel=1e-9)
    assert float(hardware) == float(model)


def test_full_recompute_adds_a_third_of_the_layers_flops(gpt) -> None:
    layout = layout_of(ParallelLayout(recompute="full"))
    model, hardware = step_flops(shape_of(gpt), layout, work_of(PLAN, Stack()))
    b, s, n, h = 64, 2048, gpt.layers, gpt.hidden
    assert float(hardware - model) == pytest.approx(24 * b * s * n * h**2 * (1 + s / (12 * h)), rel=1e-9)


def test_activations_are_korthikantis_34_plus_5as_over_h(gpt, rates) -> None:
    # Korthikanti et al. 2022 (arXiv 2205.05198), table 2: s b h (34 + 5 a s / h) bytes a layer, unfused, with dropout.
    layout = layout_of(ParallelLayout(micro_batch_size=4))
    unfused = rates(attention_unfused=1.0)
    size = layer_activation_bytes(shape_of(gpt), layout, work_of(PLAN, Stack()), unfused, sparse=False)
    s, b, h, a = 2048, 4, gpt.hidden, gpt.heads
    assert float(size) == pytest.approx(s * b * h * (34 + 5 * a * s / h), rel=1e-9)


def test_tensor_and_sequence_parallelism_divide_activations_as_published(gpt, rates) -> None:
    # Same table: s b h (10 + 24/t) with tensor parallelism, (34/t) with sequence parallelism, selective recompute.
    def size(sequence_parallel: bool) -> float:
        layout = layout_of(ParallelLayout(tp=8, sequence_parallel=sequence_parallel))
        work = work_of(PLAN, Stack())
        return float(layer_activation_bytes(shape_of(gpt), layout, work, rates(), sparse=False))

    unit = 2048 * gpt.hidden
    assert size(False) == pytest.approx(unit * (10 + 24 / 8), rel=1e-9)
    assert size(True) == pytest.approx(unit * 34 / 8, rel=1e-9)


@pytest.mark.parametrize(("zero_stage", "bytes_each"), [(0, 18), (1, 6 + 12 / 8), (3, 16 / 8)])
def test_states_take_the_published_bytes_a_parameter(gpt, rates, zero_stage, bytes_each) -> None:
    # Megatron-LM: 18 bytes, or 6 + 12/dp with a distributed optimizer; FSDP shards 16 (fp32 master, gradient, Adam).
    layout = ParallelLayout(dp_replicate=1 if zero_stage else 8, dp_shard=8 if zero_stage else 1, zero_stage=zero_stage)
    parts = memory_bytes(shape_of(gpt), layout_of(layout), work_of(PLAN, Stack()), rates())
    states = float(parts["parameters"] + parts["gradients"] + parts["optimizer"])
    gathered = 2 * 2 * (12 * gpt.hidden**2 + 2 * gpt.hidden) if zero_stage == 3 else 0
    assert states - gathered == pytest.approx(bytes_each * gpt.parameters, rel=0.01)


def test_pipelining_keeps_a_micro_batch_in_flight_for_each_later_stage(gpt, rates) -> None:
    def activations(pp: int) -> float:
        layout = layout_of(ParallelLayout(pp=pp))
        return float(memory_bytes(shape_of(gpt), layout, work_of(PLAN, ONE_KERNEL), rates())["activations"])

    assert activations(4) == pytest.approx(activations(1), rel=1e-9)


def test_interleaving_keeps_no_more_micro_batches_than_there_are(gpt, rates) -> None:
    def activations(batch: int, chunks: int) -> float:
        kind = "interleaved" if chunks > 1 else "1f1b"
        layout = ParallelLayout(pp=4, virtual_stages=chunks, pipeline_schedule=kind)
        return memory(gpt, rates, layout, global_batch_size=batch)["activations"]

    # Korthikanti et al. 2022, section 4.2.3: 1 + (p - 1) / (p m) times those of 1F1B, with m chunks.
    assert activations(64, 2) == pytest.approx(activations(64, 1) * (1 + 3 / 8))
    assert activations(4, 2) == pytest.approx(activations(4, 1))


def test_gpipe_keeps_every_micro_batch_in_flight(gpt, rates) -> None:
    one_by_one, all_forward_first = (
        memory(gpt, rates, ParallelLayout(pp=4, pipeline_schedule=kind))["activations"] for kind in ("1f1b", "gpipe")
    )

    # 64 micro-batches, of which 1F1B holds as many as there are stages.
    assert all_forward_first == pytest.approx(64 / 4 * one_by_one)


def memory(gpt, rates, layout=None, stack=None, **plan):
    training = TrainingPlan(**({"seq_len": 2048, "global_batch_size": 64, "steps": 1} | plan))
    work = work_of(training, stack or ONE_KERNEL)
    return {
        k: float(v)
        for k, v in memory_bytes(shape_of(gpt), layout_of(layout or ParallelLayout()), work, rates()).items()
    }


def test_frozen_weights_are_kept_in_16_bit_also_where_they_are_sharded(gpt, rates) -> None:
    frozen = msgspec.structs.replace(gpt, trainable_fraction=1e-6)
    gathered = 2 * 2 * (12 * gpt.hidden**2 + 2 * gpt.hidden)

    whole = memory(frozen, rates)
    sharded = memory(frozen, rates, ParallelLayout(dp_shard=8, zero_stage=3))

    assert whole["parameters"] == pytest.approx(2 * gpt.parameters, rel=0.01)
    assert sharded["parameters"] - gathered == pytest.approx(2 * gpt.parameters / 8, rel=0.01)
    assert sharded["optimizer"] + sharded["gradients"] + sharded["communication"] < 1e6


def test_narrower_states_and_states_on_the_host_take_less_of_the_device(gpt, rates) -> None:
    full = memory(gpt, rates)["optimizer"]

    # Adam: 4 bytes of master weight and two moments of 4 bytes, or of 2.
    assert memory(gpt, rates, optimizer_state_dtype="bf16")["optimizer"] == pytest.approx(full * 8 / 12)
    assert memory(gpt, rates, optimizer_offload=True)["optimizer"] == 0


def test_a_chunked_loss_never_holds_the_logits(gpt, rates) -> None:
    eager, compiled, chunked = (
        memory(gpt, rates, stack=Stack(cross_entropy=kind, fused_optimizer=True))["logits"]
        for kind in ("eager", "compiled", "chunked")
    )

    assert eager > 2 * compiled > 2 * chunked


def test_full_recompute_keeps_the_borders_of_layers_and_one_layer_at_work(gpt, rates) -> None:
    few = msgspec.structs.replace(gpt, vocab=1000)  # so that the last stage, which has the logits, is not the fullest
    parts = memory(few, rates, ParallelLayout(recompute="full", pp=4, micro_batch_size=2))

    assert parts["activations"] == pytest.approx(2 * 2048 * gpt.hidden * 2 * gpt.layers)
    assert parts["working"] > parts["activations"] / gpt.layers


def test_a_dense_models_memory_does_not_depend_on_what_is_predicted_beside_it(gpt, rates) -> None:
    moe = MixtureOfExperts(experts=8, top_k=2, expert_ffn=gpt.ffn)
    shapes = stack_cases([shape_of(gpt), shape_of(msgspec.structs.replace(gpt, moe=moe))])
    layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=3))
    work = work_of(PLAN, Stack())

    together = memory_bytes(shapes, layout, work, rates())
    alone = memory_bytes(shape_of(gpt), layout, work, rates())

    assert sum(part.flat[0] for part in map(np.asarray, together.values())) == pytest.approx(float(sum(alone.values())))


def test_reserved_memory_is_more_than_allocated(gpt, rates) -> None:
    layout, work = layout_of(ParallelLayout()), work_of(PLAN, Stack())
    parts = memory_parts(shape_of(gpt), layout, work, rates())

    assert reserved_bytes(parts) > allocated_bytes(parts, shape_of(gpt), layout, work)


def all_parts(gpt, rates, layout: ParallelLayout, stack: Stack, **plan: Any) -> dict[str, float]:
    """Return each part at its own largest, whether or not they are there at one time."""
    work = work_of(msgspec.structs.replace(PLAN, **plan), stack)
    found = memory_parts(shape_of(gpt), layout_of(layout), work, rates())
    return {name: float(size) for name, size in found.items()}


def test_blocks_that_an_eager_loss_frees_are_reserved_and_not_needed(gpt, rates) -> None:
    single = all_parts(gpt, rates, ParallelLayout(), Stack())
    fused = all_parts(gpt, rates, ParallelLayout(), Stack(fused=True))
    need = memory(gpt, rates)

    assert single["freed"] == 3 * PLAN.seq_len * gpt.vocab
    assert fused["freed"] == 0
    assert reserved_bytes(single) - reserved_bytes({**single, "freed": 0.0}) > 0
    assert "freed" not in need


def test_a_compiler_that_lays_out_memory_loses_less_of_it(gpt, rates) -> None:
    shape, layout, work = shape_of(gpt), layout_of(ParallelLayout()), work_of(PLAN, Stack())
    gpu, tpu = (memory_bytes(shape, layout, work, rates(laid_out=laid)) for laid in (0.0, 1.0))
    held = sum(float(size) for name, size in tpu.items() if name != "reserve")

    assert float(tpu["reserve"]) == pytest.approx(LAID_OUT_BYTES + LAID_OUT_SHARE * held)
    assert float(tpu["reserve"]) < float(gpu["reserve"])
    assert {name: float(size) for name, size in tpu.items() if name != "reserve"} == {
        name: float(size) for name, size in gpu.items() if name != "reserve"
    }


def test_gradients_that_are_widened_as_a_step_updates_are_there_without_activations(gpt, rates) -> None:
    """On one device the fp32 gradients of DeepSpeed outweigh what a short sequence keeps, and not a long one."""
    stack = Stack(accumulates_beside=True, fused_optimizer=True)
    parameters = float(memory(gpt, rates, stack=stack)["optimizer"]) / 12
    short, long = (memory(gpt, rates, stack=stack, seq_len=length) for length in (8, 65536))
    shared = memory(gpt, rates, ParallelLayout(dp_shard=8, zero_stage=1), stack, seq_len=8)

    assert short["update"] == pytest.approx(4 * parameters)
    assert (short["activations"], short["logits"]) == (0, 0)
    assert long["update"] == 0 < long["logits"]
    assert short["gradients"] == long["gradients"] == pytest.approx(2 * parameters)
    assert shared["update"] == pytest.approx(4 * parameters / 8)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_deepspeed_keeps_gradients_in_16_bit_under_every_stage_until_it_updates(
    gpt, rates, zero_stage: int, precision: str
) -> None:
    """DeepSpeed 0.19.8 with bf16 on one rank, stages 1 and 2: a profiler of PyTorch counts 18 bytes a parameter after a
    backward pass and 28 as it updates, of which 8 are what PyTorch's Adam makes on a CPU and no fused one does.
    """
    stack = Stack(accumulates_beside=True, gradient_buffers=True)
    layout = ParallelLayout(dp_shard=8, zero_stage=zero_stage)

    parts = memory(gpt, rates, layout, stack, seq_len=8, global_batch_size=8, precision=precision)
    states = parts["optimizer"] / 12
    assert parts["update"] == pytest.approx(4 * states)
    assert parts["gradients"] == pytest.approx(2 * states * (8 if zero_stage == 1 else 1))


def allocated(model, rates, stack: Stack, **plan: Any) -> tuple[float, dict[str, float]]:
    """Return the peak of one device and the parts that it consists of."""
    shape, layout = shape_of(model), layout_of(ParallelLayout())
    work = work_of(msgspec.structs.replace(PLAN, **({"global_batch_size": 1} | plan)), stack)
    parts = memory_parts(shape, layout, work, rates())
    return float(allocated_bytes(parts, shape, layout, work)), {name: float(size) for name, size in parts.items()}


def test_the_first_micro_batch_of_a_step_has_its_logits_before_its_gradients(gpt, rates) -> None:
    gpt = msgspec.structs.replace(gpt, tied_embeddings=False)
    once, parts = allocated(gpt, rates, ONE_KERNEL)
    passing = parts["activations"] + parts["logits"] + parts["working"]
    lasting = parts["parameters"] + parts["optimizer"]
    assert once == pytest.approx(lasting + max(parts["gradients"], passing))
    # Gradients that a second micro-batch adds to, and those in buffers, are there together with the logits.
    for batch, kept in ((2, ONE_KERNEL), (1, Stack(gradient_buffers=True))):
        peak, parts = allocated(gpt, rates, kept, global_batch_size=batch)
        assert peak == pytest.approx(lasting + parts["communication"] + parts["gradients"] + passing)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize(
    "layout", [{}, {"dp_replicate": 8}, {"dp_shard": 8, "zero_stage": 1}, {"dp_shard": 8, "zero_stage": 3}], ids=str
)
def test_what_a_step_needs_is_its_peak_with_fragmentation_and_context(gpt, rates, layout, batch) -> None:
    case = layout_of(ParallelLayout(**layout))
    work = work_of(msgspec.structs.replace(PLAN, global_batch_size=batch), ONE_KERNEL)
    every = memory_parts(shape_of(gpt), case, work, rates())

    need = memory_bytes(shape_of(gpt), case, work, rates())

    peak = float(allocated_bytes(every, shape_of(gpt), case, work))
    assert float(sum(need.values())) == pytest.approx(peak * (1 + FRAGMENTATION_SHARE) + CONTEXT_BYTES)
    assert all(float(need[name]) >= 0 for name in need)
    # Buckets of sharded states, and gradients to which a second micro-batch adds, are there at the loss.
    ranks = 8 if layout else 1
    if batch > ranks or layout.get("zero_stage") == 1:
        assert need["gradients"] == every["gradients"]
        assert need["logits"] == every["logits"] > 0
    else:
        assert need["gradients"] == 0 or need["logits"] == 0


def test_a_loss_in_chunks_holds_two_gradients_of_the_head_and_a_whole_one_none(gpt, rates) -> None:
    long = {"seq_len": 65536}  # the loss is the peak of the step
    head = 2 * gpt.vocab * gpt.hidden

    for loss, gradients in (("chunked_output", 2), ("eager", 0)):
        peak, parts = allocated(gpt, rates, Stack(cross_entropy=loss), **long)
        passing = parts["activations"] + parts["logits"] + parts["working"]
        assert peak == pytest.approx(parts["parameters"] + parts["optimizer"] + passing + gradients * head)


def wide_logit_bytes() -> float:
    """Return the predicted bytes per logit of a model that trains in fp32."""
    return float(work_of(msgspec.structs.replace(PLAN, precision="fp32"), Stack()).logit_bytes)


@pytest.mark.exhaustive
def test_an_eager_loss_costs_the_bytes_that_torch_allocates_for_it() -> None:
    """A profiler of PyTorch counts them in a process of its own, because loss parallelism needs a process group."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("loss_peaks.py")], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    whole, split = LOGIT_BYTES["eager"]
    half, _ = LOGIT_BYTES["half"]

    assert found["transformers"] == pytest.approx(whole, abs=0.1)
    assert found["whole over 16 bit, held"] == pytest.approx(half, abs=0.1)
    assert found["whole over fp32, held"] == pytest.approx(wide_logit_bytes(), abs=0.1)
    # Outputs of a model hold its whole logits. torchtitan, whose loss is the one that is split, lets them go.
    assert found["whole, held"] == pytest.approx(whole, abs=0.1)
    assert found["split, let go"] == pytest.approx(split, abs=0.1)
    assert found["split, held"] == pytest.approx(split + 2, abs=0.1)


def test_the_second_gradient_of_a_tied_table_lies_beside_the_first(gpt, rates) -> None:
    table = 2 * gpt.vocab * gpt.hidden
    peaks = []
    for tied in (False, True):
        model = msgspec.structs.replace(gpt, tied_embeddings=tied)
        peak, parts = allocated(model, rates, ONE_KERNEL, seq_len=8)  # the end of the backward pass is the peak
        peaks.append(peak - parts["parameters"] - parts["optimizer"] - parts["gradients"])

    assert peaks == pytest.approx([0, table])


def test_an_optimizer_in_the_backward_pass_still_holds_the_gradient_of_a_table(gpt, rates) -> None:
    model = msgspec.structs.replace(gpt, tied_embeddings=False)
    peak, parts = allocated(model, rates, Stack(), seq_len=8, optimizer_in_backward=True)

    assert parts["gradients"] == 0
    assert peak == pytest.approx(parts["parameters"] + parts["optimizer"] + 2 * gpt.vocab * gpt.hidden)


@pytest.mark.parametrize(
    ("stack", "layout", "sequences"),
    [
        (Stack(), ParallelLayout(tp=4, sequence_parallel=True), 4),
        (Stack(), ParallelLayout(tp=4, sequence_parallel=True, async_tp=True), 3),
        (Stack(gradient_buffers=True), ParallelLayout(tp=4, sequence_parallel=True), 1),
        (Stack(), ParallelLayout(tp=4), 0),
        (Stack(), ParallelLayout(sequence_parallel=True), 0),
    ],
)
def test_gathered_sequences_stay_in_the_cache_of_the_allocator(gpt, rates, stack, layout, sequences) -> None:
    parts = all_parts(gpt, rates, layout, stack)

    assert parts["cached"] == sequences * PLAN.seq_len * gpt.hidden * 2
    without = {**parts, "cached": 0.0}
    assert reserved_bytes(parts) - reserved_bytes(without) == parts["cached"]


def test_a_gradient_in_16_bit_waits_until_it_is_added_to_its_buffer(gpt, rates) -> None:
    plain, buffered = (memory(gpt, rates, stack=Stack(gradient_buffers=kept)) for kept in (False, True))

    assert plain["communication"] == 0
    assert buffered["communication"] == 2 * gpt.hidden * gpt.ffn
