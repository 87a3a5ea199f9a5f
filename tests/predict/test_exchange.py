"""What a once-a-step exchange of gradients and parameters adds to a step that it runs beside."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.rates.datasheet import datasheet
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.overlap import exposed_exchange
from carbon_plugin.predict.time.schedule import POINT_TO_POINT_LATENCY, step_time
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import ExpertDispatch, Stack
from carbon_plugin.spec.training import TrainingPlan

seconds = st.floats(1e-4, 10.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(traffic=seconds, compute=seconds, near=st.floats(0.0, 1.0), hidden=st.floats(0.0, 1.0))
def test_an_exchange_costs_at_least_what_does_not_fit_beside_the_compute(rates, traffic, compute, near, hidden) -> None:
    exposed = float(exposed_exchange(traffic, near * traffic, np.float64(compute), hidden, rates()))
    assert exposed >= (1 - hidden) * traffic + max(hidden * traffic - compute, 0.0) - 1e-9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(traffic=seconds, near=st.floats(0.0, 1.0), hidden=st.floats(0.0, 1.0))
def test_more_compute_never_exposes_more_of_an_exchange_whose_bytes_cost_nothing(rates, traffic, near, hidden) -> None:
    free = rates(contention=0.0)
    exposed = [float(exposed_exchange(traffic, near, np.float64(c), hidden, free)) for c in (0.1, 1.0, 10.0)]
    assert exposed == sorted(exposed, reverse=True)


def test_an_exchange_that_overlaps_nothing_is_paid_in_full(rates) -> None:
    assert float(exposed_exchange(0.3, 0.1, np.float64(5.0), 0.0, rates())) == pytest.approx(0.3)


def test_a_short_backward_pass_hides_less_of_the_gradients(gpt, rates) -> None:
    layout = layout_of(ParallelLayout(dp_shard=64, zero_stage=1))
    overlapping = rates(dp_overlap=1.0, gather_overlap=1.0, contention=0.0)

    def exposed(length: int) -> float:
        plan = TrainingPlan(seq_len=length, global_batch_size=64, steps=1)
        return float(step_time(shape_of(gpt), layout, work_of(plan, Stack()), overlapping).terms["dp"])

    assert exposed(256) > 2 * exposed(8192)


def test_parameters_that_are_fetched_after_the_update_are_waited_for(gpt, rates) -> None:
    layout = layout_of(ParallelLayout(dp_shard=64, zero_stage=1))
    plan = TrainingPlan(seq_len=2048, global_batch_size=512, steps=1)

    def exposed(**shares: float) -> float:
        return float(step_time(shape_of(gpt), layout, work_of(plan, Stack()), rates(**shares)).terms["dp"])

    none, gradients, both = exposed(), exposed(dp_overlap=1.0), exposed(dp_overlap=1.0, gather_overlap=1.0)
    assert both < gradients < none


@pytest.mark.parametrize(("unit", "again"), [("bucket", False), ("weight", False), ("layer", True), ("flat", True)])
def test_zero_2_fetches_parameters_once_a_step_where_software_keeps_them_whole(gpt, rates, unit, again) -> None:
    bare = rates(contention=0.0)

    def terms(stage: Literal[2, 3], micro_batches: int) -> dict[str, float]:
        layout = layout_of(ParallelLayout(dp_shard=64, zero_stage=stage))
        plan = TrainingPlan(seq_len=64, global_batch_size=64 * micro_batches, steps=1)
        found = step_time(shape_of(gpt), layout, work_of(plan, Stack(shard_unit=unit)), bare).terms
        return {name: float(found[name]) for name in ("dp", "dp_shard")}

    one, four = terms(2, 1), terms(2, 4)
    assert 3 < four["dp_shard"] / one["dp_shard"] <= 4  # more is hidden where gradients are added up
    assert four["dp"] == pytest.approx(one["dp"])
    assert (one["dp"] == 0) == again
    assert sum(four.values()) < sum(terms(3, 4).values())


def test_the_gather_overlaps_as_the_gradients_do_unless_it_is_stated() -> None:
    device = load_accelerator("a100-sxm-80gb")
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=8)
    stack = Stack(dp_overlap=0.85)
    assert float(datasheet(cluster, stack, "bf16").gather_overlap) == 0.85
    stated = msgspec.structs.replace(stack, gather_overlap=0.0)
    assert float(datasheet(cluster, stated, "bf16").gather_overlap) == 0.0
    with pytest.raises(SpecError, match=r"gather_overlap is 1\.5"):
        Stack(gather_overlap=1.5)


def test_tensors_that_are_sent_one_by_one_cost_the_more_the_more_ranks_hold_states(gpt, rates) -> None:
    def more_s(ranks: int) -> float:
        layout = layout_of(ParallelLayout(dp_shard=ranks, zero_stage=1))
        plan = TrainingPlan(seq_len=2048, global_batch_size=ranks, steps=1)
        single, gathered = (
            float(step_time(shape_of(gpt), layout, work_of(plan, Stack()), rates(broadcasts=flag, devices=ranks)).total)
            for flag in (1.0, 0.0)
        )
        return single - gathered

    assert more_s(8) == 0  # inside an island the ring has no latency that counts
    assert 3.5 < more_s(1024) / more_s(256) < 4.5


def test_a_pipeline_that_waits_for_every_transfer_pays_four_times_per_micro_batch(gpt, rates) -> None:
    layout = ParallelLayout(pp=4, dp_shard=16, zero_stage=1)
    plan = TrainingPlan(seq_len=2048, global_batch_size=256, steps=1)
    case = (shape_of(gpt), layout_of(layout), work_of(plan, Stack()))
    steps = [step_time(*case, rates(transfer_wait=s, nic=1e15, scaleup=1e15)).terms for s in (1e-3, 0.0)]
    waiting, plain = (float(terms["pp_transfer"] + terms["pp_bubble"]) for terms in steps)
    micro_batches, borders = 16, 3
    # Both neighbours, both ways: two of these four transfers run together where nobody waits for each.
    more = micro_batches * (4e-3 + 2 * POINT_TO_POINT_LATENCY) + borders * 2e-3
    assert waiting - plain == pytest.approx(more, rel=1e-3)


def exchange_s(accelerator: str, dispatch: ExpertDispatch, ranks: int, top_k: int) -> float:
    """Return the seconds in which 100 MB a rank reach their experts on a cluster of 64 devices."""
    device = load_accelerator(accelerator)
    node = default_node_for(device)
    cluster = Cluster(accelerator=device, node=node, nodes=64 // node.accelerators, devices_per_node=node.accelerators)
    rates, _ = resolve_rates(cluster, Stack(expert_dispatch=dispatch), "bf16")
    arguments = (np.float64(1e8), np.float64(top_k), np.float64(128), np.float64(ranks), np.float64(1))
    return float(network.all_to_all_time(*arguments, rates))


@pytest.mark.parametrize("top_k", [1, 4, 8])
@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 32, 64])
def test_deepep_goes_over_the_network_between_the_nodes_of_a_rack_and_hybridep_does_not(ranks: int, top_k: int) -> None:
    for rack in ("gb200-nvl72", "gb300-nvl72"):
        deepep, hybridep = (exchange_s(rack, way, ranks, top_k) for way in ("deepep", "hybridep"))

        assert deepep == hybridep if ranks <= 4 else deepep > (1 if ranks <= 8 else 2) * hybridep


@pytest.mark.parametrize("accelerator", ["h100-sxm", "b200-sxm", "mi300x"])
@pytest.mark.parametrize("ranks", [4, 8, 16, 64])
def test_both_use_the_same_links_where_a_node_of_eight_is_all_that_links_join(accelerator: str, ranks: int) -> None:
    assert exchange_s(accelerator, "deepep", ranks, 8) == exchange_s(accelerator, "hybridep", ranks, 8)
    assert exchange_s(accelerator, "hybridep", ranks, 8) <= exchange_s(accelerator, "all_to_all", ranks, 8)
