"""Collectives: closed forms on one tier and placement of groups on two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.rates.resolve import PRIORS, resolve_constants
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.network import FAR_EXCHANGE_SHARE
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.stack import Stack

ONE = np.float64(1)


def test_a_ring_all_reduce_moves_two_times_n_minus_1_over_n(rates) -> None:
    quiet = rates(scaleup_latency=0)
    size = np.float64(1e9)
    seconds = float(network.group_of(np.float64(8), ONE, quiet).all_reduce_time(size))
    assert seconds == pytest.approx(2 * 7 / 8 * 1e9 / 231e9)
    halves = 2 * float(network.group_of(np.float64(8), ONE, quiet).gather_time(size))
    assert halves == pytest.approx(seconds)


@pytest.mark.parametrize(("link", "measured"), [(900e9, 733e9), (200e9, 155.5e9)])
def test_an_all_to_all_on_a_device_that_nobody_calibrated_is_as_fast_as_deepep_measured(rates, link, measured) -> None:
    # B200 and H800: means of dispatch and combine over 8 ranks (README.md and docs/legacy.md of deepseek-ai/DeepEP at
    # 0297fc8), which count the eighth of the rows that stays on its rank.
    share = {name: PRIORS[f"{name}_share"][0] for name in ("scaleup", "all_to_all")}
    quiet = rates(scaleup_latency=0, scaleup=link * share["scaleup"], all_to_all_share=share["all_to_all"])
    seconds = float(network.all_to_all_time(np.float64(1e9), np.float64(8), np.float64(64), np.float64(8), ONE, quiet))
    assert 1e9 / seconds == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize(
    ("nodes", "megabytes", "seconds"),
    [
        *((2, 256, 3.23e-3), (4, 256, 4.57e-3), (8, 256, 5.67e-3)),
        *((2, 2048, 24.2e-3), (4, 2048, 36.7e-3), (8, 2048, 40.6e-3)),
        (8, 8.389, 317e-6),
    ],
)
def test_a_plain_all_to_all_between_nodes_takes_what_nccl_takes(rates, nodes, megabytes, seconds) -> None:
    # Eight H100 a node with 50 GB/s of EFA for each (data/nccl_alltoall.csv of
    # crazyguitar/aws-gpu-communication-benchmark at a77f70d), and H800 (issue 1531 of NVIDIA/nccl).
    size, ranks, nic = values(megabytes * 1e6), values(8 * nodes), 50e9
    efa = rates(scaleup=347e9, scaleup_latency=20e-6, nic=nic, nic_across=nic, all_to_all_share=0.9)

    predicted = float(network.all_to_all_time(size, values(1), values(512), ranks, ONE, efa))

    assert predicted == pytest.approx(seconds, rel=0.1)


def test_an_all_to_all_of_tpus_has_the_bisection_of_their_torus() -> None:
    tpu, gpu = (resolve_constants(load_accelerator(name), Stack(), "bf16")[0] for name in ("tpu-v5p", "mi300x"))
    assert float(tpu.all_to_all_share) == pytest.approx(2 / 6, abs=0.01)
    assert float(gpu.all_to_all_share) > 0.8


def test_one_rank_communicates_nothing(rates) -> None:
    size = np.float64(1e9)
    assert float(network.group_of(ONE, ONE, rates()).all_reduce_time(size)) == 0
    assert float(network.group_of(ONE, ONE, rates()).gather_time(size)) == 0
    assert float(network.all_to_all_time(size, np.float64(2), np.float64(64), ONE, ONE, rates())) == 0


@pytest.mark.parametrize(("stride", "nics"), [(1, 8), (2, 4), (8, 1)])
def test_a_group_across_nodes_uses_the_nics_of_its_ranks_in_a_node(rates, stride, nics) -> None:
    bandwidth = network.group_of(np.float64(64 // stride), np.float64(stride), rates()).bandwidth
    assert float(bandwidth) == pytest.approx(min(231e9, nics * 11.6e9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(small=st.floats(1e3, 1e9), ranks=st.sampled_from([2, 4, 8, 16, 64]), stride=st.sampled_from([1, 2, 8]))
def test_more_bytes_never_take_less_time(rates, small, ranks, stride) -> None:
    group = network.group_of(np.float64(ranks), np.float64(stride), rates())
    for time in (group.all_reduce_time, group.gather_time):
        assert float(time(np.float64(2 * small))) >= float(time(np.float64(small)))


def test_deduplicated_dispatch_sends_a_token_once_to_each_island_and_a_plain_one_once_to_each_expert(rates) -> None:
    def time(top_k: int, flag: float) -> float:
        lean = rates(scaleup_latency=0, deduplicated=flag)
        return float(network.all_to_all_time(values(1e9), values(top_k), values(64), values(16), ONE, lean))

    # Over two islands at most one of eight copies has to leave. A plain exchange sends all that are for the other half.
    assert time(8, 1.0) == pytest.approx(1e9 * (1 - 0.5**8) / 8 / 11.6e9, rel=0.01)
    assert time(8, 0.0) == pytest.approx(1e9 / 2 / 11.6e9 / FAR_EXCHANGE_SHARE, rel=0.01)
    assert time(1, 0.0) == pytest.approx(time(1, 1.0) / FAR_EXCHANGE_SHARE, rel=0.01)


@pytest.mark.parametrize(("share", "nodes"), [(1.0, 8), (0.5, 4), (1 / 8, 1)])
def test_a_router_that_is_limited_to_some_groups_sends_a_token_to_no_more_nodes(rates, share, nodes) -> None:
    lean = rates(scaleup_latency=0, scaleup=1e30, deduplicated=1.0)

    seconds = float(network.all_to_all_time(values(1e9), values(8), values(64), values(64), ONE, lean, values(share)))

    # A token with eight experts on `nodes` nodes, of which 7 in 8 are other ones than its own.
    met = nodes * (1 - (1 - 1 / nodes) ** 8)
    assert seconds == pytest.approx(1e9 * 7 / 8 * met / 8 / 11.6e9)


def test_copies_that_come_from_other_nodes_are_forwarded_within_the_node(rates) -> None:
    lean = rates(scaleup_latency=0, nic=1e30, nic_across=1e30, deduplicated=1.0, all_to_all_share=1.0)

    within, across = (
        float(network.all_to_all_time(values(1e9), values(8), values(64), values(ranks), ONE, lean))
        for ranks in (8, 64)
    )

    # Eight experts of a token are on 5.3 of 8 ranks, or on 7.6 of 64: each copy but one in eight takes a scale-up link.
    assert within == pytest.approx(1e9 * 7 / 8 * 8 * (1 - (7 / 8) ** 8) / 8 / 231e9)
    assert across == pytest.approx(1e9 * 7 / 8 * 64 * (1 - (63 / 64) ** 8) / 8 / 231e9)


def test_only_a_plain_exchange_among_all_devices_goes_across_rails(rates) -> None:
    level, narrow = (rates(scaleup_latency=0, nic_across=11.6e9 / by) for by in (1, 4))
    once = rates(scaleup_latency=0, deduplicated=1.0, nic_across=11.6e9 / 4)
    size, ranks = values(1e9), values(16)

    plain = network.all_to_all_time(size, values(1), values(64), ranks, ONE, level)
    assert network.all_to_all_time(size, values(1), values(64), ranks, ONE, narrow) == pytest.approx(4 * plain, 0.01)
    # Deduplicated dispatch goes to the device of the same index first, along the rail.
    assert network.all_to_all_time(size, values(1), values(64), ranks, ONE, once) == pytest.approx(
        plain * FAR_EXCHANGE_SHARE, 0.01
    )
    across, alike = (network.group_of(ranks, values(1), each).all_reduce_time(size) for each in (narrow, level))
    assert across == alike


@pytest.mark.parametrize(("ranks", "stride", "inside"), [(8, 1, 8), (8, 2, 4), (4, 2, 4), (8, 8, 1), (16, 4, 2)])
def test_an_exchange_of_ranks_that_lie_apart_leaves_the_node_earlier(rates, ranks, stride, inside) -> None:
    free = rates(scaleup_latency=0, scaleup=1e30)

    seconds = float(network.all_to_all_time(values(1e9), values(1), values(64), values(ranks), values(stride), free))

    assert seconds == pytest.approx(1e9 * (ranks - inside) / ranks / 11.6e9 / FAR_EXCHANGE_SHARE, 0.01)


def test_switches_that_reduce_carry_each_byte_once_and_only_between_islands(rates) -> None:
    quiet = {"scaleup_latency": 0, "nic_latency": 0}
    size, ranks = np.float64(1e9), np.float64(8)

    def time(stride: int, **changes: float) -> float:
        return float(network.group_of(ranks, np.float64(stride), rates(**quiet, **changes)).all_reduce_time(size))

    assert time(8, in_network=1.0) == pytest.approx(time(8) * 8 / 14)
    assert time(1, in_network=1.0) == time(1)


def test_the_latency_of_a_gather_grows_with_the_ranks_of_its_ring(rates) -> None:
    small, large = (
        float(network.group_of(values(n), values(1), rates(devices=n)).gather_time(values(1))) for n in (128, 2048)
    )
    # 255 hops between nodes and 1,792 inside them, as NCCL's own table has them.
    assert large - small > 5e-3
    assert float(network.group_of(values(8), values(1), rates()).ring_latency) == 0


def test_waiting_for_a_slow_network_costs_no_memory_bandwidth(rates) -> None:
    slow, fast = (network.group_of(values(64), values(1), rates(nic=nic)) for nic in (1e9, 50e9))
    assert slow.near_time(values(1e9)) == fast.near_time(values(1e9))
    assert slow.gather_time(values(1e9)) > fast.gather_time(values(1e9))


@pytest.mark.parametrize(("ranks", "top_k"), [(8, 1), (8, 2), (8, 8), (4, 6)])
def test_deduplicated_dispatch_sends_a_token_once_to_each_rank(rates, ranks, top_k) -> None:
    free = {"scaleup_latency": 0.0, "all_to_all_share": 1.0, "scaleup": 1.0}
    plain, once = (
        float(
            network.all_to_all_time(
                values(1), values(top_k), values(64), values(ranks), ONE, rates(deduplicated=flag, **free)
            )
        )
        for flag in (0.0, 1.0)
    )
    assert plain == pytest.approx((ranks - 1) / ranks)
    # Of top_k rows of a token, those that leave: one a rank that holds at least one of its experts.
    assert once == pytest.approx((ranks - 1) * (1 - (1 - 1 / ranks) ** top_k) / top_k)
    assert once <= plain * (1 + 1e-12)


@pytest.mark.parametrize(("ranks", "top_k", "met"), [(8, 8, 1), (16, 8, 2), (64, 8, 8), (8, 1, 1)])
def test_experts_in_turn_are_neighbours_that_few_ranks_hold(rates, ranks, top_k, met) -> None:
    free = {"scaleup_latency": 0.0, "all_to_all_share": 1.0, "scaleup": 1.0, "nic": 1e-3}

    def time(**flags: float) -> float:
        return float(
            network.all_to_all_time(
                values(1), values(top_k), values(64), values(ranks), ONE, rates(**flags | free, island=ranks)
            )
        )

    assert time(deduplicated=1.0, round_robin=1.0) == pytest.approx((ranks - 1) / ranks * met / top_k)
    # A plain all-to-all sends each of the k rows whoever its neighbours are.
    assert time(round_robin=1.0) == time()


def test_experts_in_turn_keep_tokens_on_few_islands(rates) -> None:
    slow = {"scaleup_latency": 0.0, "scaleup": 1e15, "nic": 1.0, "deduplicated": 1.0}

    in_turn, drawn = (
        float(
            network.all_to_all_time(values(1), values(8), values(256), values(64), ONE, rates(**slow, round_robin=flag))
        )
        for flag in (1.0, 0.0)
    )

    # Of eight islands, one holds eight neighbours of 256 experts: 7/8 of the tokens leave, once, of eight rows each.
    assert in_turn == pytest.approx(7 / 8 / 8)
    assert drawn == pytest.approx(7 / 8 * 8 * (1 - (7 / 8) ** 8) / 8)


@pytest.mark.parametrize(
    ("ranks", "stride", "devices", "inside"),
    [  # on nodes of eight devices
        (6, 1, 48, 2),  # ranks 6 to 11 are two of one node and four of the next
        (3, 2, 48, 1),  # of ranks 6, 8 and 10 the first is alone
        (2, 3, 48, 1),  # ranks 6 and 9
        (4, 2, 64, 4),
        (12, 1, 96, 4),
        (8, 4, 64, 2),
        (6, 1, 6, 6),  # a job of one node has no other one
    ],
)
def test_a_group_that_does_not_divide_the_node_has_as_many_ranks_together_as_its_worst_one(
    rates, ranks, stride, devices, inside
) -> None:
    found = network.ranks_in_island(values(ranks), values(stride), rates(devices=devices))

    assert found == inside
    columns = network.ranks_in_island(np.array([ranks, 1.0]), np.array([stride, 1.0]), rates(devices=devices))
    assert columns.tolist() == [inside, 1]


@pytest.mark.parametrize(("ranks", "stride", "linked"), [(2, 1, True), (2, 2, False), (4, 1, False), (8, 1, False)])
def test_cards_that_no_bridge_joins_talk_over_the_bus_of_the_host(rates, ranks, stride, linked) -> None:
    pairs = rates(joined=2, bus=12e9, devices=8)

    found = network.group_of(values(ranks), values(stride), pairs).bandwidth

    assert found == (231e9 if linked else 12e9)
    assert network.neighbour_bandwidths(values(4), False, pairs) == (12e9, 12e9)
    assert network.group_of(values(16), values(1), rates(joined=2, bus=12e9, nic=1e9)).bandwidth == 8e9
