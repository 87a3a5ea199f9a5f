"""Measure how long one prediction takes in a process that has made others: `predict_step` of the example specs.

    make bench                                  # with the other benchmarks
    .venv/bin/python benchmarks/prediction.py   # about a second

A figure is the least of many calls, because other work on the machine only adds to it. Each spec is also predicted
under plain PyTorch of which nobody says how it runs experts: where the model has some, the step is then timed twice.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import msgspec
from results_file import write_result

from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import load_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
SPECS = ("llama3-8b-h100", "lora-7b-rtx4090", "mixtral-8x7b-h100", "deepseek-v3-h800")


def least_seconds(spec: RunSpec, calls: int) -> float:
    """Return the least time of so many predictions of a spec."""
    predict_step(spec)  # tables are read and cached from here on
    least = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        predict_step(spec)
        least = min(least, time.perf_counter() - start)
    return least


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--calls", type=int, default=500)
    arguments.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "prediction.json")
    options = arguments.parse_args()
    gc.disable()
    found = {}
    for name in SPECS:
        spec = load_run_spec(ROOT / "examples" / "specs" / f"{name}.yaml")
        plain = msgspec.structs.replace(spec, stack=Stack())
        found[name] = {
            "as_stated_ms": 1e3 * least_seconds(spec, options.calls),
            "plain_pytorch_ms": 1e3 * least_seconds(plain, options.calls),
        }
    print(write_result(options.output, {"calls": options.calls, "predictions": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
