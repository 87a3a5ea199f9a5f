"""Measure what trackers cost the same training loop, side by side: carbon_plugin, CodeCarbon, Zeus and CarbonTracker.

    pip install -r requirements/benchmarks.in           # in an environment of its own, beside this package
    python benchmarks/beside_others.py                  # some minutes; eight simulated GPUs

Every tracker runs in a process of its own around the same loop of numpy steps, and the trackers take turns, so that
what else the machine does meets all of them. Each tracker is used as its documentation shows it: one call a step for
carbon_plugin, a task a step for CodeCarbon, a window a step for Zeus, an epoch of 1,000 steps for CarbonTracker.

- A call: the time of the tracker's calls around one step, less that of a call that does nothing, from a loop that a
  step has left with cold caches.
- Background: CPU of all other threads and of child processes of the tracker, over the time of the loop. The work of
  numpy's own threads is switched off.
- The longest stall: how long one step waited while it neither ran nor waited for a core, so mostly for the interpreter.
  Linux tells the two other times, and whether the thread slept at all, so that a busy machine does not count. A
  tracker's own calls are left out.
- Import: CPU of a process that imports the tracker, less that of one that imports nothing.

Every figure is the least one of the rounds, because other work only ever adds to it, except the longest stall, which is
the longest of all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "beside_others.json"
GPUS = 8
SETTLE_S = 4.0
"""Trackers begin with work that they do once. It is not measured."""
EPOCH_STEPS = 1000
Call = Callable[[], object]


class Tracked(NamedTuple):
    """The calls of a tracker before and after a step, and its end. `every` is the number of steps between its calls."""

    before: Call
    after: Call
    end: Call
    every: int = 1


def nothing() -> None:
    """Stand for the calls of a tracker where there is none."""


def without() -> Tracked:
    """Return no tracker."""
    return Tracked(nothing, nothing, nothing)


def carbon_plugin() -> Tracked:
    """Return our monitor."""
    from carbon_plugin.monitor.monitor import CarbonMonitor

    folder = tempfile.mkdtemp()
    monitor = CarbonMonitor(site="FRA", run_dir=folder, total_steps=10**6, quiet=True, model_spec="llama3-8b")
    monitor.start()
    return Tracked(nothing, monitor.step_end, monitor.close)


def codecarbon() -> Tracked:
    """Return CodeCarbon with a task a step."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="DEU", save_to_file=False, log_level="critical")
    tracker.start()
    number = iter(range(10**9))

    def before() -> None:
        tracker.start_task(f"step {next(number)}")

    return Tracked(before, tracker.stop_task, tracker.stop)


def zeus() -> Tracked:
    """Return Zeus with a window a step."""
    from zeus.utils import framework

    framework.torch_is_available = lambda *_, **__: True  # Zeus refuses a torch without CUDA
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=list(range(GPUS)))
    return Tracked(
        lambda: monitor.begin_window("step", sync_execution=False),
        lambda: monitor.end_window("step", sync_execution=False),
        nothing,
    )


def carbontracker() -> Tracked:
    """Return CarbonTracker with an epoch of many steps, which is its unit."""
    from carbontracker.tracker import CarbonTracker

    tracker = CarbonTracker(epochs=10**6, epochs_before_pred=0, monitor_epochs=-1, verbose=0)
    return Tracked(tracker.epoch_start, tracker.epoch_end, tracker.stop, EPOCH_STEPS)


TRACKERS: dict[str, Callable[[], Tracked]] = {
    "without": without,
    "carbon_plugin": carbon_plugin,
    "codecarbon": codecarbon,
    "zeus": zeus,
    "carbontracker": carbontracker,
}
IMPORTS = {
    "without": "pass",
    "carbon_plugin": "import carbon_plugin.monitor.monitor",
    "codecarbon": "import codecarbon",
    "zeus": "import zeus.monitor",
    "carbontracker": "import carbontracker.tracker",
}


def delayed_s(schedstat: int) -> float:
    """Return for how long this thread has waited for a core so far, s. `schedstat` is its open file in /proc."""
    return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9


