"""The ledgers of a job of several ranks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window
from carbon_plugin.spec.numbers.range import ZERO, Range


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


def energy_of(windows: Iterable[Window], key: str) -> Range:
    """Return the energy of a device in some windows, J, by the end of its key, with the range that its meter states."""
    found = [energy.energy for window in windows for energy in window.energies if energy.key.endswith(key)]
    assert found, key
    return sum_of(energy for energy in found if energy is not None)


def sum_of(energies: Iterable[Range]) -> Range:
    total = ZERO
    for energy in energies:
        total = total.plus(energy)
    return total


def assert_drawn(energy: Range, power_w: float, least_s: float, most_s: float) -> None:
    """Check that a recorded energy, J, is that of a power over a time between two lengths, s.

    The range takes in 5 %, and more where a process was held up between the counter and the clock: on a busy machine
    the energy alone may be that of another time than the one that the record names.
    """
    assert energy.low <= power_w * most_s, (energy, power_w, least_s, most_s)
    assert energy.high >= power_w * least_s, (energy, power_w, least_s, most_s)
