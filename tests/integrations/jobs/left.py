"""Trains a small model under an adapter in one process and tells what is of ours on objects of the user, at several
moments: `left.py ADAPTER FOLDER`.
"""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from telling import tell
from torch import nn
from traces import found

FOLDER = Path(sys.argv[2])
ARGUMENTS: dict[str, Any] = {"site": "FRA", "run_dir": FOLDER / "run", "quiet": True}
STEPS, WIDTH = 3, 8


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))


def look_at_copies(moment: str, model: nn.Module, optimizer: Any) -> None:
    """Look at what scripts make of a model and an optimizer while they train."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved = io.BytesIO()
    torch.save(state, saved)
    twin = copy.deepcopy(model)
    names = found({"twin": twin, "state": state})
    if b"carbon_plugin" in saved.getvalue():
        names.append("the file")
    tell("FOUND", [moment, names])


def train(model: Any, optimizer: Any, backward: Callable[[Any], None], carbon: Any) -> None:
    with carbon:
        for step in range(STEPS):
            backward(model(torch.ones(2, WIDTH)).sum())
            optimizer.step()
            optimizer.zero_grad()
            look_at_copies(f"after step {step + 1}", model, optimizer)


def at_the_end(*given: Any, **objects: Any) -> None:
    tell("FOUND", ["at the end", found(objects, given)])


def pytorch() -> None:
    from carbon_plugin.integrations.pytorch import watch

    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    train(model, optimizer, torch.Tensor.backward, watch(model, optimizer, scheduler=scheduler, **ARGUMENTS))
    at_the_end(model=model, optimizer=optimizer, scheduler=scheduler)


def compiled() -> None:
    from carbon_plugin.integrations.pytorch import watch

    plain = net()
    model = torch.compile(plain, backend="eager")
    optimizer = torch.optim.AdamW(plain.parameters())
    train(model, optimizer, torch.Tensor.backward, watch(model, optimizer, **ARGUMENTS))
    at_the_end(model=model, optimizer=optimizer)


def decorated() -> None:
    from carbon_plugin.integrations.decorated import watch_training

    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch_training(**ARGUMENTS)(train)(model, optimizer, torch.Tensor.backward, nullcontext())
    at_the_end(model=model, optimizer=optimizer)


def lightning() -> None:
    from lightning import LightningModule, Trainer

    from carbon_plugin.integrations.lightning import CarbonCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            if number:
                look_at_copies(f"after step {number}", self.net, self.optimizers())
            return self.net(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    carbon, module = CarbonCallback(**ARGUMENTS), Module()
    trainer = Trainer(
        default_root_dir=FOLDER, accelerator="cpu", devices=1, max_steps=STEPS, logger=False, callbacks=[carbon],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(8, WIDTH), batch_size=2))
    at_the_end(carbon, module=module, trainer=trainer)


def transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from carbon_plugin.integrations.transformers import CarbonCallback

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any) -> None:
            look_at_copies(f"after step {state.global_step}", model, optimizer)

    tiny = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    carbon, ids = CarbonCallback(**ARGUMENTS), torch.ones(4, dtype=torch.long)
    trainer = Trainer(
        model=LlamaForCausalLM(LlamaConfig(**tiny)),
        args=TrainingArguments(str(FOLDER), use_cpu=True, max_steps=STEPS, report_to=[], disable_tqdm=True),
        train_dataset=[{"input_ids": ids, "labels": ids}] * 8,
        callbacks=[carbon, Look()],
    )
    trainer.train()
    at_the_end(carbon, trainer=trainer)


ADAPTERS = (pytorch, compiled, decorated, lightning, transformers)

if __name__ == "__main__":
    {adapter.__name__: adapter for adapter in ADAPTERS}[sys.argv[1]]()
