"""Measure what trackers cost the same training loop, side by side: carbon_plugin, CodeCarbon, Zeus and CarbonTracker.

    pip install -r requirements/benchmarks.in           # in an environment of its own, beside this package
    python benchmarks/beside_others.py --page           # ten minutes; eight simulated GPUs; writes docs/benchmarks.md

Every tracker runs in a process of its own around the same loop of numpy steps, and the trackers take turns, so that
what else the machine does meets all of them. Each tracker is used as its documentation shows it: one call a step for
carbon_plugin, a task a step for CodeCarbon, a window a step for Zeus, an epoch of 1,000 steps for CarbonTracker.

- A call: the time of the tracker's calls around one step, less that of a call that does nothing, from a loop that a
  step has left with cold caches.
- Background: CPU of all other threads and of child processes of the tracker, over the time of the loop. The work of
  numpy's own threads is switched off.
- The longest stall: how long one step waited while it neither ran nor waited for a core, so mostly for the interpreter,
  and no longer than other threads of the process computed meanwhile. Linux tells these times. A thread that holds the
  interpreter while it waits for a core itself, which is what a busy machine makes of any thread, does not count, and a
  tracker's own calls do not either.
- Import: CPU of a process that imports the tracker, less that of one that imports nothing.
- Start: CPU of the process from before that import until the tracker has started, where numpy is loaded already.

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
from pathlib import Path
from typing import Any

from beside_others_page import PAGE, section, write_page
from beside_others_trackers import GPUS, IMPORTS, TRACKERS, Call, Tracked

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "beside_others.json"
SETTLE_S = 4.0
"""Trackers begin with work that they do once. It is not measured."""


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

    start_s = time.process_time()
    tracked = TRACKERS[name]()
    start_s = time.process_time() - start_s
    settled_s = time.monotonic() + SETTLE_S
    while time.monotonic() < settled_s:
        step()
    background_s, begun_s = other_cpu_s(), time.monotonic()
    calls_s = timed_calls(tracked, step, seconds / 2)
    stalls_s = stalls(tracked, step, seconds / 2)
    wall_s = time.monotonic() - begun_s
    background_s = other_cpu_s() - background_s
    with contextlib.suppress(Exception):
        tracked.end()
    return {
        "calls": float(len(calls_s)),
        "step_ms": 1e3 * wall_s / (len(calls_s) * tracked.every + len(stalls_s)),
        "call_median_us": 1e6 * statistics.median(calls_s),
        "call_p99_us": 1e6 * float(np.quantile(calls_s, 0.99)),
        "background_core_percent": 100 * max(0.0, background_s) / wall_s,  # two clocks tell it
        "longest_stall_ms": 1e3 * max(stalls_s),
        "stall_p999_ms": 1e3 * float(np.quantile(stalls_s, 0.999)),
        "start_cpu_s": start_s,
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
    """Train for so many seconds, and return for how long other threads kept each step from the interpreter, s."""
    clock, stalls_s = time.perf_counter, []
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    end_s, done = clock() + seconds, 0
    while clock() < end_s:
        if done % tracked.every == 0:
            tracked.before()
        sleeps = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        others_s = time.process_time() - time.thread_time()
        begun_s, ran_s, waited_s = clock(), time.thread_time(), delayed_s(schedstat)
        step()
        done += 1
        waited_s, ran_s = delayed_s(schedstat) - waited_s, time.thread_time() - ran_s
        took_s = clock() - begun_s
        others_s = time.process_time() - time.thread_time() - others_s
        slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > sleeps
        stalls_s.append(max(0.0, min(took_s - ran_s - waited_s, others_s)) if slept else 0.0)
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


def run_one(name: str, seconds: float, environ: dict[str, str]) -> dict[str, float] | str:
    """Measure one tracker in a process of its own, or return the last line of its error if it does not run here."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    with tempfile.TemporaryDirectory() as scratch:  # so that no tracker meets what an earlier round has left behind
        alone = environ | {"TMPDIR": scratch}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone, timeout=seconds + 120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
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
        failed: dict[str, str] = {}
        imports: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            import_cpu_s(IMPORTS[name], environ)  # compiles what an installation would have compiled
        for turn in range(rounds):
            for name in names:
                result = run_one(name, seconds, environ)
                if isinstance(result, str):
                    failed[name] = result
                    print(f"{name} does not run here: {result}", file=sys.stderr)
                else:
                    found[name].append(result)
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
            for key in ("call_median_us", "call_p99_us", "start_cpu_s"):
                figures[key] = max(0.0, figures[key] - bare[key])
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        "load_at_the_start": [round(one, 1) for one in load],
        "python": platform.python_version(),
        "rounds": rounds,
        "seconds": seconds,
        "gpus": f"{GPUS} simulated",
        "did_not_run": failed,
        "versions": {name: _version(name) for name in names if name != "without"},
        "least": {name: {key: round(value, 4) for key, value in figures.items()} for name, figures in least.items()},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=TRACKERS)
    parser.add_argument("--trackers", nargs="+", default=list(TRACKERS), choices=TRACKERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="a multiple of 10, the length of our windows")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.seconds)), flush=True)
        os._exit(0)  # some trackers keep threads that nothing ends
    names = list(dict.fromkeys(["without", *options.trackers]))
    result = compare(names, options.rounds, options.seconds)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(section(result))
    if options.page:
        write_page(result, PAGE)


if __name__ == "__main__":
    main()
