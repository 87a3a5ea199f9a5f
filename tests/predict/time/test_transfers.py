"""Transfers between the stages of a pipeline, held against 1F1B as Megatron-core and DeepSpeed run it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

MICRO_BATCHES = 64
PASSES = {"forward": 1.0, "backward": 2.0}
SEQ_LEN = 2048


class Part(NamedTuple):
    """One end of a transfer: what is sent over the border to the next stage (1) or to the one before (-1)."""

    what: str
    side: int


GIVE, TAKE_BACK = Part("activations", 1), Part("gradients", 1)
TAKE, GIVE_BACK = Part("activations", -1), Part("gradients", -1)
Work = str | list[Part]


def one_forward_one_backward(stage: int, stages: int, *, together: bool) -> list[Work]:
    """Return the passes and transfers of a stage in their order. `together` sends and receives at once."""
    warm = stages - stage - 1

    def exchange(*parts: Part) -> Iterator[Work]:
        yield from [list(parts)] if together else ([part] for part in parts)

    work: list[Work] = []
    for _ in range(warm):
        work += [[TAKE], "forward", [GIVE]]
    work += [[TAKE]]
    for number in range(MICRO_BATCHES - warm):
        work += ["forward", *exchange(GIVE, TAKE_BACK), "backward"]
        last = number == MICRO_BATCHES - warm - 1
        # Of two that send one after the other, one begins with what the other one ends.
        work += [[GIVE_BACK]] if last else exchange(GIVE_BACK, TAKE) if together else exchange(TAKE, GIVE_BACK)
    for _ in range(warm):
        work += [[TAKE_BACK], "backward", [GIVE_BACK]]
    ends = {0: -1, stages - 1: 1}
    return [
        done
        for done in (one if isinstance(one, str) else [p for p in one if p.side != ends.get(stage)] for one in work)
        if done
    ]


def run(borders: Sequence[float], *, together: bool) -> float:
    """Return the seconds of a step whose transfers over each border take so long, and end for both at once."""
    stages = len(borders) + 1
    work = [one_forward_one_backward(stage, stages, together=together) for stage in range(stages)]
    clocks = [0.0] * stages
    begun: dict[tuple[int, str, int], dict[int, float]] = defaultdict(dict)
    counts: dict[tuple[int, Part], int] = defaultdict(int)
    waiting: list[list[tuple[int, str, int]]] = [[] for _ in range(stages)]
    while any(work):
        for stage, left in enumerate(work):
            while left:
                if isinstance(left[0], str):
                    clocks[stage] += PASSES[left[0]]
                else:
                    if not waiting[stage]:
                        for part in left[0]:
                            border = stage if part.side > 0 else stage - 1
                            key = (border, part.what, counts[stage, part])
                            counts[stage, part] += 1
                            begun[key][stage] = clocks[stage]
                            waiting[stage].append(key)
                    if any(len(begun[key]) < 2 for key in waiting[stage]):
                        break
                    clocks[stage] = max(max(begun[key].values()) + borders[key[0]] for key in waiting[stage])
                    waiting[stage] = []
                left.pop(0)
    return max(clocks)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("stages", "in_island", "far"),
    [
        (2, 1, [True]),
        (4, 1, [True, True, True]),
        (4, 2, [False, True, False]),
        (8, 2, [False, True, False, True, False, True, False]),
        (8, 4, [False, False, False, True, False, False, False]),
        (8, 8, [False] * 7),
    ],
)
def test_a_pipeline_waits_for_its_neighbours_as_the_schedule_does_that_it_runs(
    gpt, rates, stages, in_island, far, together
) -> None:
    dp = 8 // in_island
    layout = layout_of(ParallelLayout(pp=stages, dp_shard=dp, zero_stage=1))
    plan = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=MICRO_BATCHES * dp, steps=1)
    sent = SEQ_LEN * gpt.hidden * 2

    def waited(seconds: float) -> float:
        cluster = rates(devices=stages * dp, nic=sent / seconds, transfer_wait=0.0 if together else 1e-9)
        terms = step_time(shape_of(gpt), layout, work_of(plan, Stack()), cluster).terms
        return float(terms["pp_transfer"] + terms["pp_bubble"])

    def ran(seconds: float) -> float:
        return run([seconds if border else 1e-3 for border in far], together=together)

    assert waited(0.3) - waited(0.1) == pytest.approx(ran(0.3) - ran(0.1), rel=0.08)


@pytest.mark.parametrize(
    ("stages", "devices", "share"), [(4, 32, 1), (4, 16, 1 / 3), (8, 32, 3 / 7), (8, 8, 0), (2, 64, 1), (4, 64, 1)]
)
def test_a_pipeline_crosses_as_many_borders_as_it_leaves_islands(rates, stages, devices, share) -> None:
    assert network.far_share(float(stages), rates(devices=devices)) == pytest.approx(share)
    together = network.far_share(np.array([float(stages), 4.0]), rates(devices=devices))
    assert together[0] == pytest.approx(share)


def test_a_stage_of_a_shared_island_has_at_most_one_neighbour_on_another(rates) -> None:
    def links(stages: int, devices: int) -> tuple[float, float]:
        slower, faster = network.neighbour_bandwidths(float(stages), False, rates(devices=devices, nic=1e9))
        return float(slower), float(faster)

    assert links(4, 32) == (1e9, 1e9)
    assert links(4, 16) == (1e9, 231e9)
    assert links(4, 24) == (1e9, 1e9)  # of 6 devices a stage, some have both neighbours on other islands
    assert links(8, 8) == (231e9, 231e9)
