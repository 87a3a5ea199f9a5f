"""Trains the demo's transformer with FSDP2 on the shipped text. Start it with torchrun, as `demo.py` does.

An ordinary training script: a device mesh, sharded blocks, AdamW, evaluation, a checkpoint. What it would not have
without this project is the import of `watch`, the block that it opens, and the names of the phases.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from model import Transformer
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.plan.forecast import load_forecast
from carbon_plugin.spec.run import RunSpec

TEXT = Path(__file__).resolve().parents[1] / "text" / "harbour.txt"
HELD_OUT = 0.1
EVALUATION_BATCHES = 8


class Text:
    """Random windows of the text's bytes: the first nine tenths to train on, the last to evaluate."""

    def __init__(self, seq_len: int, batch: int, device: torch.device, rank: int) -> None:
        data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()
        cut = int(len(data) * (1 - HELD_OUT))
        self.parts = {"train": data[:cut].to(device), "evaluation": data[cut:].to(device)}
        self.seq_len, self.batch = seq_len, batch
        self.random = torch.Generator().manual_seed(1000 + rank)

    def draw(self, part: str) -> tuple[Tensor, Tensor]:
        """Return inputs and the bytes that follow them, both (batch, seq_len)."""
        data = self.parts[part]
        starts = torch.randint(len(data) - self.seq_len - 1, (self.batch,), generator=self.random)
        windows = torch.stack([data[start : start + self.seq_len + 1] for start in starts.tolist()])
        return windows[:, :-1], windows[:, 1:]


def build(spec: RunSpec, mesh: DeviceMesh, device: torch.device) -> Transformer:
    """Build the planned model. Each block, and then the rest, is sharded over the mesh."""
    torch.manual_seed(0)
    model = Transformer(spec.model, spec.training.seq_len).to(device)
    low = spec.training.precision == "bf16"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if low else None
    options = {"mesh": mesh} | ({"mp_policy": policy} if policy else {})
    for layer in model.layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


def loss_of(model: Transformer, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def evaluate(model: Transformer, text: Text) -> float:
    """Return the mean loss on held-out text over all ranks, in nats a byte."""
    model.eval()
    losses = torch.stack([loss_of(model, text.draw("evaluation")) for _ in range(EVALUATION_BATCHES)])
    model.train()
    mean = losses.mean()
    dist.all_reduce(mean)
    return mean.item() / dist.get_world_size()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--forecast", type=Path, required=True, help="what `carbon-plugin plan -o` wrote")
    arguments.add_argument("--run-dir", type=Path, required=True, help="where ledger and checkpoint go")
    options = arguments.parse_args()

    spec = load_forecast(options.forecast).spec
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(kind, (spec.layout.dp_shard,), mesh_dim_names=("dp_shard",))
    main_rank = mesh.get_rank() == 0

    model = build(spec, mesh, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    text = Text(spec.training.seq_len, spec.layout.micro_batch_size, device, mesh.get_rank())
    steps = spec.training.total_steps

    with watch(model, optimizer, planned=options.forecast, run_dir=options.run_dir) as carbon:
        for step in range(1, steps + 1):
            loss = loss_of(model, text.draw("train"))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if main_rank and (step == 1 or step % 10 == 0):
                print(f"step {step:4d}/{steps}  loss {loss.item():.3f}", flush=True)
            if step in (3 * steps // 4, steps):
                with carbon.phase("evaluation"):
                    held_out = evaluate(model, text)
                if main_rank:
                    print(f"step {step:4d}/{steps}  held-out loss {held_out:.3f}", flush=True)
        with carbon.phase("checkpoint"):
            checkpoint.save(model.state_dict(), checkpoint_id=options.run_dir / "checkpoint")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
