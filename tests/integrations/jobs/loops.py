"""Short loops of frameworks, bare and then under their adapters: `loops.py LOOP RUN_DIR ["raise"]` fails at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from traces import found

from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from tests.patience import be_patient

STEPS, STEP_S, WIDTH = 16, 0.1, 16
ACCUMULATED = 2
FOLDER = Path(sys.argv[2]).parent
ARGUMENTS: dict[str, Any] = {
    "site": "FRA",
    "run_dir": sys.argv[2],
    "window_s": 0.5,
    "options": MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3, min_steps=3)),
}


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


@contextmanager
def traces_noted(*given: Any, **objects: Any) -> Iterator[None]:
    """Note after the block what is left of ours on some objects, also where it raises. The script has `given` them
    some things of ours itself."""
    try:
        yield
    finally:
        Path(FOLDER, f"traces-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found(objects, given)))


def end(carbon: Any, logged: list[str], losses: Any = None) -> None:
    """Write what the test looks at: the losses of each rank without us and with us, and more of rank 0. Then fail, if a
    failure is asked for.
    """
    rank = os.environ.get("RANK", "0")
    if losses is not None:
        Path(FOLDER, f"losses-{rank}.json").write_text(json.dumps(losses))
    if rank == "0":
        state = carbon.state_dict()
        Path(FOLDER, "result.json").write_text(json.dumps({"step": state["step"], "logged": sorted(set(logged))}))
    if "raise" in sys.argv:
        if dist.is_initialized():
            dist.barrier()  # the launcher ends the other ranks as soon as one raises
        raise RuntimeError("the user's own")


def accelerate() -> None:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    from carbon_plugin.integrations.accelerate import watch

    class Rows(GeneralTracker):
        name, requires_logging_directory = "rows", False
        tracker: Any = None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            pass

        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            logged.extend(values)
            with Path(FOLDER, "rows.jsonl").open("a") as file:
                print(json.dumps([step, values]), file=file)

    logged: list[str] = []
    accelerator = Accelerator(
        cpu=True, mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATED, log_with=Rows()
    )
    accelerator.init_trackers("tiny")

    def train(measured: bool, losses: list[list[float]]) -> None:
        plain = net()
        model, optimizer = accelerator.prepare(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))
        carbon: Any = watch(accelerator, model, optimizer, **ARGUMENTS) if measured else nullcontext()
        with traces_noted(carbon, model=model, optimizer=optimizer, accelerator=accelerator), carbon:
            if measured:
                accelerator.register_for_checkpointing(carbon)
            for number in range(STEPS * ACCUMULATED):
                with accelerator.accumulate(model):
                    loss = model(torch.randn(2, WIDTH)).sum()
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                losses[-1].append(loss.item())
                if measured:
                    accelerator.log({"loss": 1.0}, step=number)  # on an axis of its own, as scripts do
                    time.sleep(STEP_S / ACCUMULATED)
                    if number == STEPS:
                        accelerator.save_state(str(FOLDER / "checkpoint"))
            if measured:
                end(carbon, logged, losses)

    twice(train)


def deepspeed() -> None:
    import deepspeed as framework

    from carbon_plugin.integrations.deepspeed import watch

    framework.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled here, for a minute
    framework.init_distributed("gloo")
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": ACCUMULATED,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "csv_monitor": {"enabled": True, "output_path": str(FOLDER), "job_name": "csv"},
    }

    def train(measured: bool, losses: list[list[float]]) -> None:
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        engine, *_ = framework.initialize(model=model, optimizer=optimizer, config=config)
        carbon: Any = watch(engine, **ARGUMENTS) if measured else nullcontext()
        with traces_noted(engine=engine, optimizer=optimizer), carbon:
            for number in range(STEPS * ACCUMULATED):
                loss = engine(torch.randn(2, WIDTH)).sum()
                engine.backward(loss)
                engine.step()
                losses[-1].append(loss.item())
                if measured:
                    time.sleep(STEP_S / ACCUMULATED)
                    if number == STEPS:
                        engine.save_checkpoint(str(FOLDER / "checkpoint"))
            if measured:
                end(carbon, [path.stem for path in (FOLDER / "csv").glob("*.csv")], losses)

    twice(train)


def megatron() -> None:
    from megatron.core import parallel_state

    from carbon_plugin.integrations.megatron import watch

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            logged.append(name)

    logged: list[str] = []
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)

    def train(measured: bool, losses: list[list[float]]) -> None:
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        carbon: Any = watch([model], optimizer, log=Writer(), **ARGUMENTS) if measured else nullcontext()
        with traces_noted(model=model, optimizer=optimizer), carbon:
            for number in range(STEPS):
                loss = model(torch.randn(2, WIDTH)).sum()
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.item())
                if measured:
                    time.sleep(STEP_S)
                    if number == STEPS // 2:
                        with carbon.phase("checkpoint"):
                            time.sleep(0.3)
            if measured:
                end(carbon, logged, losses)

    twice(train)


def twice(train: Callable[[bool, list[list[float]]], None]) -> None:
    """Train without us and then with us, from the same numbers; `train` adds its losses to the last list."""
    losses: list[list[float]] = []
    for measured in (False, True):
        torch.manual_seed(0)
        losses.append([])
        train(measured, losses)


LOOPS: tuple[Callable[[], None], ...] = (accelerate, deepspeed, megatron)

if __name__ == "__main__":
    be_patient()
    {loop.__name__: loop for loop in LOOPS}[sys.argv[1]]()
