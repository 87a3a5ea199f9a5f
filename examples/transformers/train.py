"""A small Llama from scratch with the Hugging Face Trainer: what changes is one callback.

    pip install "carbon-plugin[transformers]"
    python examples/transformers/train.py --steps 100
    torchrun --nproc-per-node 2 examples/transformers/train.py --steps 100

The `carbon/*` figures are in every row that the trainer logs; the last ones are printed. The report comes from
`carbon-plugin audit runs/transformers`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from carbon_plugin.integrations.transformers import CarbonCallback

TEXT = Path(__file__).resolve().parents[1] / "text" / "harbour.txt"
SEQ_LEN = 128
SHAPE = LlamaConfig(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=SEQ_LEN,
)


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Overlapping windows of the bytes of a text."""

    def __init__(self) -> None:
        self.data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()

    def __len__(self) -> int:
        return (len(self.data) - SEQ_LEN) // 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.data[32 * index : 32 * index + SEQ_LEN]
        return {"input_ids": window, "labels": window}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--run-dir", type=Path, default=Path("runs/transformers"))
    options = arguments.parse_args()

    carbon = CarbonCallback(site="FRA", run_dir=options.run_dir)
    trainer = Trainer(
        model=LlamaForCausalLM(SHAPE),
        args=TrainingArguments(
            output_dir=str(options.run_dir / "checkpoints"),
            max_steps=options.steps,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=Windows(),
        callbacks=[carbon],
    )
    trainer.train()

    for name, value in carbon.monitor.metrics().items():
        print(f"{name:36} {value:.4g}")


if __name__ == "__main__":
    main()
