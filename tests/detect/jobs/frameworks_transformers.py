"""One step of a tiny Llama that transformers spreads over its meshes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from looking import look, one_step
from tiny import FFN, HEADS, HIDDEN, LAYERS, LENGTH, VOCAB
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.distributed import DistributedConfig

LLAMA = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=FFN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    max_position_embeddings=LENGTH,
    tie_word_embeddings=False,
)


def loaded(**sizes: int) -> dict[str, Any]:
    """Return a Llama that `from_pretrained` shards. All ranks load it from one folder."""
    folder = f"{sys.argv[1]}.llama"
    if dist.get_rank() == 0 and not Path(folder).exists():
        torch.manual_seed(0)
        LlamaForCausalLM(LLAMA).save_pretrained(folder)
    dist.barrier()
    model = LlamaForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(**sizes))
    return look(model.train(), one_step(model))


def jobs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "transformers_tp", lambda: loaded(tp_size=4)
    yield "transformers_fsdp_tp", lambda: loaded(fsdp_size=2, tp_size=2)
