"""Fits with Lightning whose length is not one number of batches by another, one after the other in a run each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from telling import tell
from torch import nn
from torch.utils.data import DataLoader

from carbon_plugin.integrations.lightning import CarbonCallback

BATCHES, EVERY = 10, 5


class Model(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Gan(Model):
    """The critic steps at each batch, and the generator at each fifth."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        of_generator, of_critic = optimizers
        for optimizer, part in ((of_critic, self.critic), (of_generator, self.net)):
            if part is self.critic or batch_idx % EVERY == EVERY - 1:
                optimizer.zero_grad()
                self.manual_backward(part(batch).square().mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1), torch.optim.SGD(self.critic.parameters(), lr=0.1)


def trainer(root: Path, *callbacks: lightning.Callback, **limits: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, callbacks=[*callbacks], **limits,
    )  # fmt: skip


def carbon(root: Path, name: str, **arguments: int) -> CarbonCallback:
    return CarbonCallback(run_dir=root / name, quiet=True, **arguments)


def data() -> DataLoader[torch.Tensor]:
    return DataLoader(torch.randn(4 * BATCHES, 4), batch_size=4)


def main(root: Path) -> None:
    scheduled = trainer(root, carbon(root, "schedule"), GradientAccumulationScheduler({1: 4, 2: 3}), max_epochs=3)
    scheduled.fit(Model(), data())  # 10, 3 and 4 steps
    scheduled.accumulate_grad_batches = 1
    scheduled.fit_loop.max_epochs = 4
    scheduled.fit(Model(), data())  # 4 more

    for name, arguments in (("gan", {}), ("stated", {"step": 100})):
        measured = carbon(root, name, **arguments)
        gan = trainer(root, measured, max_epochs=1)
        gan.fit(Gan(), data())
        gan.save_checkpoint(root / "first.ckpt")
        for checkpoint in (None, root / "first.ckpt"):  # it goes on where it is, and then from the checkpoint
            gan.fit_loop.max_epochs = 2
            gan.fit(Gan(), data(), ckpt_path=checkpoint, weights_only=False)
        tell("LAST", [name, measured.monitor.step])

    both = carbon(root, "max_steps")
    trainer(root, both, max_steps=12, max_epochs=-1).fit(Gan(), data())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
