"""Follow the ledgers that the processes of this node write, of every run below some directories."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.files import attempt_number, ledger_files
from carbon_plugin.ledger.held.account_inputs import stated_factors
from carbon_plugin.ledger.held.launches import RANK_0_FILES
from carbon_plugin.ledger.held.quiet import QUIET_S, quiet_s
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.records import Manifest, Projection
from carbon_plugin.ledger.tail import LedgerTail
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.follower import LedgerFollower
from carbon_plugin.monitor.run.metrics import metrics_of
from carbon_plugin.monitor.run.projection import Outlook, outlook
from carbon_plugin.monitor.run.projector import measured_step_time_s
from carbon_plugin.monitor.run.rows import devices_of
from carbon_plugin.monitor.run.totals import RunTotals, run_totals, without_copies
from carbon_plugin.sinks.row import PREFIX, DeviceFigures, Row, RunDescription

SHOWN_AFTER_END_S = 300.0
"""A run is shown for this long after its ledgers have ended, so that its last totals are scraped."""
FIRST_BYTES = 1 << 16
"""The first record of a ledger, which says which host wrote it, is read in blocks of this size."""


class NodeRun:
    """One run directory, as far as this node has written its ledgers.

    Only the node that wrote the ledger of rank 0 reads the ledgers of the other nodes, so that it knows the whole run.
    `host_key` is that of this node.
    """

    def __init__(self, run_dir: Path, host_key: str) -> None:
        self.run_dir = run_dir
        self._host_key = host_key
        self._mine: dict[str, bool] = {}
        self._follower = LedgerFollower(run_dir, None, wanted=self._is_wanted)
        self._grew_s = time.monotonic()
        self._size: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Return whether this node wrote the ledger of rank 0."""
        return any(mine and name.startswith(RANK_0_FILES) for name, mine in self._mine.items())

    @property
    def is_here(self) -> bool:
        """Return whether a process of this node has written a ledger."""
        return any(self._mine.values())

    @property
    def is_active(self) -> bool:
        """Return whether the training goes on here: its latest ledger has no end and has grown lately."""
        mine = self._own_files()
        latest = max((attempt_number(name) for name in mine), default=0)
        going = [file for name, file in mine.items() if attempt_number(name) == latest and not file.closed]
        nodes = max((file.manifest.nodes for file in going if file.manifest), default=1)
        return bool(going) and self.quiet_for_s <= quiet_s(nodes)

    @property
    def quiet_for_s(self) -> float:
        """Return for how many seconds the ledgers of this node have not grown."""
        return time.monotonic() - self._grew_s

    def poll(self) -> None:
        """Read the records that are new."""
        with contextlib.suppress(LedgerError):
            for path in ledger_files(self.run_dir):
                if path.name not in self._mine:
                    self._look_at(path)
        if not self.is_here:
            return
        self._follower.poll()
        mine = self._own_files()
        size = sum(file.windows for file in mine.values()), sum(file.closed for file in mine.values())
        if size != self._size:
            first, self._size = self._size is None, size
            age_s = time.time() - max((file.times.end_s for file in mine.values()), default=0.0) if first else 0.0
            self._grew_s = time.monotonic() - max(0.0, age_s)

    def row(self) -> Row | None:
        """Return the figures of the run, or those of its devices only where this node does not have the ledger of rank
        0. Return None for a run whose ledgers are not read to their end yet.
        """
        mine = without_copies(self._own_files())
        if not mine or not self._follower.caught_up:
            return None
        name = max(mine, key=lambda one: (attempt_number(one), mine[one].times.started_s))
        newest = mine[name]
        manifest = newest.manifest
        assert manifest is not None  # `_own_files` has no others
        metrics: Mapping[str, float] = {}
        if self.is_whole:
            files = without_copies(self._follower.files, name)
            metrics = _metrics(self._totals(files, name, newest), newest, manifest)
        totals = self._totals(mine, name, newest)
        return Row(
            step=newest.last_step,
            at_unix_s=newest.times.end_s,
            metrics=metrics,
            run=self._described(manifest),
            devices=_devices(mine, totals, powered=self.is_active),
        )

    def _totals(self, files: Mapping[str, FileTotals], own: str, newest: FileTotals) -> RunTotals:
        return run_totals(
            files, attempt_started_s=newest.times.started_s, own=own, windows_until=self._follower.windows_until
        )

    def _described(self, manifest: Manifest) -> RunDescription:
        identity = None
        with contextlib.suppress(LedgerError):
            identity = read_identity(self.run_dir)
        return RunDescription(
            run_id=manifest.run_id,
            name=identity.name if identity is not None else self.run_dir.name,
            run_dir=self.run_dir,
            hostname=manifest.hostname,
            total_steps=manifest.total_steps,
            programme=identity.programme if identity is not None else None,
            role=identity.role if identity is not None else None,
        )

    def _look_at(self, path: Path) -> None:
        """Find out whether this node wrote a ledger. One without a complete first record is looked at again."""
        for record in LedgerTail(path, max_bytes=FIRST_BYTES).poll():
            if isinstance(record, Manifest):
                self._mine[path.name] = record.host_key.partition("/")[0] == self._host_key
                return

    def _is_wanted(self, name: str) -> bool:
        return self.is_whole or self._mine.get(name, False)

    def _own_files(self) -> dict[str, FileTotals]:
        return {name: f for name, f in self._follower.files.items() if self._mine.get(name) and f.manifest is not None}


