"""The page on the monitor lists exactly the keys that are logged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "monitor.md"


def documented() -> set[str]:
    keys: set[str] = set()
    for line in PAGE.read_text().splitlines():
        found = re.match(r"\| `(carbon/\w+)`(, `_low`, `_high`)? \|", line)
        if found:
            keys |= {found[1] + end for end in (("", "_low", "_high") if found[2] else ("",))}
    return keys


@pytest.fixture
def logged() -> set[str]:
    from carbon_plugin.footprint.run_factors import resolve_factors
    from carbon_plugin.footprint.values import Reservation
    from carbon_plugin.ledger.held.account_inputs import UsedEnergy, energy_item
    from carbon_plugin.monitor.run.metrics import metrics_of
    from carbon_plugin.monitor.run.projection import outlook, remaining_measured
    from carbon_plugin.monitor.run.totals import RunTotals
    from carbon_plugin.spec.hardware.cluster import Cluster
    from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
    from carbon_plugin.spec.numbers.range import Range
    from carbon_plugin.spec.site import Site

    energy = Range(1e6, 9e5, 1.1e6)
    used = UsedEnergy(energy=energy, told_j=1e6, estimated_j=1.0, without_factors_j=1e6)
    reserved = (Reservation(scope="device", units=8.0, time_s=100.0),)
    totals = RunTotals(
        spent={("gpu", "gpu"): used}, steady=(energy_item(("gpu", "gpu"), energy),), steady_s=100.0,
        steady_steps=100, reserved=reserved, reserved_now=reserved,
        power_w=1.0, gpus=1, gpus_measured=1, nodes_seen=1, last_step=100,
    )  # fmt: skip
    cluster = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=1, devices_per_node=8)
    view = outlook(totals, remaining_measured(totals, 10, None), resolve_factors(Site(zone="FRA"), cluster))
    return set(metrics_of(totals, view, step_time_s=1.0, predicted_step_time_s=1.0, by_measured_rates=True))


def test_every_key_is_documented_and_every_documented_key_is_logged(logged):
    assert documented() == logged | {"carbon/ledger_head", "carbon/budget_share"}
