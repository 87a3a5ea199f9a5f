"""The journal of a node: what becomes of a record that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from carbon_plugin.ledger.records import Manifest
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.ledgers.journal import Journal
from tests.ledger.builder import Job

RUN_ID = "b" * 32


def test_user_is_warned_of_a_record_that_has_no_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    told: list[str] = []
    manifest = Job().records(RUN_ID, 0, 0, Job().attempts[0], 0.0)[0]
    assert isinstance(manifest, Manifest)
    journal = Journal(lambda: LedgerWriter(tmp_path, run_id=RUN_ID, node=0), told.append)

    journal.write(replace(manifest, factors={"what no record can hold": object()}))

    assert len(told) == 1
    assert ["no audit will be able to read" in record.getMessage() for record in caplog.records] == [True]
