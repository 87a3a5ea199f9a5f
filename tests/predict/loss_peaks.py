"""Print the bytes per logit that PyTorch allocates at the peak of an eager loss, whole and under loss parallelism.

Each is measured with the 16-bit logits held by the caller, as a model's outputs hold them, and let go before the
backward pass, as torchtitan does.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DeviceMesh, DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, VOCAB, HIDDEN = 256, 8192, 8


def peak_bytes_per_logit(mesh: DeviceMesh | None, *, holds_logits: bool) -> float:
    """Return the peak of what is allocated from the product of the head to the end of the backward pass."""
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(VOCAB, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, VOCAB, (TOKENS,))

    def step() -> None:
        logits = hidden @ head.T
        if mesh is not None:
            logits = DTensor.from_local(logits, mesh, [Shard(1)])
        loss = F.cross_entropy(logits.float(), labels)
        if not holds_logits:
            del logits
        loss.backward()

    return _peak_bytes(step) / (TOKENS * VOCAB)


def peak_bytes_without_cast(dtype: torch.dtype) -> float:
    """Return the peak of a loss over logits that nothing widens, as where a script hands 16-bit ones to PyTorch."""
    hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    head = torch.randn(VOCAB, HIDDEN, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, VOCAB, (TOKENS,))

    def step() -> None:
        logits = hidden @ head.T
        F.cross_entropy(logits, labels).backward()

    return _peak_bytes(step) / (TOKENS * VOCAB)


def peak_bytes_of_transformers() -> float:
    """Return the peak of a model of transformers that computes its own loss, whose outputs hold the logits."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=VOCAB)
    model = LlamaForCausalLM(config).to(torch.bfloat16).train()
    tokens = torch.randint(0, VOCAB, (1, TOKENS))

    def step() -> None:
        outputs = model(input_ids=tokens, labels=tokens, use_cache=False)
        outputs.loss.backward()

    return _peak_bytes(step) / (TOKENS * VOCAB)


def _peak_bytes(step: Callable[[], None]) -> int:
    with loss_parallel(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = peak = 0
    for _, size in changes:
        now += size
        peak = max(peak, now)
    return peak


if __name__ == "__main__":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    one_rank = DeviceMesh("cpu", [0])
    found = {
        f"{name}, {'held' if held else 'let go'}": peak_bytes_per_logit(mesh, holds_logits=held)
        for name, mesh in (("whole", None), ("split", one_rank))
        for held in (True, False)
    }
    found["whole over 16 bit, held"] = peak_bytes_without_cast(torch.bfloat16)
    found["whole over fp32, held"] = peak_bytes_without_cast(torch.float32)
    found["transformers"] = peak_bytes_of_transformers()
    print(json.dumps(found))
    dist.destroy_process_group()
