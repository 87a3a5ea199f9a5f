"""Trains a tiny Llama with trainers of TRL, bare and measured: `trainers_of_trl.py FOLDER WAY...`, and their losses."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from telling import tell
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from carbon_plugin.integrations.transformers import CarbonCallback
from carbon_plugin.monitor.settings.options import MonitorOptions

FOLDER, WORDS, STEPS = Path(sys.argv[1]), 60, 4
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{number}": number + 3 for number in range(WORDS)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, eos_token_id=1, **shape))


def text(start: int, length: int) -> str:
    return " ".join(f"w{(start * 7 + number) % WORDS}" for number in range(length))


def common(way: str) -> dict[str, Any]:
    return {
        "output_dir": str(FOLDER / f"{way}-out"),
        "use_cpu": True,
        "bf16": False,
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def sft_lora(callbacks: list[Any]) -> Any:
    data = Dataset.from_list([{"text": text(number, 5 + number % 20)} for number in range(64)])
    arguments = SFTConfig(**common("sft_lora"))
    return SFTTrainer(
        model=model(), args=arguments, train_dataset=data, processing_class=tokenizer(), callbacks=callbacks,
        peft_config=LORA,
    )  # fmt: skip


def dpo(callbacks: list[Any]) -> Any:
    rows = [{"prompt": text(n, 4), "chosen": text(n + 1, 6), "rejected": text(n + 2, 5)} for n in range(32)]
    arguments = DPOConfig(**common("dpo"))
    return DPOTrainer(
        model=model(),
        ref_model=model(), args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer(),
        callbacks=callbacks,
    )  # fmt: skip


def reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(set(completion.split()))) for completion in completions]


def grpo(callbacks: list[Any]) -> Any:
    arguments = GRPOConfig(**common("grpo"), num_generations=4, max_completion_length=8)
    trainer = GRPOTrainer(
        model=model(), args=arguments, train_dataset=Dataset.from_list([{"prompt": text(n, 4)} for n in range(32)]),
        processing_class=tokenizer(), reward_funcs=reward, callbacks=callbacks,
    )  # fmt: skip
    generate = trainer._generate_single_turn

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return generate(*args, **kwargs)

    trainer._generate_single_turn = slowly
    return trainer


def train(way: str, callbacks: list[Any]) -> list[str]:
    trainer = globals()[way](callbacks)
    torch.manual_seed(1)
    trainer.train()
    assert "_generate" not in vars(trainer), "nothing of ours stays on the trainer"
    return [float(row["loss"]).hex() for row in trainer.state.log_history if "loss" in row]


if __name__ == "__main__":
    options = MonitorOptions(min_window_s=0.2)
    for way in sys.argv[2:]:
        carbon = CarbonCallback(site="FRA", run_dir=FOLDER / way, quiet=True, window_s=0.4, options=options)
        tell("LOSSES", [way, train(way, []), train(way, [carbon])])
