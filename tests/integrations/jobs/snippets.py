"""Runs one snippet of the documentation as it stands there: `snippets.py WAY FILE`.

A snippet leaves names open (`model`, `loader`, `trainer`). The function of this file that is called WAY returns small
objects for them, of the real framework. What a snippet only makes, such as a Trainer, is used afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

STEPS, WIDTH = 6, 4
YOUR_LOOP = "...  # your loop, unchanged"
"""What stands on the page for the user's own code."""


def plain() -> dict[str, Any]:
    """Return the names that most snippets take from around them."""
    model = nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = list(torch.linspace(-1, 1, STEPS * 2 * WIDTH).view(STEPS, 2, WIDTH))
    return {"model": model, "optimizer": optimizer, "loader": loader, "loss": mean_square, "train_step": train_step}


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    mean_square(model(batch)).backward()
    optimizer.step()
    optimizer.zero_grad()


pytorch = decorated = plain


def log() -> dict[str, Any]:
    names = plain()

    def train() -> None:
        for batch in names["loader"]:
            train_step(names["model"], names["optimizer"], batch)

    return names | {"rank": 0, "train": train}


def planned() -> None:
    """Write the forecast that a snippet of the README carries."""
    command = shutil.which("carbon-plugin", path=str(Path(sys.executable).parent))
    options = "--model llama3-8b --accelerator h100-sxm --nodes 16 --tokens 15e12 --seq-len 8192 --zone FRA"
    batch = ("--global-batch-size", "1024", "-o", "forecast.json")
    subprocess.run([str(command), "plan", *options.split(), *batch], check=True, stdout=subprocess.DEVNULL)


class Writer:
    def __init__(self) -> None:
        self.tags: set[str] = set()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.tags.add(tag)


def readme() -> dict[str, Any]:
    planned()
    return plain() | {"writer": Writer(), "evaluate": lambda: None}


def used_readme(names: dict[str, Any]) -> None:
    assert "carbon/energy_kwh" in names["writer"].tags


def lightning() -> dict[str, Any]:
    import lightnings

    trainer = partial(lightnings.pl.Trainer, accelerator="cpu", max_epochs=1, **lightnings.QUIET)
    return {"Trainer": trainer, "model": lightnings.Model(), "data": lightnings.Data()}


def lightning_readme() -> dict[str, Any]:
    planned()
    return lightning()


def used_lightning_readme(names: dict[str, Any]) -> None:
    names["trainer"].fit(names["model"], names["data"])


def fabric() -> dict[str, Any]:
    from lightning.fabric import Fabric

    return plain() | {"fabric": Fabric(accelerator="cpu", devices=1)}


def transformers() -> dict[str, Any]:
    import hf_trainer as job

    config = job.LlamaConfig(
        vocab_size=job.VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    args = job.TrainingArguments(output_dir="out", use_cpu=True, max_steps=STEPS, report_to=[], disable_tqdm=True)
    return {"Trainer": job.Trainer, "model": job.LlamaForCausalLM(config), "args": args, "data": job.Tokens()}


def trl() -> dict[str, Any]:
    import sft

    parts = sft.parts(".")
    trainer = partial(sft.SFTTrainer, processing_class=parts["processing_class"])
    return {"Trainer": trainer, "model": parts["model"], "args": parts["args"], "data": parts["train_dataset"]}


def accelerate() -> dict[str, Any]:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> SimpleNamespace:  # type: ignore[override]
            return SimpleNamespace(loss=mean_square(super().forward(x)))

    model = Model(WIDTH, WIDTH)
    rows = [{"x": row} for row in torch.linspace(-1, 1, STEPS * 2 * WIDTH).view(-1, WIDTH)]
    return {
        "accelerator": Accelerator(cpu=True),
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01),
        "loader": DataLoader(rows, batch_size=2),  # type: ignore[arg-type]
    }


def deepspeed() -> dict[str, Any]:
    import deepspeed as framework

    framework.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled here, for a minute
    framework.init_distributed("gloo")

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return mean_square(super().forward(x))

    config = {
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}},
        "steps_per_print": 10**9,
    }
    return plain() | {"deepspeed": framework, "model": Model(WIDTH, WIDTH), "config": config}


def jax() -> dict[str, Any]:
    import jax as framework
    from jax import numpy

    @framework.jit
    def update(state: Any, batch: Any) -> tuple[Any, Any]:
        loss, gradient = framework.value_and_grad(lambda weights: ((batch @ weights) ** 2).mean())(state)
        return state - 0.01 * gradient, loss

    return {"update": update, "state": numpy.ones((WIDTH, WIDTH)), "loader": [numpy.ones((2, WIDTH))] * STEPS}


def megatron() -> dict[str, Any]:
    from megatron.core import parallel_state
    from torch import distributed

    distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    return plain() | {"save": lambda model, optimizer: torch.save(model.state_dict(), "checkpoint.pt")}


def torchtitan() -> dict[str, Any]:
    import torchtitan_trainer as job

    job.begin()
    return {"trainer": job.trainer_of("out", STEPS)[0]}


def used_torchtitan(names: dict[str, Any]) -> None:
    names["trainer"].close()


def command_line() -> None:
    """Fit what the YAML file of the page says."""
    import lightnings
    from lightning.pytorch.cli import LightningCLI

    ours = {"accelerator": "cpu", "max_epochs": 1} | lightnings.QUIET
    options = [f"--trainer.{name}={str(value).lower()}" for name, value in ours.items()]
    arguments = ["fit", "--config", sys.argv[2], *options]
    LightningCLI(lightnings.Model, lightnings.Data, args=arguments, save_config_callback=None)


def main() -> None:
    way, file = sys.argv[1], Path(sys.argv[2])
    if way == "command_line":
        command_line()
        return
    code = file.read_text().replace(YOUR_LOOP, "train_step(model, optimizer, batch)")
    torch.manual_seed(0)
    names = globals()[way]() | {"__name__": "page"}
    exec(compile(code, str(file), "exec"), names)
    globals().get(f"used_{way}", lambda names: None)(names)


if __name__ == "__main__":
    main()
