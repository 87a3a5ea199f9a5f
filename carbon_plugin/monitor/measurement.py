"""Hold the parts of a training's measurement: its clock, the monitor thread with its work, and its loggers."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from carbon_plugin.detect.observed import Detected
from carbon_plugin.footprint import account
from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.node.work import Seen
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.run.projection import LIVE_DRAWS
from carbon_plugin.monitor.running import RunningCall
from carbon_plugin.monitor.settings.settings import Settings
from carbon_plugin.monitor.thread import MonitorThread, Wake
from carbon_plugin.monitor.work import MonitorWork
from carbon_plugin.sinks.sink import NotTakenError

logger = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 10.0
NOT_CLOSED = (
    "carbon_plugin: the record of this training has not come to its end within %g s, and nothing waits for it any "
    "longer; it goes on in the background, but if the program ends now, the record in %s may lack its last window and "
    "its closing record, and an audit calls it incomplete"
)
"""What is said where a driver or a file system hangs while a training ends."""
NODES_PER_APPEND_S = 4
"""The nodes together append at most this many records a second. With more than 40 nodes the windows therefore grow, to
8.5 minutes at 2,048 nodes, so that the ledgers of a 90-day run stay in tens of GB (docs/scale.md)."""

# Imported before the thread starts: an import that a fork interrupts on another thread stays locked in the child.
USED_BY_THE_THREAD = (
    "numpy.ma",
    "numpy.random",
    "psutil",
    "pynvml",
    "yaml",
    "encodings.utf_8_sig",
    "importlib.readers",
    "carbon_plugin.footprint.propagation",
    "carbon_plugin.hardware_profiles",
)


class Measurement:
    """One instance measures one training, from `start` to `end`. The training thread calls everything here.

    Args:
        settings: The arguments of the user.
        place: The place of this process in the job.
        run_dir: The run directory.
        base_step: The step of the run at which this process begins to count.
        guard: What the parts are run by.
        versions: The versions of the frameworks in use.
        hindrance: A function that says why nothing can end the training, or None where something can.
        call: The call that trains, where nothing tells of its end if an exception passes through it.
    """

    def __init__(
        self,
        settings: Settings,
        place: Ranks,
        *,
        run_dir: Path,
        base_step: int,
        guard: Guard,
        versions: Mapping[str, str],
        hindrance: Callable[[], str | None],
        call: RunningCall | None,
    ) -> None:
        to_webhook = settings.alerts is not None and settings.alerts.webhook is not None
        for name in (*USED_BY_THE_THREAD, *(("carbon_plugin.monitor.acting.webhook",) if to_webhook else ())):
            with contextlib.suppress(ImportError):
                import_module(name)
        with contextlib.suppress(OSError):  # on a full disk there is no usable temporary directory
            tempfile.gettempdir()  # likewise: its first call takes a lock that a loader's worker needs too
        if place.rank == 0:  # the others project nothing
            account.make_ready(LIVE_DRAWS)
        wake, least_s = Wake(), settings.options.min_window_s
        cadence_s = max(settings.window_s, place.nodes / NODES_PER_APPEND_S)
        self.place = place
        self.clock = TrainingClock(wake.put, least_s)
        self.clock.base_step = base_step
        self.clock.attended = self._log_if_any
        self.work = MonitorWork(
            settings=settings,
            ranks=place,
            run_dir=run_dir,
            clock=self.clock,
            guard=guard,
            versions=versions,
            environ=os.environ,
            look_every_s=cadence_s,
            hindrance=hindrance,
            call=call,
        )
        self._thread = MonitorThread(self.work, guard, wake, cadence_s=cadence_s, least_s=least_s)
        self._loggers = settings.loggers
        self._logged = 0
        self._run_dir = run_dir
        self._guard = guard

    def start(self, opened: Callable[[], None]) -> None:
        """Start the threads. `opened` is called after the first row of each sink, as `Delivery` says."""
        if self.place.rank == 0:
            self._guard.run("loggers", lambda: self._loggers.start(self._logger_failed, opened), None)
        if gc.isenabled():
            # Otherwise this collection may come on the monitor thread, where it holds the interpreter for some
            # milliseconds of a training step: everything that was imported just now is young.
            gc.collect(1)
        self._thread.start()

    def observe(self, detected: Detected, uuids: tuple[str, ...]) -> None:
        """Hand over what was read from live objects, and the UUIDs of the GPUs that this rank computes on."""
        self.work.submit(Seen(detected, uuids))

    def end(self, reason: str) -> None:
        """Write the last window, the closing record and the last row."""
        self.clock.end()
        if not self._thread.close(reason, CLOSE_TIMEOUT_S):
            logger.warning(NOT_CLOSED, CLOSE_TIMEOUT_S, self._run_dir)
        self._log_new()
        self._loggers.close(self.work.last_row, self._run_dir)

    def abandon(self, reason: str) -> None:
        """Let the thread end in an orderly way by itself after a failure, without waiting for it."""
        self._thread.close(reason, 0.0)
        self.leave_loggers()

    def leave_loggers(self) -> None:
        """Let the sinks end by themselves, after a failure."""
        self._loggers.close(None, self._run_dir, wait=False)

    def forget(self) -> None:
        """Drop the thread in a forked child, which has none."""
        self._thread.forget()

    def _log_if_any(self) -> None:
        if self._loggers:
            self._log_new()

    def _log_new(self) -> None:
        """Hand the loggers the figures that they have not had yet. Ranks other than 0 have none."""
        live = self.work.live
        if live.version == self._logged:
            return
        self._logged = live.version
        if live.metrics:
            for name, error in self._loggers.write(live.metrics, self.clock.base_step + self.clock.mark.steps):
                self._logger_failed(name, error)

    def _logger_failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, NotTakenError):
            self._guard.warn(f"log {name}", error)
        else:
            self._guard.fail(f"log {name}", error, alone=True)
