"""Fits a small model with Lightning in other ways than its own script: `lightnings.py WAY FOLDER [PACKAGE]`.

Each way prints the losses of a fit without us, then those of one with us.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from telling import tell
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path(sys.argv[2])
if sys.argv[1] == "callback":
    from carbon_plugin.integrations.lightning import CarbonCallback  # noqa: F401  # before the Trainer's
pl = import_module(sys.argv[3] if len(sys.argv) > 3 else "lightning.pytorch")
STEPS = 8
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.losses = nn.Linear(4, 4), []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        numbers = torch.linspace(-1, 1, 2 * STEPS * 4).view(-1, 4)
        return DataLoader(TensorDataset(numbers), batch_size=2)


def fit(**arguments: Any) -> list[float]:
    torch.manual_seed(0)
    model = Model()
    pl.Trainer(accelerator="cpu", max_epochs=1, **QUIET, **arguments).fit(model, datamodule=Data())
    return model.losses


def ours(**arguments: Any) -> Any:
    from carbon_plugin.integrations.lightning import CarbonCallback

    return CarbonCallback(site="FRA", run_dir=FOLDER / "run", quiet=True, **arguments)


def callback() -> list[float]:
    carbon = ours()
    twin = pickle.loads(pickle.dumps(carbon))  # as a strategy does that spawns
    assert (type(twin).__name__, twin.monitor.active) == ("CarbonCallback", False)
    assert isinstance(twin, pl.Callback)
    return fit(callbacks=carbon)


def automatic() -> list[float]:
    os.environ["CARBON_PLUGIN_RUN_ARGUMENTS"] = json.dumps({"run_dir": str(FOLDER / "run"), "site": "FRA"})
    return fit()


def automatic_beside_own() -> list[float]:
    os.environ["CARBON_PLUGIN_RUN_ARGUMENTS"] = json.dumps({"run_dir": str(FOLDER / "automatic")})
    return fit(callbacks=[ours()])


def cli() -> list[float]:
    config = FOLDER / "config.yaml"
    config.write_text(f"""
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: carbon_plugin.integrations.lightning.CarbonCallback
      init_args:
        site: {{zone: FRA, pue: 1.25}}
        run_dir: {FOLDER}/run
        total_steps: {2 * STEPS}
        quiet: true
""")
    command_line = import_module(pl.__name__ + ".cli").LightningCLI
    made = command_line(Model, Data, args=["fit", "--config", str(config)], save_config_callback=None)
    return made.model.losses


if __name__ == "__main__":
    sys.path.append(str(FOLDER / "site"))  # entry points of the test
    tell("LOSSES", fit())
    tell("LOSSES", globals()[sys.argv[1]]())
