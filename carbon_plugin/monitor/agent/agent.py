"""Run the agent of a node: read its meters and the ledgers of its runs, and show both to Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from carbon_plugin.monitor.agent.devices import NodeDevices
from carbon_plugin.monitor.agent.runs import SHOWN_AFTER_END_S, NodeRun, run_directories
from carbon_plugin.sinks.metrics.exposition import Exposition


class NodeAgent:
    """Shows the devices of this node and the runs below some directories, once every `interval_s` seconds."""

    def __init__(
        self, exposition: Exposition, devices: NodeDevices, places: Sequence[Path], *, interval_s: float
    ) -> None:
        self._exposition = exposition
        self._devices = devices
        self._places = tuple(places)
        self._interval_s = interval_s
        self._runs: dict[Path, NodeRun] = {}
        self._shown: dict[Path, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Show devices and runs until `stop` is set. Meters that integrate power are read more often."""
        due_s = time.monotonic()
        while not stop.is_set():
            if time.monotonic() >= due_s:
                self.tick()
                due_s = time.monotonic() + self._interval_s
            else:
                self._devices.read()
            poll_s = self._devices.poll_interval_s
            left_s = max(0.0, due_s - time.monotonic())
            stop.wait(left_s if poll_s is None else min(left_s, poll_s))

    def tick(self) -> None:
        """Read the meters and the new records of the ledgers, and show them."""
        self._exposition.show_devices(self._devices.hostname, self._devices.read())
        for directory in run_directories(self._places):
            if directory not in self._runs:
                self._runs[directory] = NodeRun(directory, self._devices.host_key)
        for directory, run in list(self._runs.items()):
            run.poll()
            row = run.row() if run.is_here else None
            if row is not None:
                self._shown[directory] = row.run.run_id
                self._exposition.show_run(row, whole=run.is_whole, active=run.is_active)
            if not run.is_active and run.quiet_for_s > SHOWN_AFTER_END_S:
                self._forget(directory)

    def _forget(self, directory: Path) -> None:
        del self._runs[directory]
        run_id = self._shown.pop(directory, None)
        if run_id is not None:
            self._exposition.drop_run(run_id)
