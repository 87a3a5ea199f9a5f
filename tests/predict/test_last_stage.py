"""Which stage of a pipeline needs most memory: the first one holds most micro-batches, the last one has the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import LLAMA

MakeRates = Callable[..., Rates]
SEQ_LEN, BATCH = 128, 64
DEEP = msgspec.structs.replace(LLAMA, layers=16, vocab=50)
WIDE = msgspec.structs.replace(DEEP, vocab=100_000)
STACK = Stack(fused=True, cross_entropy="vocab_parallel")


def parts_of(model: Any, rates: Rates, *, first_stage: bool = False, **layout: Any) -> dict[str, float]:
    work = work_of(TrainingPlan(seq_len=SEQ_LEN, global_batch_size=BATCH, steps=1), STACK)
    case = layout_of(ParallelLayout(**layout))
    return {k: float(v) for k, v in memory_parts(shape_of(model), case, work, rates, first_stage=first_stage).items()}


def test_logits_count_where_they_outweigh_the_micro_batches_of_the_first_stage(rates: MakeRates) -> None:
    narrow, wide = (parts_of(model, rates(), pp=4) for model in (DEEP, WIDE))

    assert narrow["logits"] == 0
    assert wide["logits"] == 6 * SEQ_LEN * WIDE.vocab
    assert wide["activations"] == pytest.approx(narrow["activations"] / 4)  # one micro-batch in place of four


def test_the_first_stage_alone_has_no_logits_and_all_its_micro_batches(rates: MakeRates) -> None:
    narrow, wide = (parts_of(model, rates(), first_stage=True, pp=4) for model in (DEEP, WIDE))

    assert wide["logits"] == 0
    assert wide["activations"] == narrow["activations"]
    assert parts_of(WIDE, rates(), first_stage=True) == parts_of(WIDE, rates())  # without a pipeline it has all


@pytest.mark.parametrize(
    ("layout", "in_flight"),
    [
        ({"pp": 4}, 1),
        ({"pp": 4, "virtual_stages": 2, "pipeline_schedule": "interleaved"}, (4 + 1) / 2),
        ({"pp": 4, "pipeline_schedule": "gpipe", "micro_batch_size": 16}, 4),
    ],
)
def test_the_last_stage_holds_what_its_schedule_lets_it(rates: MakeRates, layout: Any, in_flight: float) -> None:
    size = layout.get("micro_batch_size", 1)
    alone = parts_of(WIDE, rates(), micro_batch_size=size)["activations"]

    assert parts_of(WIDE, rates(), **layout)["activations"] == pytest.approx(alone / 4 * in_flight)


@pytest.mark.parametrize(
    ("layers", "vocab", "of_last"),
    [
        (16, 10_000, 1),  # a head that is the work of several layers leaves one beside it
        (14, 100_000, 3),  # embedding and head count as a layer each, and all stages have four
    ],
)
def test_a_last_stage_that_is_balanced_by_work_holds_what_is_left(
    rates: MakeRates, layers: int, vocab: int, of_last: int
) -> None:
    model = msgspec.structs.replace(DEEP, layers=layers, vocab=vocab)
    alone = parts_of(model, rates(), micro_batch_size=BATCH)["activations"]
    found = parts_of(model, rates(), pp=4, balanced_stages=True, micro_batch_size=BATCH)

    assert found["logits"] > 0
    assert found["activations"] == pytest.approx(alone / layers * of_last)


def test_need_is_never_less_than_that_of_the_first_stage(rates: MakeRates) -> None:
    work = work_of(TrainingPlan(seq_len=SEQ_LEN, global_batch_size=BATCH, steps=1), STACK)
    for vocab in (50, 2_000, 5_000, 20_000, 100_000):
        model = shape_of(msgspec.structs.replace(DEEP, vocab=vocab))
        for fields in (
            {"pp": 2},
            {"pp": 4, "recompute": "full"},
            {"pp": 8, "virtual_stages": 2, "pipeline_schedule": "interleaved"},
        ):
            layout = layout_of(ParallelLayout(**fields))
            need = memory_bytes(model, layout, work, rates())
            first = memory_parts(model, layout, work, rates(), first_stage=True)
            passing = ("activations", "working", "logits")
            assert sum(float(need[name]) for name in passing) >= sum(float(first[name]) for name in passing)
