"""Everything that only a real GPU can tell, in one run and one JSON: counters, costs, power states, predictions.

    python benchmarks/gpu_checks.py            # on a machine with a GPU: about nine minutes
    python benchmarks/gpu_checks.py --quick    # anywhere: the same code on the CPU and a simulated driver

- `counter`: joules of the energy counter over those of the integrated power, over windows of 1 to 30 s under load.
- `calls_s`: cost of one NVML call of each kind that the meters make.
- `overhead`: throughput and the 99.9th percentile of a step with our callback over without, at short and long steps.
- `power_w`: board at rest, with an open context, and under back-to-back matrix products.
- `configurations`: GPT-like models of many widths, depths, batches, lengths, dtypes, with recompute and compiled:
  measured step time, power and energy beside the prediction, from the shipped profile and after `probe`.
Writes benchmarks/results/gpu_checks.json. With --quick nothing in it is a statement about a GPU, and it says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pynvml
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples" / "demo"), str(ROOT / "benchmarks")]

from hook_overhead import quantiles, ratio_of, simulate  # noqa: E402
from model import Transformer  # noqa: E402

from carbon_plugin.integrations.pytorch import watch  # noqa: E402
from carbon_plugin.predict.result import StepPrediction  # noqa: E402
from carbon_plugin.predict.step import predict_step  # noqa: E402
from carbon_plugin.probe.probe import probe, write_profiles  # noqa: E402
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster  # noqa: E402
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node, match_device_name  # noqa: E402
from carbon_plugin.spec.layout import ParallelLayout  # noqa: E402
from carbon_plugin.spec.models.model import TransformerModel  # noqa: E402
from carbon_plugin.spec.run import RunSpec  # noqa: E402
from carbon_plugin.spec.site import Site  # noqa: E402
from carbon_plugin.spec.stack import Stack  # noqa: E402
from carbon_plugin.spec.training import TrainingPlan  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
PROBED = "this-machine"


class Configuration(msgspec.Struct, frozen=True):
    """One training step to measure: a model, a batch, and how it runs."""

    width: int
    layers: int
    batch: int
    seq_len: int
    dtype: str = "bf16"
    recompute: bool = False
    compiled: bool = False

    @property
    def model(self) -> TransformerModel:
        heads = self.width // 64
        return TransformerModel(
            name=f"gpt-{self.width}x{self.layers}",
            layers=self.layers,
            hidden=self.width,
            heads=heads,
            kv_heads=heads,
            head_dim=64,
            ffn=4 * self.width,
            vocab=32_000 if CUDA else 256,
        )


def configurations(quick: bool) -> list[Configuration]:
    """Return 36 configurations for a GPU, or four small ones for the quick run."""
    if quick:
        small = [Configuration(128, 2, 2, 64, "fp32", recompute) for recompute in (False, True)]
        return [*small, Configuration(256, 2, 2, 64, "fp32"), Configuration(128, 4, 4, 128, "fp32")]
    shapes = [(768, 12), (1024, 24), (2048, 12), (2048, 24), (4096, 8), (5120, 6)]
    work = [(1, 2048), (4, 2048), (2, 4096), (1, 8192)]
    found = [Configuration(w, n, b, s) for w, n in shapes for b, s in work]
    found += [Configuration(w, n, 4, 2048, recompute=True) for w, n in shapes[::2]]
    found += [Configuration(w, n, 4, 2048, compiled=True) for w, n in shapes]
    return found + [Configuration(w, n, 1, 2048, dtype="fp32") for w, n in shapes[:3]]


class Recomputed(nn.Module):
    """Runs a layer again in the backward pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Any:
        return checkpoint(self.layer, *inputs, use_reentrant=False)


def build_step(config: Configuration) -> Callable[[], None]:
    """Return a function that runs one optimizer step of a configuration."""
    torch.manual_seed(0)
    model = Transformer(config.model, config.seq_len).to(DEVICE)
    if config.recompute:
        model.layers = nn.ModuleList(Recomputed(layer) for layer in model.layers)
    run: Any = torch.compile(model) if config.compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=CUDA)
    tokens = torch.randint(config.model.vocab, (config.batch, config.seq_len), device=DEVICE)
    narrow = config.dtype == "bf16"

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=narrow):
            logits = run(tokens)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


