"""Hand rows to sinks, each on a thread of its own, so that a sink that fails or hangs holds neither the training nor
another sink."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from carbon_plugin.sinks.quiet import leave_signals_to_the_training
from carbon_plugin.sinks.report_file import REPORT_S, ReportFile
from carbon_plugin.sinks.row import Row
from carbon_plugin.sinks.sink import NotTakenError, Sink
from carbon_plugin.threads.patience import wait_while_running

MOST_WAITING = 1000
"""So many rows may wait for a sink, which is nearly three hours of them. Further ones are left out, but the last is
not."""
CLOSE_S = 10.0
"""The end of a training waits at most this many seconds for a sink, and longer only for a report."""

Trouble = Callable[[str, BaseException], None]
"""A function that is told the name of a sink and what happened to it. It is called on any thread."""


class Delivery:
    """Hands the rows of a training to its sinks.

    `trouble` is called once for each sink that failed. `opened` is called after the first row of each sink. By then the
    sink has registered what it does at the end of the program.
    """

    def __init__(self, sinks: Sequence[Sink], trouble: Trouble, opened: Callable[[], None]) -> None:
        self._sinks = tuple(sinks)
        self._trouble = trouble
        self._opened = opened
        self._workers: list[_Worker] = []

    def start(self) -> None:
        """Prepare the sinks on this thread, and start their threads."""
        for sink in self._sinks:
            worker = _Worker(sink, self._trouble, self._opened)
            try:
                sink.prepare()
            except Exception as error:
                self._trouble(sink.name, error)
                continue
            self._workers.append(worker)
            worker.start()

    def put(self, row: Row) -> None:
        """Hand a row to every sink. This never waits."""
        for worker in self._workers:
            worker.put(row)

    def close(self, last: Row | None, run_dir: Path, *, wait: bool = True) -> None:
        """Hand over the last row and end the sinks. With `wait`, wait for them as long as a sink may take."""
        report = ReportFile(run_dir)
        for worker in self._workers:
            worker.end(last, report)
        for worker in self._workers if wait else ():
            worker.join()
        self._workers = []

    def forget(self) -> None:
        """Drop the threads in a forked child, which does not have them."""
        for worker in self._workers:
            worker.sink.forget()
        self._workers = []


class _Worker:
    """One sink and its thread."""

    def __init__(self, sink: Sink, trouble: Trouble, opened: Callable[[], None]) -> None:
        self.sink = sink
        self._trouble = trouble
        self._opened = opened
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._report: ReportFile | None = None
        self._off = self._told = False
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._main, name=f"carbon-plugin {sink.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, row: Row) -> None:
        if self._off:
            return
        if self._rows.qsize() < MOST_WAITING:
            self._rows.put(row)
        else:
            self._fail(TimeoutError(f"it has not taken the last {MOST_WAITING} rows"))

    def end(self, last: Row | None, report: ReportFile) -> None:
        self._report = report
        if last is not None:
            self._rows.put(last)
        self._rows.put(None)

    def join(self) -> None:
        """Wait for the end of the sink. The time for which it is busy with one call already is subtracted."""
        began_s, busy_s = time.monotonic(), self._busy_since_s
        within_s = CLOSE_S + (REPORT_S if self.sink.wants_report else 0.0)
        waited_s = 0.0 if busy_s is None else began_s - busy_s
        if not wait_while_running(self._thread.join, lambda: not self._thread.is_alive(), within_s - waited_s):
            self._fail(TimeoutError(f"it has not come to its end within {within_s:g} s"))

    def _main(self) -> None:
        leave_signals_to_the_training()
        process = os.getpid()
        try:
            self._deliver()
        except BaseException as error:
            if process == os.getpid():
                self._fail(error)

    def _deliver(self) -> None:
        first = True
        while (row := self._rows.get()) is not None:
            if self._off:
                return
            self._busy_since_s = time.monotonic()
            try:
                self.sink.write(row)
            except NotTakenError as error:
                self._tell(error)
            self._busy_since_s = None
            if first:
                first = False
                self._opened()
        report = self._report.path() if self._report is not None and self.sink.wants_report and not first else None
        self.sink.close(report)

    def _fail(self, error: BaseException) -> None:
        if not self._off:
            self._off = True
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        """Report the first problem of this sink, and no later one."""
        if not self._told:
            self._told = True
            self._trouble(self.sink.name, error)
