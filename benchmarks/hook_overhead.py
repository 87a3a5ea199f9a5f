"""What the monitor costs a training loop: the same steps with and without it, in alternating blocks of one process.

    make bench                                      # about five minutes, 8 simulated GPUs
    python benchmarks/hook_overhead.py --pairs 4    # shorter, coarser

A pair is one block with the monitor and one without, in random order. Throughput is compared within pairs, so that
what drifts more slowly than a block (clocks, neighbours, temperature) cancels; the interval says what is left of it.
The cost of one call is timed in place; the background thread's CPU time is the kernel's own count.
Without GPUs the meters read a simulated NVML library, through the real binding, built from tests/nvml_simulator.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from results_file import write_result

from carbon_plugin.integrations.pytorch import TorchCarbon, watch

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = "CARBON_PLUGIN_BENCH_SIMULATED"
MONITOR_THREAD = "carbon-plugin"
WARM_UP_STEPS = 50
SETTLE_S = 1.5
WINDOW_S = 5.0


class Loop:
    """A small real training step, some two milliseconds on one core: the smaller the step, the dearer a fixed cost.

    Gradients are kept between steps, as their memory would be on a GPU; giving it back to the system and faulting it
    in again would drown what is measured in the kernel's noise."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        widths = (256, 384, 384, 256)
        layers = [torch.nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(128, widths[0])

    def step(self) -> None:
        loss = (self.model(self.batch) - self.batch).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


@dataclass
class Arm:
    """One arm holds what one side of the comparison measured over its blocks; times are in seconds."""

    steps_per_s: list[float] = field(default_factory=list)
    cpu_per_step_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    calls_s: list[float] = field(default_factory=list)
    background_s: float = 0.0
    wall_s: float = 0.0


def nothing() -> None:
    """Do nothing. The loop without a monitor calls this, so that both sides pay for the timing."""


def run_block(loop: Loop, arm: Arm, carbon: TorchCarbon | None, seconds: float) -> None:
    """Train for `seconds` and record every step."""
    call = carbon.step if carbon is not None else nothing
    for _ in range(WARM_UP_STEPS):
        loop.step()
        call()
    time.sleep(SETTLE_S)
    clock = time.perf_counter
    ends, calls = [clock()], []
    background, cpu = monitor_cpu_s(), time.thread_time()
    while ends[-1] - ends[0] < seconds:
        loop.step()
        before = clock()
        call()
        calls.append(clock() - before)
        ends.append(clock())
    wall = ends[-1] - ends[0]
    arm.cpu_per_step_s.append((time.thread_time() - cpu) / len(calls))
    arm.background_s += monitor_cpu_s() - background
    arm.wall_s += wall
    arm.steps_per_s.append(len(calls) / wall)
    arm.steps_s += np.diff(ends).tolist()
    arm.calls_s += calls


def monitor_cpu_s() -> float:
    """Return the seconds that the monitor's threads (its own and that of the driver) have run on a core, by the
    scheduler. The result is 0 where there are none.
    """
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(MONITOR_THREAD)]
    stats = (Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text() for thread in threads)
    return sum(int(stat.split()[0]) for stat in stats) / 1e9


def measure(pairs: int, block_s: float, seed: int) -> tuple[Arm, Arm]:
    """Return (with, without): blocks with and without the monitor, in random order within each pair."""
    loop, order = Loop(), random.Random(seed)
    with_monitor, without = Arm(), Arm()
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(pairs):
            for monitored in order.sample((True, False), 2):
                if not monitored:
                    run_block(loop, without, None, block_s)
                    continue
                run_dir = Path(scratch) / f"run-{pair}"
                with watch(loop.model, site="FRA", run_dir=run_dir, total_steps=10**6, window_s=WINDOW_S) as carbon:
                    run_block(loop, with_monitor, carbon, block_s)
            show_progress(pair + 1, pairs)
    return with_monitor, without


def summarise(with_monitor: Arm, without: Arm, gpus: str) -> dict[str, object]:
    """Return the result as plain data. Ratios are with over without, and 90 % intervals come from resampling
    the pairs.
    """
    base_call = float(np.median(without.calls_s))
    calls = np.maximum(np.array(with_monitor.calls_s) - base_call, 0)
    return {
        "torch": str(torch.__version__),
        "gpus": gpus,
        "pairs": len(without.steps_per_s),
        "steps": {"with": len(with_monitor.steps_s), "without": len(without.steps_s)},
        "throughput_ratio": ratio_of(with_monitor.steps_per_s, without.steps_per_s),
        "training_thread_cpu_ratio": ratio_of(with_monitor.cpu_per_step_s, without.cpu_per_step_s),
        "call_us": {name: 1e6 * value for name, value in quantiles(calls).items()},
        "step_ms_with": {name: 1e3 * value for name, value in quantiles(np.array(with_monitor.steps_s)).items()},
        "step_ms_without": {name: 1e3 * value for name, value in quantiles(np.array(without.steps_s)).items()},
        "background_core_share": with_monitor.background_s / with_monitor.wall_s,
        "window_s": WINDOW_S,
    }


def ratio_of(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return the median of the pairs' ratios with its 90 % bootstrap interval."""
    ratios = np.array(numerator) / np.array(denominator)
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(draws, (0.05, 0.95))
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def quantiles(values: np.ndarray) -> dict[str, float]:
    marks = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: float(np.quantile(values, mark)) for name, mark in marks.items()}


def show_progress(done: int, of: int) -> None:
    print(f"\rpair {done} of {of}", end="" if done < of else "\n", file=sys.stderr, flush=True)


def simulate(gpus: int) -> int:
    """Run this program again under a simulated NVML library of `gpus` GPUs; its exit code."""
    simulator = ROOT / "tests" / "nvml_simulator"
    with tempfile.TemporaryDirectory() as built:
        subprocess.run(["make", "--silent", "-C", simulator, f"OUT={built}"], check=True, stdout=sys.stderr)
        spec = f"gpus={gpus};power=sine:400:200:7;epoch={time.monotonic()}"
        environment = os.environ | {"LD_LIBRARY_PATH": built, "NVML_SIM": spec, SIMULATED: f"{gpus} simulated"}
        return subprocess.run([sys.executable, *sys.argv], check=False, env=environment).returncode


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=16)
    arguments.add_argument("--block-seconds", type=float, default=8.0)
    arguments.add_argument("--gpus", type=int, default=8, help="simulated GPUs, where there is no NVIDIA driver")
    arguments.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "hook_overhead.json")
    options = arguments.parse_args()

    simulated = os.environ.get(SIMULATED)
    if simulated is None and not torch.cuda.is_available():
        return simulate(options.gpus)
    torch.set_num_threads(1)
    with_monitor, without = measure(options.pairs, options.block_seconds, seed=0)
    result = summarise(with_monitor, without, simulated or f"{torch.cuda.device_count()} real")
    print(write_result(options.output, result))
    print(f"wrote {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
