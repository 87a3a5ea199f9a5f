"""A training loop without a framework, measured by the real monitor: `live.py SCENARIO RUN_DIR [SECONDS]`.

The scenario says how it ends. It trains for so long, or until there is the file JOB_UNTIL if that is later. The last
line of output says whether torch was ever imported.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import msgspec

from carbon_plugin.detect.observed import Detected, DetectedLayout
from carbon_plugin.monitor.measurement import USED_BY_THE_THREAD
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from carbon_plugin.spec.site import Site
from tests.patience import PATIENCE_S, be_patient

STEP_S = 0.02


def steps(monitor: CarbonMonitor, seconds: float) -> None:
    """Train for so long, for half the steps of that time at least, and until there is the file JOB_UNTIL."""
    end, fewest, awaited = time.monotonic() + seconds, seconds / STEP_S / 2, os.environ.get("JOB_UNTIL")
    while time.monotonic() < end or fewest > 0 or (awaited is not None and not os.path.exists(awaited)):
        time.sleep(STEP_S)
        monitor.step_end(tokens=100)
        fewest -= 1


def await_others() -> None:
    """Begin with the other ranks of the host, however long each took to start."""
    ranks = int(os.environ.get("JOB_TOGETHER", "1"))
    if ranks == 1:
        return
    folder = Path(tempfile.gettempdir())
    (folder / f"ready-{os.environ['RANK']}").touch()
    deadline_s = time.monotonic() + PATIENCE_S
    while len(list(folder.glob("ready-*"))) < ranks and time.monotonic() < deadline_s:
        time.sleep(0.01)


def forked(monitor: CarbonMonitor) -> None:
    """Do what a forked data-loader worker does: call anything, and leave through the interpreter's exit."""
    child = os.fork()
    if child == 0:
        steps(monitor, 0.5)
        monitor.close("from the child")
        sys.exit(0)
    steps(monitor, 0.7)
    os.waitpid(child, 0)


def main(scenario: str, run_dir: str, seconds: float) -> None:
    monitor = CarbonMonitor(
        site=msgspec.json.decode(os.environ.get("JOB_SITE", '{"zone": "FRA"}'), type=Site),
        planned=os.environ.get("JOB_PLAN"),
        run_dir=run_dir,
        total_steps=10_000,
        window_s=0.5,
        options=MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3)),
    )
    be_patient(with_drivers="slow" not in os.environ.get("NVML_SIM", ""))
    for name in USED_BY_THE_THREAD:
        import_module(name)
    known = set(sys.modules)
    await_others()
    if "fault=" in os.environ.get("NVML_SIM", ""):  # its time counts from here, however long this process took to start
        os.environ["NVML_SIM"] += f";epoch={time.monotonic()}"
    started_s = time.monotonic()
    monitor.start()
    time.sleep(0.3)
    if "JOB_GPU" in os.environ:
        monitor.observe(
            Detected(layout=DetectedLayout(axes={}, world_size=1), model=None, fields={}), (os.environ["JOB_GPU"],)
        )
    steps(monitor, seconds)
    if scenario == "phases":
        with monitor.phase("evaluation"):
            time.sleep(0.6)
        steps(monitor, 0.6)
    if scenario == "fork":
        forked(monitor)
    if scenario in ("phases", "fork", "close"):
        monitor.close()
    print("lasted", time.monotonic() - started_s)
    print("head", monitor.head, "metrics", len(monitor.metrics()), flush=True)
    print("imported", sorted(set(sys.modules) - known), flush=True)
    print("torch" if "torch" in sys.modules else "no torch", flush=True)
    if scenario == "exception":
        raise RuntimeError("the user's own")
    if scenario == "exit":
        sys.exit(3)
    if scenario in ("SIGINT", "SIGKILL", "SIGTERM"):
        while not any(b'"type":"window"' in file.read_bytes() for file in Path(run_dir).glob("*.jsonl")):
            steps(monitor, 0.1)  # what comes before the first window is lost with a process that is killed
        os.kill(os.getpid(), getattr(signal, scenario))
        time.sleep(10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 1.2)
