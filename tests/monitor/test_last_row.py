"""What a loop logs at last is the total of the run, however the script ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise

JOB = """
import json, sys
from torch import nn
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.integrations.pytorch import watch

def row(metrics, step):
    print(json.dumps(metrics), flush=True)

loop = watch(
    nn.Linear(2, 2), run_dir=sys.argv[1], site="FRA", window_s=0.5, options=MonitorOptions(min_window_s=0.2), log=row
)
for _ in range(3):
    loop.step()
if sys.argv[2] == "closed":
    loop.close()
elif sys.argv[2] == "exception":
    raise RuntimeError("the user's own")
"""


@pytest.mark.parametrize("end", ["closed", "falls through", "exception"])
def test_last_row_has_the_totals(end, launcher, tmp_path: Path):
    (tmp_path / "job.py").write_text(JOB)
    done = launcher.run(tmp_path / "job.py", tmp_path / "run", end, env={**os.environ, "TMPDIR": str(tmp_path)})

    last = json.loads(done.stdout.splitlines()[-1])

    assert last["carbon/energy_kwh"] == pytest.approx(summarise(tmp_path / "run").energy.energy_j / 3.6e6)
    assert (done.returncode == 0) == (end != "exception"), done.stderr


EVALUATED_LATER = """
import sys
from carbon_plugin import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions

def measured():
    options = MonitorOptions(min_window_s=0.2)
    return CarbonMonitor(run_dir=sys.argv[1], site="FRA", window_s=0.5, total_steps=10, options=options)

with measured() as monitor:
    for _ in range(7):
        monitor.step_end()
with measured() as monitor:
    with monitor.phase("evaluation"):
        pass
"""


def test_evaluation_after_a_training_does_not_put_its_run_back_to_step_0(launcher, tmp_path: Path):
    (tmp_path / "job.py").write_text(EVALUATED_LATER)
    done = launcher.run(tmp_path / "job.py", tmp_path / "run", env={**os.environ, "TMPDIR": str(tmp_path)})

    assert [line for line in done.stderr.splitlines() if "the run is at step 7 " in line][1:], done.stderr
    assert "step 0 " not in done.stderr
    assert summarise(tmp_path / "run").progress.steps == 7
