"""One rank of a job whose ranks may see different GPUs: `seer.py RUN_DIR LAUNCH_DIR SECONDS`.

It says in the second folder that it is ready, waits there for the file `epoch`, a moment of the host's monotonic clock,
and trains from JOB_LATE_S after it until SECONDS after it. The last line of output is when it started to monitor,
when it first looked at the GPUs, when it ended to train, and when it had closed. JOB_BOOT_ID is what the kernel says of
the boot, "" if it hides that.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from msgspec.structs import replace

from carbon_plugin.detect.observed import Detected, DetectedLayout
from carbon_plugin.meters.gpu import meter
from carbon_plugin.monitor import work
from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.measurement import USED_BY_THE_THREAD
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.node import duty, recording
from carbon_plugin.monitor.node import work as node_work
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.settings.options import MonitorOptions

STEP_S = 0.05


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a meter is opened")


def main(run_dir: str, launch: Path, seconds: float) -> None:
    for name in USED_BY_THE_THREAD:
        __import__(name)
    if "JOB_BOOT_ID" in os.environ:
        host_info = node_work.read_host_info
        node_work.read_host_info = lambda **given: replace(
            host_info(**given), boot_id=os.environ["JOB_BOOT_ID"] or None, hostname=os.environ["JOB_HOSTNAME"]
        )
    looked: dict[str, float] = {}

    def observed(clock: TrainingClock) -> Baseline:
        """Make the baseline, which is the first thing that the monitor does with GPUs, and note when it began."""
        made = Baseline(clock)
        looked["at_s"] = made.start_s
        return made

    work.Baseline = observed
    duty.FIRST_LEAD_S = float(os.environ.get("JOB_FIRST_LEAD_S", "10"))
    duty.LEFT_S = float(os.environ.get("JOB_LEFT_S", "5"))
    duty.LEAST_LEFT_SHARE = float(os.environ.get("JOB_LEAST_LEFT_SHARE", "1e-3"))
    if "JOB_OPENS_NO_METER" in os.environ:
        recording.open_host_meters = refuse
    duty.GRACE_S, duty.STRETCH_S = 1.0, 0.05
    meter.READ_WAIT_S = meter.DESCRIBE_WAIT_S = meter.CONTEXT_WAIT_S = 60.0  # a busy machine keeps a driver, too
    monitor = CarbonMonitor(
        site="FRA",
        run_dir=run_dir,
        window_s=float(os.environ.get("JOB_WINDOW_S", "0.5")),
        options=MonitorOptions(min_window_s=0.25),
    )
    (launch / f"ready-{os.getpid()}").touch()
    while not (launch / "epoch").exists():
        time.sleep(0.01)
    epoch_s = float((launch / "epoch").read_text())
    time.sleep(max(0.0, epoch_s + float(os.environ.get("JOB_LATE_S", "0")) - time.monotonic()))
    started_s = time.monotonic()
    monitor.start()
    if "JOB_GPUS" in os.environ:
        uuids = tuple(filter(None, os.environ["JOB_GPUS"].split(",")))
        monitor.observe(Detected(layout=DetectedLayout(axes={}, world_size=1), model=None, fields={}), uuids)
    end_s = epoch_s + seconds + float(os.environ.get("JOB_LONGER_S", "0"))
    while time.monotonic() < end_s or not looked:  # on a busy machine the monitor begins late
        time.sleep(STEP_S)
        monitor.step_end(tokens=100)
    began_s, closing_s = looked["at_s"], time.monotonic()
    monitor.close()
    print(json.dumps([started_s, began_s, closing_s, time.monotonic()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