def other_cpu_s() -> float:
    """Return the CPU that all other threads of this process, and its children, have used so far, s."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return used - time.thread_time()


def measure(name: str, seconds: float) -> dict[str, float]:
    """Train beside one tracker, and return what it cost."""
    import numpy as np

    generator = np.random.default_rng(0)
    weights, batch = generator.random((192, 192)), generator.random(120_000)

    def step() -> None:
        weights @ weights
        (batch * 1.0001 + batch).sum()

    tracked = TRACKERS[name]()
    settled_s = time.monotonic() + SETTLE_S
    while time.monotonic() < settled_s:
        step()
    background_s, start_s = other_cpu_s(), time.monotonic()
    calls_s = timed_calls(tracked, step, seconds / 2)
    stalls_s = stalls(tracked, step, seconds / 2)
    wall_s = time.monotonic() - start_s
    background_s = other_cpu_s() - background_s
    with contextlib.suppress(Exception):
        tracked.end()
    return {
        "calls": float(len(calls_s)),
        "step_ms": 1e3 * wall_s / (len(calls_s) * tracked.every + len(stalls_s)),
        "call_median_us": 1e6 * statistics.median(calls_s),
        "call_p99_us": 1e6 * float(np.quantile(calls_s, 0.99)),
        "background_core_percent": 100 * background_s / wall_s,
        "longest_stall_ms": 1e3 * max(stalls_s),
        "stall_p999_ms": 1e3 * float(np.quantile(stalls_s, 0.999)),
    }


def timed_calls(tracked: Tracked, step: Call, seconds: float) -> list[float]:
    """Train for so many seconds, and return the time of the tracker's calls around each of its steps or epochs, s."""
    clock, calls_s = time.perf_counter, []
    end_s = clock() + seconds
    while clock() < end_s:
        before = clock()
        tracked.before()
        call_s = clock() - before
        for _ in range(tracked.every):
            step()
        before = clock()
        tracked.after()
        calls_s.append(call_s + clock() - before)
    return calls_s


def stalls(tracked: Tracked, step: Call, seconds: float) -> list[float]:
    """Train for so many seconds, and return for how long each step waited while it neither ran nor wanted a core, s."""
    clock, stalls_s = time.perf_counter, []
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    end_s, done = clock() + seconds, 0
    while clock() < end_s:
        if done % tracked.every == 0:
            tracked.before()
        sleeps = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        begun_s, ran_s, waited_s = clock(), time.thread_time(), delayed_s(schedstat)
        step()
        done += 1
        waited_s, ran_s = delayed_s(schedstat) - waited_s, time.thread_time() - ran_s
        took_s = clock() - begun_s
        slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > sleeps
        stalls_s.append(took_s - ran_s - waited_s if slept else 0.0)
        if done % tracked.every == 0:
            tracked.after()
    os.close(schedstat)
    return stalls_s


def import_cpu_s(statement: str, environ: dict[str, str]) -> float:
    """Return the CPU of a process that runs one statement, s, or NaN if that fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, check=False, env=environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return float("nan")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_one(name: str, seconds: float, environ: dict[str, str]) -> dict[str, float] | None:
    """Measure one tracker in a process of its own, or return None if it does not run here."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=seconds + 120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"{name} does not run here: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(lines[-1])
    return result


def compare(names: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Return the least figures of every tracker over some rounds, and the load of the machine at their start."""
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as built:
        subprocess.run(["make", "--silent", "-C", ROOT / "tests/nvml_simulator", f"OUT={built}"], check=True)
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "PYTHONPYCACHEPREFIX": built,
            "LD_LIBRARY_PATH": built,
            "NVML_SIM": f"gpus={GPUS};power=sine:400:200:7;epoch={time.monotonic()}",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        imports: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            import_cpu_s(IMPORTS[name], environ)  # compiles what an installation would have compiled
        for turn in range(rounds):
            for name in names:
                result = run_one(name, seconds, environ)
                found[name] += [] if result is None else [result]
                imports[name].append(import_cpu_s(IMPORTS[name], environ))
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    least = {
        name: {key: (max if "stall" in key else min)(one[key] for one in results) for key in results[0]}
        for name, results in found.items()
        if results
    }
    for name, figures in least.items():
        figures["import_cpu_s"] = min(imports[name]) - min(imports["without"])
    bare = least["without"]
    for name, figures in least.items():
        if name != "without":
            for key in ("call_median_us", "call_p99_us"):
                figures[key] = max(0.0, figures[key] - bare[key])
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        "load_at_the_start": [round(one, 1) for one in load],
        "rounds": rounds,
        "seconds": seconds,
        "gpus": f"{GPUS} simulated",
        "versions": {name: _version(name) for name in names if name != "without"},
        "least": {name: {key: round(value, 4) for key, value in figures.items()} for name, figures in least.items()},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def table(result: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown, each with its ratio to ours."""
    columns = {
        "call, median, us": "call_median_us",
        "call, p99, us": "call_p99_us",
        "background, % of a core": "background_core_percent",
        "longest stall, ms": "longest_stall_ms",
        "import, CPU s": "import_cpu_s",
    }
    ours = result["least"]["carbon_plugin"]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in result["least"].items():
        cells = []
        for key in columns.values():
            ratio = (
                f" (x {figures[key] / ours[key]:.3g})" if name not in ("without", "carbon_plugin") and ours[key] else ""
            )
            cells.append(f"{figures[key]:.3g}{ratio}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=TRACKERS)
    parser.add_argument("--trackers", nargs="+", default=list(TRACKERS), choices=TRACKERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.seconds)), flush=True)
        os._exit(0)  # some trackers keep threads that nothing ends
    names = list(dict.fromkeys(["without", *options.trackers]))
    result = compare(names, options.rounds, options.seconds)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
