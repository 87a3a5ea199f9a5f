"""The boundary ladder: every rung says whether it was measured, modelled, or is absent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.audit.tally.account.ladder import boundary_ladder
from carbon_plugin.footprint.values import Factors
from tests.ledger.builder import Attempt, Job

ATTEMPTS = [Attempt(0, 3)]


def test_each_rung_has_its_coverage_and_the_facility_is_the_machines_times_pue(
    tmp_path: Path, factors: Factors
) -> None:
    Job(factors=msgspec.to_builtins(factors), attempts=ATTEMPTS).write(tmp_path)
    summary = summarise(tmp_path)
    assert [(one.rung, one.coverage, one.how) for one in summary.ladder] == [
        ("gpu", "measured", "nvml"),
        ("host", "modelled", "host model"),
        ("network", "absent", "no meter and no model"),
        ("storage", "absent", "shared storage is in no profile and no meter"),
        ("facility", "modelled", "machines x PUE 1.2"),
    ]
    assert summary.ladder[-1].energy_j == pytest.approx(1.2 * summary.energy.energy_j)
    assert summary.ladder[2].energy_j is None


def test_without_a_site_nothing_is_said_of_the_facility(tmp_path: Path) -> None:
    Job(attempts=ATTEMPTS, intensity_g_per_kwh=None, pue=None).write(tmp_path)
    assert summarise(tmp_path).ladder[-1].coverage == "absent"


def test_a_facility_meter_is_measured_and_not_multiplied(tmp_path: Path, factors: Factors) -> None:
    Job(attempts=ATTEMPTS, factors=msgspec.to_builtins(factors)).write(tmp_path)
    summary = summarise(tmp_path)
    host = next(device.identity for device in summary.devices if device.identity.rung == "host")
    facility = msgspec.structs.replace(host, rung="facility", meter="csv power, integrated")
    ladder = boundary_ladder({"facility": summary.by_rung["gpu"]}, [facility], factors)
    assert ladder[-1].coverage == "measured"
    assert ladder[-1].how == "csv power, integrated"
    assert ladder[-1].energy_j == summary.by_rung["gpu"].energy_j
