"""One rank of a job whose ranks may see different GPUs: `seer.py RUN_DIR LAUNCH_DIR SECONDS`.

It says in the second folder that it is ready, waits there for the file `epoch`, a moment of the host's monotonic clock,
and trains from JOB_LATE_S after it until SECONDS after it. Where JOB_AFTER names files of that folder, it trains until
JOB_LONGER_S after all of them are there. When it has closed it writes `closed-RANK`. The last line of output is when it
started to monitor, when it first looked at the GPUs, when it ended to train, and when it had closed. JOB_BOOT_ID is
what the kernel says of the boot, "" if it hides that. It writes `began-RANK` once the others can hear of it and
`closing-RANK` before it closes, and JOB_SETTLE_S is how long it waits for others then. With JOB_LOOKS_LATE it tells the
GPUs of JOB_GPUS at its end, else at its beginning. It is held up for JOB_HELD_UP_S between the first readings of its
GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from msgspec.structs import replace

from carbon_plugin.detect.observed import Detected, DetectedLayout
from carbon_plugin.meters.gpu.open import GpuMeters, open_gpu_meters
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor import work
from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.measurement import USED_BY_THE_THREAD
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.node import baseline, duty, recording
from carbon_plugin.monitor.node import work as node_work
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.settings.options import MonitorOptions
from tests.patience import PATIENCE_S, be_patient

STEP_S = 0.05


def train(monitor: CarbonMonitor, until_s: float, looked: dict[str, float]) -> None:
    """Make steps until a moment, and until the monitor has begun, which is late on a busy machine."""
    while time.monotonic() < until_s or not looked:
        time.sleep(STEP_S)
        monitor.step_end(tokens=100)


def train_until_there_are(files: list[Path], monitor: CarbonMonitor) -> None:
    while not all(file.exists() for file in files):
        time.sleep(STEP_S)
        monitor.step_end(tokens=100)


def look(monitor: CarbonMonitor) -> None:
    if "JOB_GPUS" in os.environ:
        uuids = tuple(filter(None, os.environ["JOB_GPUS"].split(",")))
        monitor.observe(Detected(layout=DetectedLayout(axes={}, world_size=1), model=None, fields={}), uuids)


def open_held_up() -> GpuMeters:
    """Open the meters of a baseline whose process is held up between the first readings of two GPUs."""
    meters = open_gpu_meters(environ={})
    read = meters.read

    def read_first() -> list[Reading]:
        meters.read = read
        first = read()
        time.sleep(float(os.environ["JOB_HELD_UP_S"]))
        return [*first[:1], *read()[1:]]

    meters.read = read_first
    return meters


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

    def meeting(*given: Any) -> duty.Duty:
        """Make a claim among the processes of this host, and say that they can hear of it."""
        made = duty.Duty(*given)
        (launch / f"began-{os.environ['RANK']}").touch()
        return made

    work.Baseline, node_work.Duty = observed, meeting
    be_patient()
    duty.LEFT_S = float(os.environ.get("JOB_LEFT_S", PATIENCE_S))
    work.SETTLE_S = float(os.environ.get("JOB_SETTLE_S", work.SETTLE_S))
    duty.LEAST_LEFT_SHARE = float(os.environ.get("JOB_LEAST_LEFT_SHARE", "1e-3"))
    if "JOB_HELD_UP_S" in os.environ:
        baseline._open = open_held_up
    if "JOB_DECIDES_AT_ITS_END" in os.environ:
        decide = duty.Duty.decide
        duty.Duty.decide = lambda self, *, now=False: decide(self, now=now) if now else []
    if "JOB_OPENS_NO_METER" in os.environ:
        recording.open_host_meters = refuse
    duty.GRACE_S, duty.STRETCH_S = float(os.environ.get("JOB_GRACE_S", PATIENCE_S)), 0.05
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
    if "JOB_LOOKS_LATE" not in os.environ:
        look(monitor)
    train(monitor, epoch_s + seconds, looked)
    if "JOB_AFTER" in os.environ:
        train_until_there_are([launch / name for name in os.environ["JOB_AFTER"].split()], monitor)
        train(monitor, time.monotonic() + float(os.environ.get("JOB_LONGER_S", "0")), looked)
    if "JOB_LOOKS_LATE" in os.environ:
        look(monitor)
    began_s, closing_s = looked["at_s"], time.monotonic()
    (launch / f"closing-{os.environ['RANK']}").touch()
    monitor.close()
    (launch / f"closed-{os.environ['RANK']}").touch()
    print(json.dumps([started_s, began_s, closing_s, time.monotonic()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