def run_directories(places: Sequence[Path]) -> list[Path]:
    """Return the run directories among some directories and directly below them, of which a ledger has grown lately."""
    found: dict[Path, None] = {}
    for place in places:
        below: list[Path] = []
        with contextlib.suppress(OSError):
            below = sorted(Path(entry.path) for entry in os.scandir(place) if entry.is_dir())
        found |= dict.fromkeys(one for one in (place, *below) if _is_recent(one))
    return list(found)


def _is_recent(run_dir: Path) -> bool:
    try:
        files = ledger_files(run_dir)
        written_s = max((path.stat().st_mtime for path in files), default=None)
    except (LedgerError, OSError):
        return False
    return written_s is not None and time.time() - written_s <= max(SHOWN_AFTER_END_S, QUIET_S, quiet_s(len(files)))


def _metrics(totals: RunTotals, newest: FileTotals, manifest: Manifest) -> dict[str, float]:
    """Return the figures of the whole run: the spent amounts from the ledgers, and the last projection of rank 0."""
    spent = outlook(totals, None, stated_factors(manifest.factors)).spent
    projection = newest.projection
    energy_j = projection.energy if projection is not None else None
    remaining_s = projection.remaining_s if projection is not None else None
    metrics = metrics_of(
        totals,
        Outlook(spent=spent, whole=None, energy_j=energy_j, remaining_s=remaining_s),
        step_time_s=measured_step_time_s(newest),
        predicted_step_time_s=_predicted_step_time_s(manifest),
    )
    return metrics | _projected_carbon(projection)


def _projected_carbon(projection: Projection | None) -> dict[str, float]:
    carbon = projection.carbon if projection is not None else None
    if carbon is None:
        return {}
    ends = {"": carbon.value, "_low": carbon.low, "_high": carbon.high}
    return {f"{PREFIX}projected_total_kg{end}": value for end, value in ends.items()}


def _predicted_step_time_s(manifest: Manifest) -> float | None:
    stated = (manifest.prediction or {}).get("step_time_s")
    value = stated.get("value") if isinstance(stated, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _devices(files: Mapping[str, FileTotals], totals: RunTotals, *, powered: bool) -> tuple[DeviceFigures, ...]:
    """Return the energy that each device of this node has used for the run over all attempts, with each moment counted
    once.
    """
    latest: dict[str, DeviceFigures] = {}
    for _, file in sorted(files.items(), key=lambda item: item[1].times.started_s):
        for device in devices_of(file):
            if device.key in totals.device_j:
                power_w = device.power_w if powered else 0.0
                latest[device.key] = replace(device, energy_j=totals.device_j[device.key], power_w=power_w)
    return tuple(latest.values())
