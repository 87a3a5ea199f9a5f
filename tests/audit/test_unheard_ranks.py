"""A job of which only one rank runs the monitor, as scripts do that measure on rank 0: the audit says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import Close, DeviceEnergy, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.metered import DeviceIdentity

HOST = DeviceIdentity(key="boot/host", name="host", rung="host", scope="host", meter="m", energy_kind="modelled")


@pytest.mark.parametrize(("heard", "said"), [([0], True), ([0, 1], False)])
def test_an_audit_says_that_a_rank_was_not_heard_of(tmp_path: Path, heard: list[int], said: bool) -> None:
    identity = agree_run(tmp_path, name="r", run_id="b" * 32)
    energies = [DeviceEnergy(key=HOST.key, energy_j=100.0, kind="modelled")]
    records = [
        Manifest(
            version=1, run_id=identity.run_id, attempt=0, node=0, nodes=1, host_key="boot", hostname="h", world_size=2,
            started_unix_s=1000.0, reserved_since_unix_s=None, devices=[HOST], effective={}, factors={}, versions={},
            ranks_without_gpu=heard,
        ),
        Window(
            index=0, phase="train", start_unix_s=1000.0, duration_s=10.0, steps=1, tokens=0, energies=energies,
            last_step=1, intensity_g_per_kwh=None, pue=None,
        ),
        Close(at_unix_s=1010.0, reason="closed", steps=1, windows=1, energy_j=100.0),
    ]  # fmt: skip
    writer = LedgerWriter(tmp_path, run_id=identity.run_id, node=0)
    for record in records:
        writer.write(record)
    writer.close()

    text = render_text(summarise(tmp_path))

    assert ("Nothing was heard from 1 rank of a launch" in " ".join(text.split())) == said
