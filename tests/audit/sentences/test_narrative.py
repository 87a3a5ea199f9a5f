"""Sentences about how a run was counted: their nouns and verbs follow the numbers."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import left_out, opening, ways_of_counting
from carbon_plugin.audit.sentences.phrases import unread_share
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.held.claims import Overlap
from tests.ledger.builder import Attempt, Job


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    folder = tmp_path_factory.mktemp("counted")
    Job(nodes=1, attempts=[Attempt(0, 6)]).write(folder)
    return summarise(folder)


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        (1, "1 device had two meters at the same time and was counted once."),
        (4, "4 devices had two meters at the same time and were counted once."),
    ],
)
def test_devices_with_two_meters_are_counted_in_a_sentence_that_agrees(summary, devices, sentence):
    overlaps = [
        Overlap(key=f"GPU-{number}", file="b.jsonl", counted_in="a.jsonl", duration_s=10.0)
        for number in range(devices)
    ]  # fmt: skip
    coverage = msgspec.structs.replace(summary.coverage, overlaps=overlaps)

    assert sentence in ways_of_counting(msgspec.structs.replace(summary, coverage=coverage))


def test_time_that_others_are_charged_for_is_said(summary):
    reserved = msgspec.structs.replace(summary.reserved, shared_s=7200.0)

    said = ways_of_counting(msgspec.structs.replace(summary, reserved=reserved))

    assert any("2.00 h of device time, with their manufacture, are charged to those" in line for line in said)


def test_gpu_that_was_never_read_is_not_estimated_from_its_modelled_idle_time(tmp_path):
    attempt = Attempt(0, 6, reserved_before_s=60.0)
    Job(nodes=1, gpus=1, host_power_w=None, attempts=[attempt], lost_gpu=(0, 0, 0)).write(tmp_path)
    summary = summarise(tmp_path)

    assert summary.unobserved["gpu"].energy_j > 0
    assert 0 < summary.by_rung["gpu"].meters.absent < 1
    assert unread_share(summary) == pytest.approx(1.0)
    assert "No GPU could be read; what they drew while the job ran is in no total." in left_out(summary)


def test_ledger_without_a_window_is_said_and_no_time_of_0_ms(tmp_path):
    Job(nodes=1, gpus=1, attempts=[Attempt(0, 0)]).write(tmp_path)
    summary = summarise(tmp_path)
    energy = msgspec.structs.replace(summary.energy, windows=0)
    period = msgspec.structs.replace(summary.period, active_s=0.0)

    said = opening(msgspec.structs.replace(summary, energy=energy, period=period))

    assert said.startswith("The ledgers of 1 GPU of 1 node hold no window: nothing was recorded yet.")


def test_largest_cause_of_a_forecast_that_was_off_may_be_the_manufacture(tmp_path, factors, forecast_document):
    known = {"factors": msgspec.to_builtins(factors), "intensity_g_per_kwh": 41.4, "pue": 1.2}
    Job(**known, forecast=forecast_document).write(tmp_path)
    summary = summarise(tmp_path)
    forecast = msgspec.structs.replace(summary.forecast, embodied_kg=10 * summary.footprint.total_kg.value)

    assert "the largest cause of the difference was embodied carbon" in opening(
        msgspec.structs.replace(summary, forecast=forecast)
    )
