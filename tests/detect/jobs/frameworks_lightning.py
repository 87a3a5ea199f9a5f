"""One step of a tiny transformer under Lightning's strategies for several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from looking import Look
from tiny import LENGTH, VOCAB, Model, sharded
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = Model()

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy):
            self.net = wrapped(self.net, strategy)
            return
        mesh = self.device_mesh
        if mesh is None:
            return
        for block in self.net.blocks if mesh["tensor_parallel"].size() > 1 else ():
            parallelize_module(block, mesh["tensor_parallel"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        if mesh["data_parallel"].size() > 1:
            sharded(self.net, mesh["data_parallel"])

    def training_step(self, tokens: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(tokens).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class FSDPOnCPU(FSDPStrategy):
    """Lightning's strategy, which refuses devices other than GPUs by its exact class, with a barrier of gloo's."""

    def barrier(self, name: str | None = None) -> None:
        torch.distributed.barrier()


def wrapped(model: Model, strategy: FSDPStrategy) -> nn.Module:
    """Wrap a model by hand as Lightning documents it, because Lightning would ask for a GPU to use FSDP."""
    options = {"device_id": torch.device("cpu"), "sharding_strategy": strategy.sharding_strategy, **strategy.kwargs}
    for index, block in enumerate(model.blocks):
        model.blocks[index] = FullyShardedDataParallel(block, **options)
    return FullyShardedDataParallel(model, **options)


class Looking(lightning.Callback):
    """Looks as our callback does, after the first step."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.look = Look(pl_module, called=pl_module.net)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        model, optimizer = trainer.strategy.model or pl_module, trainer.optimizers[0]
        self.seen = self.look.take(optimizer, model=model, framework=trainer)


def fitted(strategy: Strategy) -> dict[str, Any]:
    looking = Looking()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=4,
        strategy=strategy,
        max_steps=1,
        accumulate_grad_batches=2,
        callbacks=[looking],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Module(), DataLoader(torch.randint(VOCAB, (4, LENGTH)), batch_size=2))
    return looking.seen


def jobs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "lightning_ddp", lambda: fitted(DDPStrategy())
    yield "lightning_fsdp2_tp", lambda: fitted(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2))
    yield "lightning_fsdp1", lambda: fitted(FSDPOnCPU())
    yield "lightning_fsdp1_grad_op", lambda: fitted(FSDPOnCPU(sharding_strategy="SHARD_GRAD_OP"))
    yield "lightning_tp", lambda: fitted(ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=4))
