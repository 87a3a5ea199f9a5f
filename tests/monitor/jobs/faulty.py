"""A short loop under a driver that fails on schedule, from the first window on: `faulty.py RUN_DIR SECONDS [EVENT]`.

With EVENT it trains until the ledger holds an event of that kind, and SECONDS more, however late a busy machine is. It
prints its own monotonic times: before the start, of the end of each step, and after the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from tests.patience import PATIENCE_S


def main(run_dir: Path, seconds: float, event: str | None = None) -> None:
    armed = run_dir.with_suffix(".armed")
    os.environ["NVML_SIM"] += f";armed={armed}"
    monitor = CarbonMonitor(run_dir=run_dir, window_s=0.5, options=MonitorOptions(min_window_s=0.25))
    times_s = [time.monotonic()]
    monitor.start()
    end_s, waiting = time.monotonic() + PATIENCE_S, ['"type":"window"', *([f'"kind":"{event}"'] if event else [])]
    while time.monotonic() < end_s:
        time.sleep(0.05)
        times_s.append(time.monotonic())
        monitor.step_end(tokens=100)
        if waiting and any(waiting[0] in file.read_text("utf-8") for file in run_dir.glob("*.jsonl")):
            armed.touch()
            del waiting[0]
            end_s = time.monotonic() + (PATIENCE_S if waiting else seconds)
    monitor.close()
    print(json.dumps([*times_s, time.monotonic()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
