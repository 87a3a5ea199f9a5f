"""One node of a synchronous job, whose steps end on all nodes together: `node.py RUN_DIR SECONDS`.

Step number JOB_STEP + n ends n steps after JOB_EPOCH, a moment of the host's monotonic clock; a node that starts later
joins at the step of the moment. The wall clock is ahead by CLOCK_AHEAD_S, as that of a host is which nobody sets.
"""

from __future__ import annotations

import math
import os
import sys
import time

_true_time = time.time
AHEAD_S = float(os.environ.get("CLOCK_AHEAD_S", "0"))
STEP_S = 0.02


def _wrong_time() -> float:
    return _true_time() + AHEAD_S


def main(run_dir: str, seconds: float) -> None:
    time.time = _wrong_time  # before anything of ours is imported, which is when it would take hold of the clock
    from carbon_plugin.detect.observed import Detected, DetectedLayout
    from carbon_plugin.monitor.monitor import CarbonMonitor
    from carbon_plugin.monitor.settings import MonitorOptions
    from carbon_plugin.monitor.spans import SpanRule

    epoch_s = float(os.environ["JOB_EPOCH"])
    base = int(os.environ.get("JOB_STEP", "0"))
    done = max(0, math.ceil((time.monotonic() - epoch_s) / STEP_S))
    options = MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3))
    monitor = CarbonMonitor(site="FRA", run_dir=run_dir, total_steps=10_000, window_s=0.5, options=options)
    monitor.start(start_step=base + done)
    if "JOB_GPU" in os.environ:
        layout = DetectedLayout(axes={}, world_size=1)
        monitor.observe(Detected(layout=layout, model=None, fields={}), (os.environ["JOB_GPU"],))
    while (done + 1) * STEP_S < seconds:
        done += 1
        time.sleep(max(0.0, epoch_s + done * STEP_S - time.monotonic()))
        monitor.step_end(tokens=100)
    monitor.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
