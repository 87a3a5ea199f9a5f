"""A training whose monitor and driver threads are counted: `pieces.py RUN_DIR WINDOWS`. Prints the pieces after the
opening."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from carbon_plugin.monitor import thread
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.run import projection
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from carbon_plugin.threads.own_thread import Answer
from tests.threads.pieces import GIVING_WAY, PieceCounter

WINDOW_S = 0.5
PATIENCE_S = 60.0


def main(run_dir: str, windows: int) -> None:
    projection.MEASURED_S = WINDOW_S  # so that the first measured rates come within these windows
    counter = PieceCounter([*GIVING_WAY, thread.Wake.wait.__code__])
    driver = PieceCounter([*GIVING_WAY, Answer.run.__code__])  # the driver's thread waits for work between its answers
    counters = {"carbon-plugin": counter, "carbon-plugin-driver": driver}

    def in_the_background(frame, event, arg):
        counted = counters.get(threading.current_thread().name)
        return None if counted is None else counted.trace(frame, event, arg)

    threading.settrace(in_the_background)
    monitor = CarbonMonitor(
        site="FRA",
        model_spec="llama3-8b",
        run_dir=run_dir,
        total_steps=10**6,
        window_s=WINDOW_S,
        quiet=True,
        options=MonitorOptions(min_window_s=WINDOW_S / 2, span_rule=SpanRule(min_s=WINDOW_S, min_steps=2)),
    )
    monitor.start()
    end_s, seen = time.monotonic() + PATIENCE_S, -1
    while seen < windows and time.monotonic() < end_s:
        time.sleep(0.01)
        monitor.step_end(tokens=100)
        if seen < 0 and _windows(run_dir) > 0:
            seen = 0
            for counted in counters.values():
                counted.begin()  # what is done once, before the first window, is left out
        seen = _windows(run_dir) if seen >= 0 else seen
    threading.settrace(None)
    for counted in counters.values():
        counted.end()
    monitor.close()
    found = {name: {"pieces": len(one.pieces), "longest": one.longest} for name, one in counters.items()}
    print(json.dumps({"windows": seen} | found))


def _windows(run_dir: str) -> int:
    return sum(path.read_bytes().count(b'{"type":"window"') for path in Path(run_dir).glob("node-*.jsonl"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