class Board:
    """Reads the first GPU, by the real binding."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.name = pynvml.nvmlDeviceGetName(self.handle)

    def energy_j(self) -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3

    def power_w(self) -> float:
        return float(pynvml.nvmlDeviceGetPowerUsage(self.handle)) / 1e3


class Integrator:
    """Integrates power by a thread of its own, every 20 ms."""

    def __init__(self, board: Board) -> None:
        self.joules = 0.0
        self._board, self._stop = board, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last_s, last_w = time.perf_counter(), self._board.power_w()
        while not self._stop.wait(0.02):
            now_s, now_w = time.perf_counter(), self._board.power_w()
            self.joules += (now_s - last_s) * (now_w + last_w) / 2
            last_s, last_w = now_s, now_w

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def check_counter(board: Board, load: Callable[[], None], windows_s: Sequence[float]) -> list[dict[str, float]]:
    """Compare the energy of the counter with integrated power in windows of several lengths, under load."""
    found = []
    integrator = Integrator(board)
    for length_s in windows_s:
        ratios = []
        for _ in range(max(1, int(10 / length_s))):
            counted, integrated = board.energy_j(), integrator.joules
            run_for(load, length_s)
            ratios.append((board.energy_j() - counted) / max(integrator.joules - integrated, 1e-9))
        found.append({"window_s": length_s, "ratio": statistics.fmean(ratios), "windows": len(ratios)})
    integrator.close()
    return found


def check_calls(board: Board) -> dict[str, dict[str, float]]:
    """Measure the seconds of one NVML call of each kind."""
    calls = {
        "energy counter": board.energy_j,
        "power": board.power_w,
        "power limit": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(board.handle),
        "clock": lambda: pynvml.nvmlDeviceGetClockInfo(board.handle, pynvml.NVML_CLOCK_SM),
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(200):
            start = time.perf_counter()
            try:
                call()
            except pynvml.NVMLError:  # not every board answers every call
                break
            times.append(time.perf_counter() - start)
        if times:
            found[name] = quantiles(np.array(times))
    return found


def check_overhead(step: Callable[[], None], pairs: int, block_s: float) -> dict[str, Any]:
    """Compare paired blocks with and without the callback around the same step."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    steps: dict[bool, list[float]] = {True: [], False: []}
    model = nn.Linear(1, 1)  # the callback looks at a model once; the loop's own is in `step`
    for pair in range(pairs):
        for monitored in ((True, False), (False, True))[pair % 2]:
            with tempfile.TemporaryDirectory() as folder:
                carbon = (
                    watch(model, site="FRA", run_dir=folder, total_steps=10**6, window_s=5.0) if monitored else None
                )
                ends = [time.perf_counter()]
                while ends[-1] - ends[0] < block_s:
                    step()
                    if carbon is not None:
                        carbon.step()
                    ends.append(time.perf_counter())
                synchronise()
                rates[monitored].append((len(ends) - 1) / (time.perf_counter() - ends[0]))
                steps[monitored] += np.diff(ends).tolist()
                if carbon is not None:
                    carbon.close()
    p999 = {monitored: float(np.quantile(values, 0.999)) for monitored, values in steps.items()}
    return {
        "step_s": statistics.median(steps[False]),
        "throughput_ratio": ratio_of(rates[True], rates[False]),
        "p999_with_s": p999[True],
        "p999_without_s": p999[False],
    }


def check_power(board: Board, at_rest_w: float, load: Callable[[], None], seconds: float) -> dict[str, float]:
    """Measure watts at rest (before torch opens a context), with a context, and under load."""
    torch.zeros(1, device=DEVICE)
    synchronise()
    time.sleep(seconds)
    with_context = board.power_w()
    return {"at_rest": at_rest_w, "with_context": with_context, "matrix_products": mean_power_w(board, load, seconds)}


def mean_power_w(board: Board, load: Callable[[], None], seconds: float) -> float:
    start_j, start_s = board.energy_j(), time.perf_counter()
    run_for(load, seconds)
    return (board.energy_j() - start_j) / (time.perf_counter() - start_s)


