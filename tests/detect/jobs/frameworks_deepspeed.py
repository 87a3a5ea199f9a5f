"""One step of a tiny transformer under every ZeRO stage, offload, ZeRO++, Ulysses, AutoTP, an mpu, and a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule
from deepspeed.runtime.zero.partition_parameters import CUDAQuantizer
from deepspeed.utils import groups
from looking import look
from tiny import HIDDEN, LENGTH, VOCAB, Block, Model
from torch import nn
from torch.nn import functional as F

ACCUMULATED, MICRO_BATCH = 2, 2


class TensorRanks:
    """An mpu as Megatron's of old: pairs of ranks split tensors, here without doing so."""

    def __init__(self) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
        copies = [dist.new_group(list(range(first, world, 2))) for first in range(2)]
        self._model, self._data, self._rank = pairs[rank // 2], copies[rank % 2], rank

    def get_model_parallel_group(self) -> Any:
        return self._model

    def get_model_parallel_rank(self) -> int:
        return self._rank % 2

    def get_model_parallel_world_size(self) -> int:
        return 2

    def get_data_parallel_group(self) -> Any:
        return self._data

    def get_data_parallel_rank(self) -> int:
        return self._rank // 2

    def get_data_parallel_world_size(self) -> int:
        return self._data.size()


def config(stage: int, **zero: Any) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "gradient_accumulation_steps": ACCUMULATED,
        "zero_optimization": {"stage": stage, **zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": stage > 0},
        "steps_per_print": 10**9,
    }


def engine_of(settings: dict[str, Any], **options: Any) -> Any:
    model = options.pop("model", None) or Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings, **options)[0]


def step(settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    engine = engine_of(settings, **options)

    def train() -> Any:
        for _ in range(ACCUMULATED):
            engine.backward(engine(torch.randint(VOCAB, (MICRO_BATCH, LENGTH))).float().sum())
            engine.step()
        return engine.optimizer

    return look(engine, train)


def pipelined(*, bf16: bool = False) -> dict[str, Any]:
    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    layers = [nn.Embedding(VOCAB, HIDDEN), *(Block() for _ in range(4)), nn.Linear(HIDDEN, VOCAB)]
    module = PipelineModule(layers=layers, num_stages=2, loss_fn=loss, partition_method="uniform")
    engine = engine_of(config(0) | {"bf16": {"enabled": bf16}}, model=module)
    batch = (torch.randint(VOCAB, (MICRO_BATCH, LENGTH)),) * 2

    def train() -> Any:
        engine.train_batch(iter([batch] * ACCUMULATED))
        return engine.optimizer

    return look(engine, train)


def built(settings: dict[str, Any]) -> dict[str, Any]:
    """Return an engine that takes no step, because the kernels that quantise run on GPUs only."""
    CUDAQuantizer.quantizer_cuda_module = object()  # else it is built, which needs a GPU
    engine = engine_of(settings)
    return look(engine, lambda: engine.optimizer)


def ulysses() -> dict[str, Any]:
    found = step(config(1), mesh_param=(2, 2))  # ranks of data, and ranks of one sequence
    groups.mesh_device = None
    return found


def split_by_deepspeed() -> dict[str, Any]:
    """Return a model of transformers whose linear layers AutoTP splits between two ranks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **shape))
    model = deepspeed.tp_model_init(plain, tp_size=2, dtype=torch.bfloat16)
    engine = engine_of(config(1) | {"tensor_parallel": {"autotp_size": 2}}, model=model)
    tokens = torch.randint(VOCAB, (MICRO_BATCH, LENGTH))

    def train() -> Any:
        for _ in range(ACCUMULATED):
            engine.backward(engine(input_ids=tokens, labels=tokens).loss)
            engine.step()
        return engine.optimizer

    train()  # DeepSpeed takes a hook of its own away in the first step
    return look(engine, train)


def jobs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    # Its collectives through shared memory would be compiled here, for a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    for stage in range(4):
        yield f"deepspeed_zero{stage}", lambda stage=stage: step(config(stage))
    yield (
        "deepspeed_offload",
        lambda: step(config(3, offload_optimizer={"device": "cpu"}, offload_param={"device": "cpu"})),
    )
    yield "deepspeed_hpz", lambda: step(config(3, zero_hpz_partition_size=2))
    yield "deepspeed_quantised", lambda: built(config(3, zero_quantized_gradients=True, zero_quantized_weights=True))
    yield "deepspeed_ulysses", ulysses
    yield "deepspeed_pipeline", pipelined  # the grid of its ranks stays that of the process
    yield "deepspeed_pipeline_in_bf16", lambda: pipelined(bf16=True)
    yield "deepspeed_mpu", lambda: step(config(1), mpu=TensorRanks())
    yield "deepspeed_auto_tp", split_by_deepspeed
