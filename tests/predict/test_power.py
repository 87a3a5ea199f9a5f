"""Power from activity: bounds, monotony, caps, and what published nodes draw."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import modelled_energies
from carbon_plugin.predict.power import (
    ACTIVITIES,
    DRAWS,
    capped_share,
    clock_share,
    step_activity,
    step_power,
    step_power_w,
)
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec

TERMS = st.dictionaries(st.sampled_from(sorted(ACTIVITIES)), st.floats(1e-3, 10), min_size=1)


def llama(accelerator: str = "h100-sxm", **cluster):
    return build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": accelerator, "nodes": 2, **cluster},
            "layout": {"dp_shard": 16, "zero_stage": 3, "micro_batch_size": 2, "recompute": "selective"},
            "training": {"seq_len": 8192, "global_batch_size": 64, "steps": 10},
            "site": {"zone": "FRA"},
        },
        origin="test",
    )


@given(terms=TERMS)
def test_activities_share_out_the_whole_step(terms) -> None:
    shares = step_activity({name: np.float64(time) for name, time in terms.items()})

    assert set(shares) == set(DRAWS)
    assert float(sum(shares.values())) == pytest.approx(1)


@given(terms=TERMS)
def test_power_lies_in_its_range_between_idle_and_the_limit(terms) -> None:
    cluster = llama().cluster
    power, _ = step_power({name: np.float64(time) for name, time in terms.items()}, cluster)

    assert 0 < power.low <= power.value <= power.high <= cluster.power_limit_w


@given(terms=TERMS, wait=st.floats(0.1, 10))
def test_waiting_longer_never_draws_more_power(terms, wait) -> None:
    cluster = llama().cluster
    busy = {name: np.float64(time) for name, time in terms.items()}
    longer = {**busy, "pp_bubble": busy.get("pp_bubble", np.float64(0)) + wait}

    assert float(step_power_w(longer, cluster)) <= float(step_power_w(busy, cluster)) + 1e-9


def test_a_cap_lowers_power_slows_matrix_work_and_saves_energy() -> None:
    free, capped = predict_step(llama()), predict_step(llama(power_cap_w=400))

    assert capped.gpu_power_w.high <= 400 < free.gpu_power_w.value
    assert free.step_time_s.value < capped.step_time_s.value < 1.5 * free.step_time_s.value
    assert capped.gpu_energy_per_step_j.value < free.gpu_energy_per_step_j.value


def test_a_device_waits_while_the_host_updates_its_parameters() -> None:
    spec = llama()
    training = msgspec.structs.replace(spec.training, optimizer_offload=True)
    here, on_host = predict_step(spec), predict_step(msgspec.structs.replace(spec, training=training))

    busy = {name: time for name, time in on_host.breakdown_s.items() if name != "framework"}
    waited = busy["offload"] / sum(busy.values())
    assert on_host.activity.stall == pytest.approx(here.activity.stall * (1 - waited) + waited, rel=0.05)
    assert on_host.gpu_power_w.value < here.gpu_power_w.value


def test_a_cap_outside_what_the_device_takes_is_refused() -> None:
    with pytest.raises(SpecError, match="power_cap_w is 900, expected above 122 and at most 700"):
        llama(power_cap_w=900)


def test_a_node_in_training_draws_what_was_measured() -> None:
    # 8 x H100 in compute-intensive training: 76 % of 10.2 kW rated (arXiv 2506.14551).
    spec = llama()
    power = predict_step(spec).gpu_power_w
    one = msgspec.structs.replace(spec.cluster, nodes=1)
    energies = {item.rung: item.energy.value for item in modelled_energies(one, power, 1.0)}

    assert energies["gpu"] + energies["host"] == pytest.approx(10.2e3 * 0.76, rel=0.06)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.54, 0.56, 0.8, 0.99, 1.0])
def test_a_clock_falls_less_than_its_power_until_the_voltage_cannot_fall(share: float) -> None:
    assert share <= clock_share(share) <= 1
    assert clock_share(share) <= clock_share(min(1.0, share + 0.01))


def test_a_cap_above_what_the_device_draws_changes_nothing() -> None:
    assert capped_share(llama(power_cap_w=690).cluster) == 1
    assert capped_share(llama(power_cap_w=300).cluster) < capped_share(llama(power_cap_w=500).cluster) < 1
