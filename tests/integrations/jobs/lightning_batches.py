"""Fits a tiny model with Lightning on batches of many sizes, and counts the tokens that it reads by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from telling import tell
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from carbon_plugin.integrations.lightning import CarbonCallback

VOCAB, LENGTH = 32, 8


class Model(lightning.LightningModule):
    """Reads a batch of token ids without its last one, as most language models do, and counts what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.net = nn.Sequential(nn.Embedding(VOCAB, 16), layer, nn.Linear(16, VOCAB))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        ids = batch["input_ids"] if isinstance(batch, dict) else batch
        self.tokens += int(batch["attention_mask"][:, :-1].sum()) if isinstance(batch, dict) else ids[:, :-1].numel()
        return F.cross_entropy(self.net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


class Stream(IterableDataset[torch.Tensor]):
    """29 samples, a number that nobody is told."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from samples(29)


def samples(number: int, length: int = LENGTH + 1) -> torch.Tensor:
    return torch.randint(VOCAB, (number, length))


def masked(real: int) -> dict[str, torch.Tensor]:
    return {"input_ids": samples(4), "attention_mask": (torch.arange(LENGTH + 1) < real).repeat(4, 1).long()}


LOADERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a short last batch": (DataLoader(samples(29), batch_size=4), {"max_epochs": 2}),
    "a stream": (DataLoader(Stream(), batch_size=4), {"max_epochs": 2}),
    "an end in mid-epoch": (DataLoader(samples(29), batch_size=4), {"max_steps": 4, "max_epochs": -1}),
    "lengths that grow": (
        DataLoader([samples(4, 8 * (1 + i // 4) + 1) for i in range(13)], batch_size=None),
        {"max_epochs": 2},
    ),
    "padding": (DataLoader([masked(3 + i % 5) for i in range(14)], batch_size=None), {"max_epochs": 1}),
}


def main(root: Path) -> None:
    for number, (name, (data, limits)) in enumerate(LOADERS.items()):
        torch.manual_seed(0)
        model = Model()
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accumulate_grad_batches=3, default_root_dir=root, **limits,
            callbacks=[CarbonCallback(run_dir=root / str(number), quiet=True)],
        )  # fmt: skip
        trainer.fit(model, data, DataLoader(samples(5), batch_size=4))
        tell("FIT", [name, str(root / str(number)), model.tokens, trainer.global_step])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
