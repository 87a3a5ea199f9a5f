"""How many devices send through one NIC in a pipeline, held against all ranks of small clusters, placed one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

MICRO_BATCHES = 24
FORWARD, BACKWARD = 1.0, sqrt(5)
"""Seconds of the passes of a stage, of which no multiples are alike by chance."""
ON, BACK = 1, -1
Sent = tuple[int, int]
"""A stage that sends, and the side to which it does."""


def sent_by_1f1b(stages: int) -> list[list[Sent]]:
    """Return which stages send at the same moment, for every moment of a step of 1F1B whose transfers take no time."""
    orders = []
    for stage in range(stages):
        warm = min(stages - stage - 1, MICRO_BATCHES)
        turns = [(ON, number) for number in range(warm)]
        for number in range(MICRO_BATCHES - warm):
            turns += [(ON, warm + number), (BACK, number)]
        orders.append(turns + [(BACK, number) for number in range(MICRO_BATCHES - warm, MICRO_BATCHES)])
    done: dict[tuple[int, int, int], float] = {}
    clocks = [0.0] * stages
    while any(orders):
        for stage, left in enumerate(orders):
            while left:
                way, number = left[0]
                needed = (stage - way, way, number)
                at_end = not 0 <= stage - way < stages
                if not at_end and needed not in done:
                    break
                begun = max(clocks[stage], 0.0 if at_end else done[needed])
                clocks[stage] = done[stage, way, number] = begun + (FORWARD if way == ON else BACKWARD)
                left.pop(0)
    moments: dict[float, list[Sent]] = defaultdict(list)
    for (stage, way, _), moment in done.items():
        if 0 <= stage + way < stages:
            moments[round(moment, 6)].append((stage, way))
    return list(moments.values())


def sent_both_ways(stages: int) -> list[list[Sent]]:
    """Return that all stages send on and back at the same moment, the last one on to the first one."""
    return [[(stage, way) for stage in range(stages) for way in (ON, BACK)]]


def most_on_one_nic(moments: list[list[Sent]], stages: int, devices: int, island: int, shared: int) -> int:
    """Return how many devices of one NIC send out of their node at one moment at most."""
    stage_size, most = devices // stages, 0
    for moment in moments:
        busy: dict[int, set[int]] = defaultdict(set)
        for stage, way in moment:
            for rank in range(stage * stage_size, (stage + 1) * stage_size):
                to = (rank + way * stage_size) % devices
                if to // island != rank // island:
                    busy[rank // shared].add(rank)
        most = max([most, *map(len, busy.values())])
    return most


def clusters() -> Iterator[tuple[int, int, int, int]]:
    """Give island, nodes, stages and devices of a NIC of all small clusters."""
    for island in (2, 4, 6, 8):
        for nodes in (2, 3, 4):
            for stages in range(2, island * nodes + 1):
                if island * nodes % stages == 0:
                    yield from ((island, nodes, stages, n) for n in range(1, island + 1) if island % n == 0)


@pytest.mark.parametrize("both_ways", [False, True])
def test_as_many_devices_share_a_nic_as_send_out_of_a_node_at_one_moment(rates, both_ways) -> None:
    seen = 0
    for island, nodes, stages, shared in clusters():
        devices = island * nodes
        moments = sent_both_ways(stages) if both_ways else sent_by_1f1b(stages)
        most = most_on_one_nic(moments, stages, devices, island, shared)
        placed = rates(devices=devices, island=island, joined=island, devices_per_nic=shared)
        found = network.nic_senders(float(stages), both_ways, placed)
        where = f"{nodes} nodes of {island}, {stages} stages, {shared} on a NIC"
        if island % (devices // stages) == 0 or devices // stages % island == 0:
            assert found == most, where
            seen += 1
        else:  # stages across nodes, of which some devices stay inside
            assert most <= found <= shared, where
    assert seen > 80


def test_stages_that_hold_a_device_each_send_as_fast_as_the_nic_of_their_node_can(gpt, rates) -> None:
    def transfers(stages: int, **cluster: float) -> float:
        dp = 32 // stages
        layout = layout_of(ParallelLayout(pp=stages, dp_shard=dp, zero_stage=1))
        plan = TrainingPlan(seq_len=2048, global_batch_size=64 * dp, steps=1)
        terms = step_time(shape_of(gpt), layout, work_of(plan, Stack()), rates(devices=32, **cluster)).terms
        return float(terms["pp_transfer"])

    alone, shared = {"nic": 1e7, "devices_per_nic": 1.0}, {"nic": 1e7, "devices_per_nic": 8.0}
    assert transfers(4, **shared) == transfers(4, **alone)
    assert transfers(8, **shared) == pytest.approx(transfers(8, **alone) / 2, rel=0.02)
    assert transfers(32, **shared) == pytest.approx(transfers(32, **alone) / 8, rel=0.02)


def test_arrays_give_each_case_its_own_senders(rates) -> None:
    placed = rates(devices=32, devices_per_nic=8.0)
    both = np.array([False, False, True])
    assert network.nic_senders(np.array([4.0, 16.0, 16.0]), both, placed).tolist() == [8, 2, 4]
