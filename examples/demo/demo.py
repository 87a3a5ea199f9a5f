"""The whole path in one go: probe this machine, plan a run on it, train with the callback, audit the run, and plan the
next one with what this one told.

Every step is a command that it prints and that you can give yourself. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
TRIAL_STEPS = 100


@dataclass(frozen=True)
class Launch:
    """One launch is how this machine runs the demo: the spec, and flags that fit it to the machine's devices."""

    spec: Path
    ranks: int
    flags: tuple[str, ...]


def choose_launch() -> Launch:
    """Choose two processes on the CPU, or one on each of up to two GPUs, in bf16 where the GPUs have it."""
    if not torch.cuda.is_available():
        return Launch(HERE / "cpu.yaml", 2, ())
    ranks = min(2, torch.cuda.device_count())
    precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fitted = {"devices-per-node": ranks, "dp-shard": ranks, "global-batch-size": 8 * ranks, "precision": precision}
    return Launch(HERE / "gpu.yaml", ranks, tuple(f"--{name}={value}" for name, value in fitted.items()))


def run(*command: str | Path, quiet: bool = False) -> str:
    """Run one command from the environment of this interpreter, shown as a user would type it."""
    words = [str(word) for word in command]
    if not quiet:
        print(f"\n$ {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]], check=False, text=True, stdout=subprocess.PIPE if quiet else None
    )
    if done.returncode:
        raise SystemExit(f"the demo stopped: {shlex.join(words)} ended with exit code {done.returncode}")
    return done.stdout or ""


def learn(run_dir: Path, launch: Launch, profiles: Path) -> dict[str, float]:
    """Fit this machine and this software to the run, and return the step time that the same plan then has, seconds."""
    learned = run_dir / "learned"
    run("carbon-plugin", "calibrate", run_dir, "-o", learned / "this-machine.yaml")
    spec = run_dir / "again.yaml"
    spec.write_text(launch.spec.read_text("utf-8") + "stack: calibrated\n", "utf-8")
    again = ("carbon-plugin", "plan", spec, f"--profiles={learned}", f"--profiles={profiles}", *launch.flags)
    step: dict[str, float] = json.loads(run(*again, "--json", quiet=True))["prediction"]["step_time_s"]
    print(f"\n$ {shlex.join(str(word) for word in again)}")
    return step


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=Path, default=Path("runs/demo"), help="where profiles and runs go")
    arguments.add_argument("--seconds", type=float, default=60, help="about how long to train")
    arguments.add_argument("--probe-seconds", type=float, default=8, help="how long to measure the machine")
    options = arguments.parse_args()

    launch = choose_launch()
    # torchrun would give each process one thread; a machine with more cores shares them out.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // launch.ranks)))
    torchrun = ("torchrun", f"--nproc-per-node={launch.ranks}")
    profiles = options.runs / "profiles"
    run_dir = options.runs / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir.mkdir(parents=True)
    forecast = run_dir / "forecast.json"

    run(*torchrun, "--no-python", BIN / "carbon-plugin", "probe", "-o", profiles, f"--seconds={options.probe_seconds}")
    plan = ("carbon-plugin", "plan", launch.spec, f"--profiles={profiles}", *launch.flags)
    trial = json.loads(run(*plan, f"--steps={TRIAL_STEPS}", "--json", quiet=True))
    steps = max(20, round(options.seconds / trial["prediction"]["step_time_s"]["value"]))
    run(*plan, f"--steps={steps}", "-o", forecast)
    run(*torchrun, HERE / "train.py", "--forecast", forecast, "--run-dir", run_dir)
    run("carbon-plugin", "audit", run_dir)
    measured = json.loads((run_dir / "report.json").read_text("utf-8"))["steps"]["measured_step_time_s"]["value"]
    learned = learn(run_dir, launch, profiles)
    print(f"a step took {measured:.3g} s")
    for name, step in (
        ("the first plan", trial["prediction"]["step_time_s"]),
        ("a plan that learned from it", learned),
    ):
        low, high = (step[end] / step["value"] for end in ("low", "high"))
        print(f"{name} says {step['value']:.3g} s ({low:.2f} to {high:.2f} times that)")


if __name__ == "__main__":
    main()
