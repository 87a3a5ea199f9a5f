"""DualPipe, held against what each device holds and runs: stages are placed one by one, from both ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.schedule import POINT_TO_POINT_LATENCY, step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import LLAMA

MakeRates = Callable[..., Rates]
SEQ_LEN, MICRO_BATCHES = 128, 64
STACK = Stack(fused=True, cross_entropy="vocab_parallel")
PLAN = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=MICRO_BATCHES, steps=1)
DEEP = msgspec.structs.replace(LLAMA, layers=12, vocab=100_000)


def stages_of(device: int, stages: int) -> tuple[int, int]:
    """Return the two stages of a device: the one that the micro-batches of each end of the pipeline reach there."""
    return device, stages - 1 - device


def layers_of(stage: int, stages: int, layers: int) -> int:
    """Return the layers of a stage, of which the first ones have one more where they do not divide evenly."""
    most = -(-layers // stages)
    return max(0, min(most, layers - most * stage))


def memory(model: TransformerModel, rates: Rates, **layout: Any) -> dict[str, float]:
    parts = memory_parts(shape_of(model), layout_of(ParallelLayout(**layout)), work_of(PLAN, STACK), rates)
    return {name: float(size) for name, size in parts.items()}


def parameters_of(model: TransformerModel, device: int, stages: int) -> float:
    """Return the parameters on a device, where a tied head is the embedding that the device has already."""
    table = model.vocab * model.hidden
    empty = msgspec.structs.replace(model, layers=stages)
    layer = (empty.parameters - table * (1 if model.tied_embeddings else 2)) / stages
    tables, held = set(), 0.0
    for stage in stages_of(device, stages):
        held += layers_of(stage, stages, model.layers) * layer
        tables |= {"embedding"} if stage == 0 else set()
        tables |= {"embedding" if model.tied_embeddings else "head"} if stage == stages - 1 else set()
    return held + len(tables) * table


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stages", [2, 4, 6])
def test_the_fullest_device_holds_two_stages_with_embedding_and_head(rates: MakeRates, stages, tied) -> None:
    model = msgspec.structs.replace(DEEP, tied_embeddings=tied)
    found = memory(model, rates(), pp=stages, pipeline_schedule="dualpipe")
    fullest = max(parameters_of(model, device, stages) for device in range(stages))
    assert found["parameters"] == pytest.approx(2 * fullest, rel=1e-3)
    assert found["gradients"] == pytest.approx(4 * fullest, rel=1e-3)


@pytest.mark.parametrize("first_stage", [False, True])
@pytest.mark.parametrize("stages", [2, 4, 6])
def test_the_logits_lie_beside_the_micro_batches_of_both_ends(rates: MakeRates, stages, first_stage) -> None:
    """The device of the first and the last stage has `stages` micro-batches of the one and one of the other."""
    case, work = layout_of(ParallelLayout(pp=stages, pipeline_schedule="dualpipe")), work_of(PLAN, STACK)
    found = memory_parts(shape_of(DEEP), case, work, rates(), first_stage=first_stage)
    alone = memory(DEEP, rates())
    in_flight = sum(stages - stage for stage in stages_of(0, stages))
    assert float(found["activations"]) == pytest.approx(alone["activations"] * in_flight / stages)
    assert float(found["logits"]) == alone["logits"] == 6 * SEQ_LEN * DEEP.vocab


@pytest.mark.parametrize("layers", [12, 10])
@pytest.mark.parametrize("stages", [2, 4, 6])
def test_the_head_costs_what_the_slowest_device_runs_more(rates: MakeRates, stages, layers) -> None:
    """Half of the micro-batches enter at each end, and each passes all stages."""
    model, cluster = msgspec.structs.replace(DEEP, layers=layers), rates(nic=1e15, scaleup=1e15)
    alone = step_time(shape_of(model), layout_of(ParallelLayout()), work_of(PLAN, STACK), cluster).terms
    head = float(alone["head"]) / MICRO_BATCHES
    layer = sum(float(alone[name]) for name in ("matmul", "attention", "elementwise", "host")) / layers / MICRO_BATCHES

    def busy(device: int) -> float:
        passes = [stages_of(device, stages)[number % 2] for number in range(MICRO_BATCHES)]
        seconds = [layers_of(stage, stages, layers) * layer for stage in passes]
        return sum(seconds) + passes.count(stages - 1) * head

    more = max(map(busy, range(stages))) - MICRO_BATCHES * layers_of(0, stages, layers) * layer
    layout = layout_of(ParallelLayout(pp=stages, pipeline_schedule="dualpipe"))
    found = step_time(shape_of(model), layout, work_of(PLAN, STACK), cluster).terms
    # The ends of a pipeline have one neighbour to wait for, and devices between them have two.
    spared = MICRO_BATCHES * POINT_TO_POINT_LATENCY if stages > 2 else 0.0
    assert found["head"] == pytest.approx(max(more - spared, 0), rel=1e-3)


def test_a_device_exchanges_the_gradients_of_both_its_stages(rates: MakeRates) -> None:
    def exchanged(schedule: str) -> float:
        layout = layout_of(ParallelLayout(pp=4, dp_replicate=16, pipeline_schedule=schedule))
        plan = msgspec.structs.replace(PLAN, global_batch_size=16 * MICRO_BATCHES)
        return float(step_time(shape_of(DEEP), layout, work_of(plan, STACK), rates(nic=1e7)).terms["dp"])

    assert exchanged("dualpipe") == pytest.approx(2 * exchanged("1f1b"), rel=0.01)
