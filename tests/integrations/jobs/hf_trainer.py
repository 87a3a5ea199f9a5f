"""Trains a tiny Llama with the Hugging Face Trainer, bare and with the callback, then goes on and fails, twice."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loops import ACCUMULATED, ARGUMENTS, FOLDER, STEP_S, STEPS
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from carbon_plugin.integrations.transformers import CarbonCallback
from carbon_plugin.ledger.records import Manifest
from tests.ledgers import ledger_of

VOCAB, LENGTH = 64, 8


class Tokens(Dataset):
    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(index, index + LENGTH) % VOCAB
        return {"input_ids": ids, "labels": ids}


def of_one_length(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a batch as dynamic padding makes it, whose length differs from batch to batch."""
    length = 4 + int(rows[0]["input_ids"][0]) % (LENGTH - 3)
    return {name: torch.stack([row[name][:length] for row in rows]) for name in rows[0]}


class Reporter(TrainerCallback):
    """Stands before the user's callbacks, as those of `report_to` do."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.seen |= set(logs)


class Slow(TrainerCallback):
    def __init__(self, carbon: CarbonCallback) -> None:
        self.carbon = carbon
        self.phases: list[str] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(STEP_S)
        self.phases.append(self.carbon.monitor._clock.phase)
        if state.global_step == STEPS + 2:
            raise RuntimeError("the user's own")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.15)


def main() -> None:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    arguments = TrainingArguments(
        output_dir=str(FOLDER / "out"),
        use_cpu=True,
        bf16=True,
        include_num_input_tokens_seen="all",
        max_steps=STEPS,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=ACCUMULATED,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=6,
        save_steps=8,
        report_to=[],
        disable_tqdm=True,
    )
    torch.manual_seed(0)
    start = LlamaForCausalLM(config)
    bare = Trainer(
        model=copy.deepcopy(start),
        args=replace(arguments, output_dir=str(FOLDER / "bare"), eval_strategy="no", save_strategy="no"),
        train_dataset=Tokens(),
        data_collator=of_one_length,
    )
    bare.train()
    stated = CarbonCallback(**ARGUMENTS | {"run_dir": FOLDER / "stated", "step": 100})
    short = replace(arguments, output_dir=str(FOLDER / "short"), eval_strategy="no", save_strategy="no", max_steps=2)
    Trainer(model=copy.deepcopy(start), args=short, train_dataset=Tokens(), callbacks=[stated]).train()
    reporter, carbon = Reporter(), CarbonCallback(**ARGUMENTS)
    slow = Slow(carbon)
    trainer = Trainer(
        model=start,
        args=arguments,
        train_dataset=Tokens(),
        data_collator=of_one_length,
        eval_dataset=torch.utils.data.Subset(Tokens(), range(16)),
        callbacks=[reporter, carbon, slow],
    )
    trainer.train()
    if os.environ["RANK"] == "0":
        history = {key for row in trainer.state.log_history for key in row}
        tokens = trainer.state.num_input_tokens_seen
        result = {"step": carbon.monitor.step, "logged": sorted(reporter.seen), "history": sorted(history)}
        result |= {"tokens_seen": tokens, "phases_of_steps": slow.phases}
        manifests = [record for record in ledger_of(FOLDER / "stated").records if isinstance(record, Manifest)]
        result["stated"] = [stated.monitor.step, manifests[-1].total_steps]
        pairs = zip(bare.model.parameters(), trainer.model.parameters(), strict=True)
        result["same_weights"] = all(torch.equal(one, other) for one, other in pairs)
        result["last_row"] = trainer.state.log_history[-1]
        Path(FOLDER, "result.json").write_text(json.dumps(result))
    trainer.evaluate()  # outside of a training
    arguments.max_steps = 2 * STEPS
    for _ in range(2):
        with contextlib.suppress(RuntimeError):  # as `auto_find_batch_size` does, before it tries again
            trainer.train(resume_from_checkpoint=True)
    while not carbon.monitor.was_left:  # as in a notebook, in which nothing trains any more
        time.sleep(0.05)
    trainer.evaluate()
    trainer.train(resume_from_checkpoint=True)


if __name__ == "__main__":
    main()
