"""Sentences about how a run was counted: their nouns and verbs follow the numbers."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import ways_of_counting
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
