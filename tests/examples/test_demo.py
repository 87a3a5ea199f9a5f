"""`make demo`, shorter: the whole path on this machine, in real processes, twice into the same place."""

from __future__ import annotations

import io
import json
import math
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import dropwhile
from pathlib import Path

import pytest

from carbon_plugin.calibrate.rows.from_ledger import ledger_rows
from carbon_plugin.calibrate.user_fit import calibrate

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SHORTER = (
    ("cpu.yaml", "layers: 4", "layers: 2"),
    ("cpu.yaml", "seq_len: 256", "seq_len: 64"),
    ("train.py", "run_dir=options.run_dir)", "run_dir=options.run_dir, window_s=1, options=FAST)"),
    (
        "train.py",
        "from carbon_plugin.plan.forecast import load_forecast\n",
        "from carbon_plugin.monitor.settings.options import MonitorOptions\n"
        "from carbon_plugin.spec.options import SpanRule\n"
        "from carbon_plugin.plan.forecast import load_forecast\n\n"
        "FAST = MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=1))\n",
    ),
)
"""What the test changes in its copy of the demo: layers, sequences, and the spans that a calibration learns from."""


def as_a_user(script: Path, *arguments: str) -> str:
    """Start the demo in a process of its own, and return what it and its commands printed."""
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False, cwd=script.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_forked_ranks(torchrun: Callable[..., subprocess.CompletedProcess[str]], script: Path, *arguments: str) -> str:
    """Do the same with ranks that are forked from a process that has imported torch, most of the cost."""

    def run(*command: str | Path, quiet: bool = False) -> str:
        words = [str(word) for word in command]
        print(f"$ {shlex.join(words)}")
        if words[0] == "torchrun":
            program, *rest = dropwhile(lambda word: word.startswith("--"), words[1:])
            done = torchrun(Path(program), *rest, processes=2, imported_once=())
        else:
            words[0] = str(BIN / words[0])
            done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=script.parent)
            assert done.returncode == 0, done.stdout + done.stderr
        if not quiet:
            print(done.stdout)
        return done.stdout

    main = runpy.run_path(str(script))["main"]
    main.__globals__["run"] = run
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(script), *arguments])
        patch.setenv("OMP_NUM_THREADS", "1")  # which the demo sets, where nobody has
        main()
    return printed.getvalue()


@pytest.fixture(scope="module", params=["in forked ranks", pytest.param("as a user", marks=pytest.mark.exhaustive)])
def demo(request, torchrun, tmp_path_factory) -> tuple[str, Path]:
    """Return what a demo with a few seconds of training printed, and its run directory. A run of yesterday lies beside
    it.
    """
    examples, runs = tmp_path_factory.mktemp("examples"), tmp_path_factory.mktemp("demo")
    (runs / "20260101-000000").mkdir()
    for name in ("demo", "text"):
        shutil.copytree(ROOT / "examples" / name, examples / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, shorter in SHORTER:
        file = examples / "demo" / name
        assert text in file.read_text(encoding="utf-8")
        file.write_text(file.read_text(encoding="utf-8").replace(text, shorter), encoding="utf-8")
    command = (examples / "demo" / "demo.py", "--seconds=3", "--probe-seconds=0.5", f"--runs={runs}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        printed = as_a_user(*command) if request.param == "as a user" else in_forked_ranks(torchrun, *command)
    (run_dir,) = (path.parent for path in runs.glob("*/run.json"))
    return printed, run_dir


@pytest.fixture(scope="module")
def report(demo) -> dict:
    return json.loads((demo[1] / "report.json").read_text(encoding="utf-8"))


def test_it_says_where_the_report_is(demo):
    printed, run_dir = demo

    assert f"report: {run_dir / 'report.html'}" in printed
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_the_loss_falls(demo):
    losses = [float(line.split()[-1]) for line in demo[0].splitlines() if "held-out loss" in line]

    assert len(losses) == 2
    assert losses[1] < losses[0] < 5.5


def test_measured_stands_beside_predicted(report):
    steps = report["steps"]

    assert steps["measured_step_time_s"]["kind"] == "measured"
    assert steps["measured_step_time_s"]["value"] > 0
    assert steps["predicted_step_time_s"]["low"] < steps["predicted_step_time_s"]["high"]
    assert report["forecast"] is not None


def test_its_phases_and_its_energy_are_in_the_ledger(report):
    assert {"startup", "train", "evaluation"} <= set(report["by_phase"])
    assert min(report["by_phase"][phase]["energy_j"] for phase in ("train", "evaluation")) > 0
    assert report["verification"]["ok"]


def test_it_leaves_a_checkpoint_of_both_ranks(demo):
    assert len(list((demo[1] / "checkpoint").glob("*.distcp"))) == 2


def test_a_calibration_learns_from_the_run(demo):
    rows, skipped = ledger_rows(demo[1])

    assert not skipped
    (row,) = rows
    assert row.accelerator == "this-machine"
    (residual,) = calibrate(rows).rows
    assert abs(math.log(residual.after_s / residual.measured_s)) <= abs(
        math.log(residual.before_s / residual.measured_s)
    )


A_FEW_PERCENT = 0.1
"""A first plan may be right by chance, and a second one that has learned from the run is as exact as its steps are
steady."""


HARDLY_LESS = 0.9
"""What a run leaves of the spread between clusters where the ends of the range, in two digits, need not move."""


def test_the_next_plan_is_closer_to_what_it_learned_from_and_surer(demo):
    printed, run_dir = demo
    says = r"says (\S+) s \((\S+) to (\S+) times that\)"
    first, second = ([float(number) for number in found] for found in re.findall(says, printed))
    (row,), _ = ledger_rows(run_dir)
    measured_s = row.measured_step_time_s  # the median; a machine that stalls once takes longer on average
    off_s, still_off_s = (abs(math.log(step[0] / measured_s)) for step in (first, second))

    assert re.search(r"a step took \S+ s", printed)
    assert still_off_s <= max(A_FEW_PERCENT, off_s)
    # A busy machine may be slower than its probe by more than a range allows, and then nothing need be surer.
    (left,) = calibrate([row]).carried
    assert first[1] <= second[1]
    assert second[2] <= first[2]
    assert first[1] < second[1] or left.faster > HARDLY_LESS
    assert second[2] < first[2] or left.slower > HARDLY_LESS
    assert second[1] < 1 < second[2]
    assert "stack: calibrated" in (run_dir / "again.yaml").read_text(encoding="utf-8")
