"""One of two ranks that train in step, until something slows them: `alerts.py SCENARIO RUN_DIR FOLDER`.

Each step ends in an exchange with the other rank over a socket, as in a collective: whoever is first waits. What the
scenario says happens from the moment on at which there is a file `inject` in the folder. The ranks end when there is a
file `stop`. What is injected is many times what a step has taken so far, however busy the machine is, and a deviation
is several times as long as an ordinary step.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from carbon_plugin.detect.observed import Detected, DetectedLayout
from carbon_plugin.monitor.acting import courier, webhook
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.alerts import AlertRules
from carbon_plugin.spec.options import SpanRule
from tests.patience import PATIENCE_S, be_patient

STEP_S = 0.03
LEAST, MORE = 6.0, 20
"""A step deviates when it takes so much more than an ordinary one, and what is injected takes so many of them."""
EVERY = 10
"""Steps between two evaluations. Each takes a share of the time that these steps took, however busy the machine is."""
RANK = int(os.environ["RANK"])
GPUS = ("GPU-00000051-5133-4d00-8000-000000000000", "GPU-00000051-5133-4d00-8000-000000000001")


def joined(folder: Path) -> socket.socket:
    """Return the connection with the other rank."""
    path = str(folder / "ranks")
    if RANK == 0:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)
        (folder / "listening").touch()
        return listening.accept()[0]
    while not (folder / "listening").exists():
        time.sleep(0.01)
    other = socket.socket(socket.AF_UNIX)
    other.connect(path)
    return other


def busy(seconds: float) -> None:
    """Compute for so long, or wait for a core: both keep the other rank waiting."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


def _has_seen_clocks(monitor: CarbonMonitor) -> bool:
    """Return whether the monitor knows what holds the GPUs back in ordinary steps, which is late on a busy machine."""
    measurement = monitor._measurement
    acting = None if measurement is None else measurement.work._acting
    return acting is not None and acting._alerting is not None and acting._alerting._contexts_before is not None


def main(scenario: str, run_dir: str, folder: Path) -> None:
    monitor = CarbonMonitor(
        site="FRA",
        run_dir=run_dir,
        window_s=0.3,
        quiet=True,
        alerts=AlertRules(least=LEAST, sustained=3, learn=4, webhook=os.environ.get("JOB_WEBHOOK")),
        options=MonitorOptions(min_window_s=0.1, span_rule=SpanRule(min_s=0.25, min_steps=3)),
    )
    be_patient()
    courier.CLOSE_S = webhook.DEADLINE_S = PATIENCE_S
    other = joined(folder)
    monitor.start()
    monitor.observe(Detected(layout=DetectedLayout(axes={}, world_size=2), model=None, fields={}), (GPUS[RANK],))
    step, began_s, injected, more_s = 0, time.monotonic(), False, 0.0
    evaluated_s = began_s
    while True:
        if RANK == 0 and _has_seen_clocks(monitor):
            (folder / "seen").touch()
        if not injected and (folder / "inject").exists():
            injected, more_s = True, MORE * max(STEP_S, (time.monotonic() - began_s) / max(1, step))
        step += 1
        with monitor.phase("data_wait"):
            time.sleep(more_s if scenario == "data" and RANK == 1 else 0.001)
        time.sleep(STEP_S + (more_s if scenario == "gpu" and RANK == 1 else 0.0))  # waits for its GPU
        if scenario == "host" and RANK == 1:
            busy(more_s)
        other.sendall(b"s" if (folder / "stop").exists() else b".")
        if scenario == "network":
            time.sleep(more_s)
        stop = other.recv(1) == b"s" or (folder / "stop").exists()
        monitor.step_end()
        if stop:
            break
        if scenario == "evaluation" and step % EVERY == 0:
            with monitor.phase("evaluation"):
                time.sleep((2.0 if injected else 0.3) * (time.monotonic() - evaluated_s))
            evaluated_s = time.monotonic()
    monitor.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
