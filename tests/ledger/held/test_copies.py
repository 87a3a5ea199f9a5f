"""Copies of ledgers that were given a manifest of their own: found, and left out of every sum."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from carbon_plugin.calibrate.rows.from_ledger import ledger_rows
from carbon_plugin.cli.commands.whatif import recorded_marginal
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.held.copies import fingerprint_of, original_files
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import DeviceEnergy, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Attempt, Job


def window(*keys: str, **changes: float | None) -> Window:
    energies = [DeviceEnergy(key=key, energy_j=100.0 + len(key), kind="counter") for key in keys]
    whole = Window(
        index=0, phase="train", start_unix_s=1_760_000_000.0, duration_s=10.0, energies=energies, steps=1, last_step=1,
        tokens=1, intensity_g_per_kwh=None, pue=None,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def test_the_order_in_which_a_window_lists_its_devices_makes_no_other_ledger():
    first = window("GPU-a", "GPU-bb", "host")

    assert fingerprint_of(window("host", "GPU-bb", "GPU-a")) == fingerprint_of(first)
    assert fingerprint_of(window("host", "GPU-a")) != fingerprint_of(first)
    assert fingerprint_of(window("GPU-a", "GPU-bb", "host", duration_s=10.1)) != fingerprint_of(first)


@pytest.fixture
def with_a_copy(tmp_path: Path) -> Path:
    """Write a run of two attempts on one node. The copy of the first states another marginal intensity and lists its
    devices in another order.
    """
    Job(nodes=1, attempts=[Attempt(0, 6), Attempt(1, 6, starts_after_s=600.0)]).write(tmp_path)
    records = read_ledger(ledger_files(tmp_path)[0]).records
    assert isinstance(records[0], Manifest)
    writer = LedgerWriter(tmp_path, run_id=records[0].run_id, node=0, attempt=7)
    for record in records:
        changes: dict[str, object] = {}
        if isinstance(record, Window):
            changes = {"energies": list(reversed(record.energies)), "marginal_g_per_kwh": 999.0}
        elif isinstance(record, Manifest):
            changes = {"file": writer.path.name, "attempt": 7}
        writer.write(msgspec.structs.replace(record, **changes))
    writer.close()
    return tmp_path


def test_a_copy_enters_neither_the_marginal_intensity_of_a_run_nor_its_rows(with_a_copy: Path):
    names = [path.name for path in original_files(with_a_copy)]

    assert names == ["node-0.attempt-0.jsonl", "node-0.attempt-1.jsonl"]
    assert recorded_marginal(with_a_copy) != 999.0
    rows, skipped = ledger_rows(with_a_copy)
    assert len(rows) + len(skipped) == 2
