"""One node of a synchronous job, whose steps end on all nodes together: `node.py RUN_DIR LAUNCH_DIR`.

It says in the second folder that it is ready, waits for the file `epoch` there, a moment of the host's monotonic clock,
and trains until the moment in the file `stop`, so that all nodes end after the same step. Rank 0 closes last, when it
has been able to read what the others wrote. Step number JOB_STEP + n ends n steps after the epoch; a node that starts
later joins at the step of the moment. The wall clock is ahead by CLOCK_AHEAD_S, as that of a host is which nobody sets.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.patience import PATIENCE_S, be_patient

_true_time = time.time
AHEAD_S = float(os.environ.get("CLOCK_AHEAD_S", "0"))
STEP_S = 0.02


def _wrong_time() -> float:
    return _true_time() + AHEAD_S


def moment_s(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except FileNotFoundError:
        return None


def steps_by(launch: Path, now_s: float) -> int:
    """Return the number of steps that the job has done by a moment."""
    epoch_s = moment_s(launch / "epoch")
    return 0 if epoch_s is None else max(0, int((now_s - epoch_s) / STEP_S))


def await_others(launch: Path) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while len(list(launch.glob("ready-*"))) - 1 > len(list(launch.glob("closed-*"))) and time.monotonic() < end_s:
        time.sleep(STEP_S)


def main(run_dir: str, launch: Path) -> None:
    time.time = _wrong_time  # before anything of ours is imported, which is when it would take hold of the clock
    from carbon_plugin.detect.observed import Detected, DetectedLayout
    from carbon_plugin.monitor.monitor import CarbonMonitor
    from carbon_plugin.monitor.settings.options import MonitorOptions
    from carbon_plugin.spec.options import SpanRule

    be_patient()
    options = MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3))
    monitor = CarbonMonitor(site="FRA", run_dir=run_dir, total_steps=10_000, window_s=0.5, options=options)
    done = steps_by(launch, time.monotonic())
    monitor.resume_at(int(os.environ.get("JOB_STEP", "0")) + done)
    monitor.start()
    if "JOB_GPU" in os.environ:
        layout = DetectedLayout(axes={}, world_size=1)
        monitor.observe(Detected(layout=layout, model=None, fields={}), (os.environ["JOB_GPU"],))
    (launch / f"ready-{os.getpid()}").touch()
    stop_s = None
    while stop_s is None or time.monotonic() < stop_s:
        time.sleep(STEP_S / 4)
        now_s = time.monotonic()
        stop_s = moment_s(launch / "stop")  # looked at after the clock: whoever does not see it is not past it
        for _ in range(steps_by(launch, now_s if stop_s is None else min(now_s, stop_s)) - done):
            monitor.step_end(tokens=100)
            done += 1
    for _ in range(steps_by(launch, stop_s) - done):
        monitor.step_end(tokens=100)
    if os.environ["RANK"] == "0":
        await_others(launch)
    monitor.close()
    (launch / f"closed-{os.getpid()}").touch()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