def run_for(work: Callable[[], None], seconds: float) -> int:
    """Repeat `work` for this many seconds, and return how often it ran."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        work()
        synchronise()
        count += 1
    return count


def check_configuration(config: Configuration, board: Board, profiles: dict[str, Accelerator], seconds: float) -> Any:
    """Return what was measured of a configuration beside what is predicted, or why it could not be measured."""
    row: dict[str, Any] = msgspec.structs.asdict(config)
    try:
        step = build_step(config)
        for _ in range(5):
            step()
        synchronise()
        start_j, start_s = board.energy_j(), time.perf_counter()
        count = 0
        while time.perf_counter() - start_s < seconds:
            step()
            count += 1
            if count % 8 == 0:
                synchronise()
        synchronise()
        wall_s = time.perf_counter() - start_s
        energy_j = board.energy_j() - start_j
    except torch.OutOfMemoryError:
        return row | {"skipped": "out of memory"}
    finally:
        if CUDA:
            torch.cuda.empty_cache()
    row |= {"step_time_s": wall_s / count, "power_w": energy_j / wall_s, "energy_per_step_j": energy_j / count}
    for name, accelerator in profiles.items():
        prediction = predict(config, accelerator)
        row[name] = {
            "step_time_s": prediction.step_time_s.value,
            "power_w": prediction.gpu_power_w.value,
            "energy_per_step_j": prediction.gpu_energy_per_step_j.value,
            "step_time_error": prediction.step_time_s.value / row["step_time_s"] - 1,
        }
    return row


def predict(config: Configuration, accelerator: Accelerator) -> StepPrediction:
    cluster = Cluster(accelerator=accelerator, node=load_node("workstation"), nodes=1, devices_per_node=1)
    return predict_step(
        RunSpec(
            name="check",
            model=config.model,
            cluster=cluster,
            training=TrainingPlan(
                seq_len=config.seq_len,
                global_batch_size=config.batch,
                steps=1,
                precision="bf16" if config.dtype == "bf16" else "fp32",
            ),
            site=Site(zone="FRA"),
            layout=ParallelLayout(
                micro_batch_size=config.batch,
                recompute="full" if config.recompute else "none",
            ),
            stack=Stack(fused=config.compiled),
        )
    )


def summed_up(rows: Sequence[dict[str, Any]], profile: str) -> dict[str, float]:
    """Return the mean absolute errors of the measured rows, percent."""
    pairs = [(row, row[profile]) for row in rows if profile in row]
    return {
        "n": len(pairs),
        **{
            f"{field}_mape": 100 * statistics.fmean(abs(predicted[field] / row[field] - 1) for row, predicted in pairs)
            for field in ("step_time_s", "power_w", "energy_per_step_j")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and short, also without a GPU")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_checks.json")
    options = parser.parse_args()
    simulated = os.environ.get("CARBON_PLUGIN_BENCH_SIMULATED")
    if not CUDA and simulated is None:
        if not options.quick:
            parser.error("there is no CUDA device here; --quick runs the same code on the CPU and a simulated driver")
        return simulate(1)
    quick = options.quick
    board = Board()
    at_rest_w = board.power_w()
    size = 8192 if CUDA else 256
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

    def load() -> None:
        torch.mm(left, right)

    short, long = (Configuration(256, 2, 1, 128), Configuration(2048, 12, 4, 2048))
    if quick:
        short, long = (Configuration(64, 1, 1, 32, "fp32"), Configuration(128, 2, 2, 64, "fp32"))
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": board.name if CUDA else f"CPU of {platform.node()}: no figure here is of a GPU",
        "driver": pynvml.nvmlSystemGetDriverVersion() if CUDA else "simulated",
        "torch": str(torch.__version__),
        "power_w": check_power(board, at_rest_w, load, 1.0 if quick else 10.0),
        "counter": check_counter(board, load, (0.5, 1.0) if quick else (1.0, 5.0, 10.0, 30.0)),
        "calls_s": check_calls(board),
        "overhead": [check_overhead(build_step(c), 1 if quick else 4, 1.0 if quick else 5.0) for c in (short, long)],
    }
    with tempfile.TemporaryDirectory() as folder:
        write_profiles(probe(name=PROBED, seconds=2.0 if quick else 15.0), Path(folder))
        probed = load_accelerator(PROBED, profile_dirs=[Path(folder)])
        shipped = match_device_name(board.name) if CUDA else load_accelerator("h100-sxm")
        profiles = {"probed": probed} | ({"shipped": shipped} if shipped is not None and CUDA else {})
        seconds = 0.5 if quick else 8.0
        rows = [check_configuration(c, board, profiles, seconds) for c in configurations(quick)]
    result["configurations"] = rows
    result["errors_percent"] = {name: summed_up(rows, name) for name in profiles}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["errors_percent"] | {"wrote": str(options.output)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
