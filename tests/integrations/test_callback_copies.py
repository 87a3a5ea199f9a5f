"""A copy or a pickle of a callback in the middle of a training holds nothing of that training: real trainers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn


def copies_of(callback: Any) -> list[Any]:
    return [copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]


def check(callback: Any, copies: list[Any]) -> None:
    """Assert that copies have not begun, and hold none of the objects that the original holds for the training."""
    assert len(copies) == 2
    assert callback.monitor.step == 4
    for twin in copies:
        assert type(twin) is type(callback)
        assert twin.monitor.step == 0
        assert not twin.monitor.active
        assert twin._trainer is None
        assert twin._first is None


def test_copy_of_a_lightning_callback_has_no_trainer(tmp_path: Path) -> None:
    import lightning

    from carbon_plugin.integrations.lightning import CarbonCallback

    class Local(lightning.LightningModule):  # of a function, so that a pickle of it would fail
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            if batch_idx == 2:
                copies.extend(copies_of(carbon))
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    copies: list[Any] = []
    carbon = CarbonCallback(run_dir=tmp_path / "run", site="FRA", quiet=True)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[carbon],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Local(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), 2))

    check(carbon, copies)


def test_copy_of_a_callback_of_transformers_has_no_trainer(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from carbon_plugin.integrations.transformers import CarbonCallback

    class Copies(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                copies.extend(copies_of(carbon))

    copies: list[Any] = []
    carbon = CarbonCallback(run_dir=tmp_path / "run", site="FRA", quiet=True)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=2, max_steps=4, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=rows, callbacks=[carbon, Copies()])
    trainer.train()

    check(carbon, copies)
