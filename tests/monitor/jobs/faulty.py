"""A short loop under a driver that fails on schedule, from when it is ready: `faulty.py RUN_DIR SECONDS`."""

from __future__ import annotations

import os
import sys
import time

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings import MonitorOptions


def main(run_dir: str, seconds: float) -> None:
    monitor = CarbonMonitor(run_dir=run_dir, window_s=0.5, options=MonitorOptions(min_window_s=0.25))
    os.environ["NVML_SIM"] += f";epoch={time.monotonic()}"
    monitor.start()
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.05)
        monitor.step_end(tokens=100)
    monitor.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
