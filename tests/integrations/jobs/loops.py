"""Short loops of frameworks under their adapters; arguments: loop, run directory, and "raise" to fail at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from carbon_plugin.monitor.settings import MonitorOptions, SpanRule

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


def end(carbon: Any, logged: list[str]) -> None:
    """What the test looks at, from rank 0; then the failure, if one is asked for."""
    if os.environ.get("RANK", "0") == "0":
        state = carbon.state_dict()
        Path(FOLDER, "result.json").write_text(json.dumps({"step": state["step"], "logged": sorted(set(logged))}))
    if "raise" in sys.argv:
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
    model = net()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    with watch(accelerator, model, optimizer, **ARGUMENTS) as carbon:
        accelerator.register_for_checkpointing(carbon)
        for number in range(STEPS * ACCUMULATED):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.randn(2, WIDTH)).sum())
                optimizer.step()
                optimizer.zero_grad()
            accelerator.log({"loss": 1.0}, step=number)  # on an axis of its own, as scripts do
            time.sleep(STEP_S / ACCUMULATED)
            if number == STEPS:
                accelerator.save_state(str(FOLDER / "checkpoint"))
        end(carbon, logged)


def deepspeed() -> None:
    import deepspeed as framework

    from carbon_plugin.integrations.deepspeed import watch

    framework.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled here, for a minute
    framework.init_distributed("gloo")
    model = net()
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": ACCUMULATED,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "csv_monitor": {"enabled": True, "output_path": str(FOLDER), "job_name": "csv"},
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = framework.initialize(model=model, optimizer=optimizer, config=config)
    with watch(engine, **ARGUMENTS) as carbon:
        for number in range(STEPS * ACCUMULATED):
            engine.backward(engine(torch.randn(2, WIDTH)).sum())
            engine.step()
            time.sleep(STEP_S / ACCUMULATED)
            if number == STEPS:
                engine.save_checkpoint(str(FOLDER / "checkpoint"))
        end(carbon, [path.stem for path in (FOLDER / "csv").glob("*.csv")])
    assert "step" not in vars(engine), "nothing of ours stays on the engine"


def megatron() -> None:
    from megatron.core import parallel_state

    from carbon_plugin.integrations.megatron import watch

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            logged.append(name)

    logged: list[str] = []
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with watch([model], optimizer, log=Writer(), **ARGUMENTS) as carbon:
        for number in range(STEPS):
            model(torch.randn(2, WIDTH)).sum().backward()
            optimizer.step()
            time.sleep(STEP_S)
            if number == STEPS // 2:
                with carbon.phase("checkpoint"):
                    time.sleep(0.3)
        end(carbon, logged)


class Titan:
    """The attributes of a torchtitan trainer that the adapter reads; the trainer itself needs a GPU and data."""

    def __init__(self, logged: list[str]) -> None:
        import torchtitan.distributed.parallel_dims as dims

        ones = dict.fromkeys(("dp_shard", "cp", "tp", "pp", "ep"), 1)
        self.parallel_dims = dims.ParallelDims(dp_replicate=2, **ones, world_size=2)
        self.model_parts = [net()]
        self.optimizers = [torch.optim.AdamW(self.model_parts[0].parameters(), lr=1e-3)]
        self.metrics_processor, self.validator, self.logger = self, self, self
        self.step, self._logged = 0, logged

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._logged.extend(metrics)

    def train_step(self) -> None:
        self.model_parts[0](torch.randn(2, WIDTH)).sum().backward()
        self.optimizers[0].step()
        time.sleep(STEP_S)

    def validate(self) -> None:
        time.sleep(0.3)

    def train(self) -> None:
        for _ in range(STEPS):
            self.step += 1
            self.train_step()
            if self.step == STEPS // 2:
                self.validator.validate()


def torchtitan() -> None:
    from carbon_plugin.integrations.torchtitan import watch

    dist.init_process_group("gloo")
    logged: list[str] = []
    trainer = Titan(logged)
    with watch(trainer, **ARGUMENTS) as carbon:
        trainer.train()
        end(carbon, logged)


LOOPS: tuple[Callable[[], None], ...] = (accelerate, deepspeed, megatron, torchtitan)

if __name__ == "__main__":
    {loop.__name__: loop for loop in LOOPS}[sys.argv[1]]()
