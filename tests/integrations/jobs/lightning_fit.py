"""Fits a tiny transformer with Lightning and the callback; the arguments choose devices and what goes wrong."""

from __future__ import annotations

import argparse
import sys
import time

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from telling import tell
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from carbon_plugin.integrations.lightning import CarbonCallback
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule

VOCAB, HIDDEN, LENGTH = 32, 16, 8


class Model(lightning.LightningModule):
    """Embedding, two encoder layers, head; `training_step` calls a child, as most modules do."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.step_s = step_s
        self.raise_at: int | None = None
        layer = nn.TransformerEncoderLayer(HIDDEN, 2, 4 * HIDDEN, batch_first=True, dropout=0.0)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.net = nn.Sequential(nn.Embedding(VOCAB, HIDDEN), encoder, nn.Linear(HIDDEN, VOCAB))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        (tokens,) = batch
        time.sleep(self.step_s)
        if self.global_step == self.raise_at:
            raise RuntimeError("the user's own")
        loss = F.cross_entropy(self.net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        time.sleep(0.2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def trainer(root: str, devices: int, epochs: int, carbon: CarbonCallback) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=epochs,
        accumulate_grad_batches=2,
        logger=CSVLogger(root),
        callbacks=[carbon, ModelCheckpoint(dirpath=root, filename="last", every_n_train_steps=5)],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def callback(run_dir: str | None) -> CarbonCallback:
    """Return a callback with short windows and spans."""
    return CarbonCallback(
        site="FRA",
        run_dir=run_dir,
        window_s=0.5,
        options=MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3, min_steps=3)),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--run-dir")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--resume-and-raise", action="store_true")
    parser.add_argument("--validate-into", help="validate alone, before the fit, with a record there")
    options = parser.parse_args()

    torch.manual_seed(0)
    tokens = torch.randint(VOCAB, (32 * options.devices * 2, LENGTH + 1))
    data = DataLoader(TensorDataset(tokens), batch_size=4)
    validation = DataLoader(TensorDataset(tokens[:8]), batch_size=4)
    if options.validate_into:
        alone = trainer(options.validate_into, options.devices, 2, callback(f"{options.validate_into}/run"))
        alone.validate(Model(0.05), validation)
    carbon = callback(options.run_dir)
    fit = trainer(options.root, options.devices, 2, carbon)
    fit.fit(Model(0.05), data, validation)
    if fit.is_global_zero:
        tell("RESULT", {"state": carbon.state_dict(), "run_dir": str(carbon.monitor.run_dir)})
    if options.resume_and_raise:
        model = Model(0.05)
        model.raise_at = 20
        trainer(options.root, 1, 4, carbon).fit(
            model, data, validation, ckpt_path=f"{options.root}/last.ckpt", weights_only=True
        )


if __name__ == "__main__":
    sys.exit(main())
