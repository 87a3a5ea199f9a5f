"""The demo's model under Lightning: what changes is one callback. Needs `pip install lightning`.

    python examples/demo/lightning_train.py --steps 100

The `carbon/*` metrics go to the trainer's logger as the run goes on; the last ones are printed. The report comes from
`carbon-plugin audit runs/lightning`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from model import Transformer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carbon_plugin.integrations.lightning import CarbonCallback
from carbon_plugin.spec.models.model import TransformerModel

TEXT = Path(__file__).resolve().parents[1] / "text" / "harbour.txt"
SEQ_LEN = 256
SHAPE = TransformerModel(
    name="demo-1m", layers=2, hidden=192, heads=4, kv_heads=4, head_dim=48, ffn=512, vocab=256
)  # fmt: skip


class Windows(Dataset[Tensor]):
    """Overlapping windows of the text, each with the byte that follows it."""

    def __init__(self) -> None:
        self.data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()

    def __len__(self) -> int:
        return (len(self.data) - 1) // 32 - SEQ_LEN // 32

    def __getitem__(self, index: int) -> Tensor:
        return self.data[32 * index : 32 * index + SEQ_LEN + 1]


class ByteModel(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Transformer(SHAPE, SEQ_LEN)

    def training_step(self, windows: Tensor, index: int) -> Tensor:
        logits = self.model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--run-dir", type=Path, default=Path("runs/lightning"))
    options = arguments.parse_args()

    carbon = CarbonCallback(site="FRA", run_dir=options.run_dir)
    trainer = lightning.Trainer(
        max_steps=options.steps,
        logger=CSVLogger(options.run_dir, name="metrics"),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[carbon],
    )
    trainer.fit(ByteModel(), DataLoader(Windows(), batch_size=8, shuffle=True))

    for name, value in carbon.monitor.metrics().items():
        print(f"{name:36} {value:.4g}")


if __name__ == "__main__":
    main()
