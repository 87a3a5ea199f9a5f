"""Hold the things that all parts of one process's work share, such as its settings, its clocks and its guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from carbon_plugin.ledger.records import Record
from carbon_plugin.monitor.clock import TrainingClock, WallClock
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.settings import Settings


class WatchedJob(NamedTuple):
    """One instance describes this process in its job.

    `versions` are those of the frameworks in use, and `environ` is the environment at the start. `note` queues an event
    as (kind, sentence), which is recorded as soon as there is a ledger for it. `hear` is called with each record of the
    own ledgers after it was written. `hindrance` says why nothing can end the training, or None where something can.
    """

    settings: Settings
    ranks: Ranks
    run_dir: Path
    versions: Mapping[str, str]
    environ: Mapping[str, str]
    clock: TrainingClock
    wall: WallClock
    guard: Guard
    note: Callable[[str, str], None]
    hear: Callable[[Record], None]
    hindrance: Callable[[], str | None]
