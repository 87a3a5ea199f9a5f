"""Fine-tunes a tiny Llama on texts of different lengths with TRL: `sft.py FOLDER`; prints TRL's number of tokens."""

from __future__ import annotations

import random
import sys
from typing import Any

from datasets import Dataset
from telling import tell
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from carbon_plugin.integrations.transformers import CarbonCallback

WORDS = 60


def parts(folder: str) -> dict[str, Any]:
    """Return what the trainer is made of."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{number}": number + 3 for number in range(WORDS)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(WORDS)}" for _ in range(chance.randint(5, 60))) for _ in range(64)]
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    arguments = SFTConfig(
        output_dir=f"{folder}/out",
        use_cpu=True,
        bf16=False,
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    return {
        "model": LlamaForCausalLM(config),
        "args": arguments,
        "train_dataset": Dataset.from_list([{"text": text} for text in texts]),
        "processing_class": tokenizer,
    }


def main(folder: str) -> None:
    trainer = SFTTrainer(**parts(folder), callbacks=[CarbonCallback(site="FRA", run_dir=f"{folder}/run")])
    trainer.train()
    tell("TOKENS", [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row][-1])


if __name__ == "__main__":
    main(sys.argv[1])
