"""Trains a small Llama with torchtitan's own Trainer and FSDP2 in two processes, bare and then under measurement:
`torchtitan_trainer.py NAME RUN_DIR ["raise"]`.

torchtitan trains on GPUs and asks for a newer torch. What its trainer cannot do on CPUs is replaced below, and nothing
that the adapter touches: the device's memory figures, kernels of Triton, and a timeout of process groups.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from loops import ACCUMULATED, ARGUMENTS, FOLDER, STEP_S, STEPS, end, traces_noted
from torch.distributed.fsdp import FSDPModule

VOCAB, LENGTH, BATCH = 2048, 16, 2


class Kernels(ModuleType):
    """Kernels of Triton, none of which is called: they exchange tokens of experts between GPUs."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


sys.modules["torchtitan.distributed.minimal_async_ep.kernels"] = Kernels("kernels")
from torchtitan.tools import utils  # noqa: E402

utils.device_type = "cpu"
utils.device_module = SimpleNamespace(
    set_device=lambda device: None,
    device_count=lambda: int(os.environ["LOCAL_WORLD_SIZE"]),
    current_device=lambda: 0,
    get_device_name=lambda device: "CPU",
    get_device_properties=lambda device: SimpleNamespace(total_memory=2**30),
    memory_stats=lambda device: {},
    reset_peak_memory_stats=lambda: None,
    empty_cache=lambda: None,
    synchronize=lambda: None,
)
from torchtitan.components.dataloader import BaseDataLoader  # noqa: E402
from torchtitan.components.metrics import BaseLogger  # noqa: E402
from torchtitan.components.tokenizer import BaseTokenizer  # noqa: E402
from torchtitan.components.validate import Validator  # noqa: E402
from torchtitan.models.common.attention import ScaledDotProductAttention  # noqa: E402
from torchtitan.models.llama3.config_registry import llama3_debugmodel  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

from carbon_plugin.integrations.torchtitan import watch  # noqa: E402


class Numbers(BaseDataLoader):
    @dataclasses.dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        infinite: bool = True

    def __init__(self, config: Config, *, dp_rank: int, **_: Any) -> None:
        self._dice = torch.Generator().manual_seed(dp_rank)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        while True:
            tokens = torch.randint(VOCAB, (BATCH, LENGTH), generator=self._dice)
            time.sleep(STEP_S / ACCUMULATED if MEASURED else 0)
            yield {"input": tokens}, tokens

    def state_dict(self) -> dict[str, Any]:
        return {"dice": self._dice.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._dice.set_state(state_dict["dice"])


class NoTokenizer(BaseTokenizer):
    @dataclasses.dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, **_: Any) -> None:
        super().__init__()

    def encode(self, *_: Any, **__: Any) -> list[int]:
        return []

    def decode(self, *_: Any, **__: Any) -> str:
        return ""

    def get_vocab_size(self) -> int:
        return VOCAB


class Rows(BaseLogger):
    """A logger of torchtitan that keeps the losses and the names of what it is given."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.names: list[str] = []

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.names.extend(metrics)
        self.losses += [value for name, value in metrics.items() if name == "loss_metrics/global_avg_loss"]


def trainer_of(folder: str, steps: int) -> tuple[Trainer, Rows]:
    config = llama3_debugmodel()
    model = config.model_spec.model
    model.layers = model.layers[:2]
    for layer in model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()  # flex attention is compiled
    config.training = dataclasses.replace(
        config.training,
        local_batch_size=BATCH,
        global_batch_size=2 * BATCH * ACCUMULATED,
        seq_len=LENGTH,
        steps=steps,
        disable_cuda_graphs=True,
    )
    config.parallelism = dataclasses.replace(config.parallelism, spmd_backend="partial_dtensor")
    config.checkpoint = dataclasses.replace(config.checkpoint, enable=True, interval=STEPS)
    config.validator = Validator.Config(enable=True, freq=STEPS // 2, steps=2, dataloader=Numbers.Config())
    config.dataloader, config.tokenizer = Numbers.Config(), NoTokenizer.Config()
    config.activation_checkpoint, config.dump_folder = None, str(FOLDER / folder)
    trainer, rows = config.build(), Rows()
    trainer.metrics_processor.logger = rows
    for module in trainer.model_parts[0].modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # Gloo cannot scale what it adds up
    return trainer, rows


def begin() -> None:
    dist.init_process_group("gloo")
    dist.set_timeout = lambda timeout, group: None  # type: ignore[attr-defined]  # of a later torch


def main() -> None:
    global MEASURED
    begin()
    losses = []
    for MEASURED in (False, True):
        trainer, rows = trainer_of(f"out-{MEASURED}", STEPS)
        carbon: Any = watch(trainer, **ARGUMENTS) if MEASURED else nullcontext()
        with traces_noted(trainer=trainer), carbon:
            trainer.train()
        trainer.close()
        losses.append(rows.losses)
    trainer, _ = trainer_of(f"out-{MEASURED}", STEPS + 2)  # goes on from the checkpoint
    with watch(trainer, **ARGUMENTS) as carbon:
        trainer.train()
        end(carbon, rows.names, losses)


MEASURED = False

if __name__ == "__main__":
    main()
