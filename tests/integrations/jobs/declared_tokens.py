"""Trains with Lightning and with the Hugging Face Trainer, declaring other tokens of a step than their batches have:
`declared_tokens.py FOLDER TOKENS_PER_STEP`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import torch
from lightning_batches import VOCAB, Model, samples
from telling import tell
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from carbon_plugin.integrations import lightning as for_lightning
from carbon_plugin.integrations import transformers as for_transformers

STEPS = 4


def with_lightning(run_dir: Path, *, tokens_per_step: int) -> None:
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=run_dir, max_steps=STEPS,
        callbacks=[for_lightning.CarbonCallback(run_dir=run_dir, quiet=True, tokens_per_step=tokens_per_step)],
    ).fit(Model(), DataLoader(samples(4 * STEPS), batch_size=4))  # fmt: skip


def with_trainer(run_dir: Path, *, tokens_per_step: int, counts: bool) -> None:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    Trainer(
        model=LlamaForCausalLM(config),
        args=TrainingArguments(
            output_dir=str(run_dir / "out"), use_cpu=True, max_steps=STEPS, per_device_train_batch_size=4, report_to=[],
            disable_tqdm=True, save_strategy="no", include_num_input_tokens_seen="all" if counts else "no",
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in samples(4 * STEPS)],
        callbacks=[for_transformers.CarbonCallback(run_dir=run_dir, quiet=True, tokens_per_step=tokens_per_step)],
    ).train()  # fmt: skip


def main(folder: Path, tokens_per_step: int) -> None:
    torch.manual_seed(0)
    with_lightning(folder / "lightning", tokens_per_step=tokens_per_step)
    for counts in (False, True):
        with_trainer(folder / f"trainer {counts}", tokens_per_step=tokens_per_step, counts=counts)
    tell("STEPS", STEPS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
