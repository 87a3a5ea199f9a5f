"""List the trackers that `beside_others.py` compares, each used as its documentation shows it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import NamedTuple

GPUS = 8
EPOCH_STEPS = 1000
Call = Callable[[], object]


class Tracked(NamedTuple):
    """The calls of a tracker before and after a step, and its end. `every` is the number of steps between its calls."""

    before: Call
    after: Call
    end: Call
    every: int = 1


def nothing() -> None:
    """Do nothing, in place of the calls of a tracker."""


def without() -> Tracked:
    """Return no tracker."""
    return Tracked(nothing, nothing, nothing)


def carbon_plugin() -> Tracked:
    """Return our monitor."""
    from carbon_plugin import CarbonMonitor

    folder = tempfile.mkdtemp()
    monitor = CarbonMonitor(site="FRA", run_dir=folder, total_steps=10**6, quiet=True, model_spec="llama3-8b")
    monitor.start()
    return Tracked(nothing, monitor.step_end, monitor.close)


def codecarbon() -> Tracked:
    """Return CodeCarbon with a task a step."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="DEU", save_to_file=False, log_level="critical")
    tracker.start()
    number = iter(range(10**9))

    def before() -> None:
        tracker.start_task(f"step {next(number)}")

    return Tracked(before, tracker.stop_task, tracker.stop)


def zeus() -> Tracked:
    """Return Zeus with a window a step."""
    from zeus.utils import framework

    framework.torch_is_available = lambda *_, **__: True  # Zeus refuses a torch without CUDA
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=list(range(GPUS)))
    return Tracked(
        lambda: monitor.begin_window("step", sync_execution=False),
        lambda: monitor.end_window("step", sync_execution=False),
        nothing,
    )


def carbontracker() -> Tracked:
    """Return CarbonTracker with an epoch of many steps, which is its unit."""
    from carbontracker.tracker import CarbonTracker

    tracker = CarbonTracker(epochs=10**6, epochs_before_pred=0, monitor_epochs=-1, verbose=0)
    return Tracked(tracker.epoch_start, tracker.epoch_end, tracker.stop, EPOCH_STEPS)


TRACKERS: dict[str, Callable[[], Tracked]] = {
    "without": without,
    "carbon_plugin": carbon_plugin,
    "codecarbon": codecarbon,
    "zeus": zeus,
    "carbontracker": carbontracker,
}
IMPORTS = {
    "without": "pass",
    "carbon_plugin": "from carbon_plugin import CarbonMonitor",
    "codecarbon": "import codecarbon",
    "zeus": "import zeus.monitor",
    "carbontracker": "import carbontracker.tracker",
}
