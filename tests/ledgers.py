"""The ledgers of a job of several ranks."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window


def ledgers_of(run_dir: str | Path) -> list[LedgerFile]:
    """Return the ledgers of a run that have windows.

    On a busy machine a rank may end well after the one that meters, and says so in a ledger of its own, which follows
    that of the other one and has no windows.
    """
    files = read_run(run_dir).files
    metered = [file for file in files if any(isinstance(record, Window) for record in file.records)]
    for file in files:
        if file not in metered:
            assert [record.steps for record in file.records if isinstance(record, Close)] == [0], file.path.name
            assert set(manifest_of(file.records).follows) <= {one.path.name for one in files}
            assert manifest_of(file.records).follows
    return metered


def ledger_of(run_dir: str | Path) -> LedgerFile:
    """Return the one ledger of a run that has windows."""
    (file,) = ledgers_of(run_dir)
    return file
