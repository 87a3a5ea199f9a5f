"""One of two ranks that train in step and pause at a checkpoint while the grid is dirty: `paused.py RUN_DIR FOLDER`.

Each step ends in an exchange with the other rank over a socket, as in a collective: a rank that paused alone would keep
the other one waiting. Every ten steps there is a checkpoint. The grid is above the threshold from the start, but for so
long and by so little that a pause saves nothing. After two checkpoints at which the rest of the run is known it is much
dirtier for some seconds, and then clean. The ranks end some steps after the pause. `RUN_DIR` may hold `{rank}`: each
rank then has its own directory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from alerts import GPUS, joined

from carbon_plugin.detect.observed import Detected, DetectedLayout
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.run import projection
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from tests.patience import be_patient

STEP_S, EVERY, AFTER = 0.02, 10, 40
DIRTY_S = 3
RANK = int(os.environ["RANK"])
projection.MEASURED_S = 1.0  # rates are known after a second, so that the job is short


def write_grid(path: Path, dirty_s: int, dirty: float, clean: float) -> None:
    """Write a forecast by the second: dirty from now on for some seconds, and then clean."""
    first = int(time.time())
    rows = [
        f"{datetime.fromtimestamp(first + s, UTC).isoformat()},{dirty if s < dirty_s else clean}" for s in range(300)
    ]
    (path.with_suffix(".new")).write_text("\n".join(["datetime,g_per_kwh", *rows]) + "\n")
    (path.with_suffix(".new")).rename(path)


def main(run_dir: str, folder: Path) -> None:
    monitor = CarbonMonitor(
        site="FRA",
        planned=folder / "forecast.json",
        total_steps=1000,
        run_dir=run_dir.format(rank=RANK),
        window_s=0.3,
        quiet=True,
        options=MonitorOptions(min_window_s=0.1, span_rule=SpanRule(min_s=0.3, min_steps=3)),
    )
    be_patient()
    other = joined(folder)
    monitor.start()
    monitor.observe(Detected(layout=DetectedLayout(axes={}, world_size=2), model=None, fields={}), (GPUS[RANK],))
    if RANK == 0:
        write_grid(folder / "grid.csv", 60, 310, 299)
    step, last, known, paused = 0, 10**9, 0, []
    while step < last:
        step += 1
        time.sleep(STEP_S)
        other.sendall(b".")
        if not other.recv(1):
            break
        monitor.step_end()
        if step % EVERY:
            continue
        with monitor.phase("checkpoint"):
            (folder / f"checkpoint-{RANK}").write_text(str(step))
        if RANK == 0 and monitor._measurement.work.rest is not None:
            known += 1
            if known >= 3 and not paused:  # a busy machine may let the dirty seconds go by before both have looked
                write_grid(folder / "grid.csv", DIRTY_S, 500, 20)
        seconds = monitor.pause_where_it_saves(300, forecast=folder / "grid.csv", most_h=1)
        if seconds:
            paused.append({"step": step, "ended": time.time(), "known": known})
            last = step + AFTER
    (folder / f"paused-{RANK}.json").write_text(json.dumps(paused))
    monitor.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
