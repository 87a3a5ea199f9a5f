"""A tiny decoder that the layout jobs spread over four gloo ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

VOCAB, HIDDEN, FFN, LAYERS, HEADS, LENGTH = 128, 32, 64, 3, 4, 16
EXPERTS = 4


class Block(nn.Module):
    """Attention and feed-forward. `context` is the group over which keys and values of a split sequence are gathered;
    torch's own context-parallel attention has kernels for GPUs only."""

    context: dist.ProcessGroup | None = None

    def __init__(self) -> None:
        super().__init__()
        self.n_heads = HEADS
        self.norm = nn.LayerNorm(HIDDEN)
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.ffn_norm = nn.LayerNorm(HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, FFN), nn.Linear(FFN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        q, k, v = (p(y).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2) for p in (self.q, self.k, self.v))
        if self.context is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = (all_gather_tensor_autograd(t.contiguous(), 2, self.context) for t in (k, v))
            mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.ffn_norm(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class Experts(nn.Module):
    """Weights of all experts in one tensor each, expert first."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, FFN) / 8)
        self.down = nn.Parameter(torch.randn(EXPERTS, FFN, HIDDEN) / 8)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        up, down = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in (self.up, self.down))
        each = torch.einsum("bsef,efh->bseh", F.gelu(torch.einsum("bsh,ehf->bsef", x, up)), down)
        return torch.einsum("bseh,bse->bsh", each, weights[..., : up.shape[0]])


class SparseBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        del self.up, self.down
        self.top_k = 2
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = Experts()

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.router(x).softmax(-1)
        kept = scores.topk(self.top_k, dim=-1)
        return self.experts(x, torch.zeros_like(scores).scatter(-1, kept.indices, kept.values))


class Model(nn.Module):
    def __init__(self, block: type[Block] = Block) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).clone()


class Stage(nn.Module):
    """One of `number` stages of a model of four blocks: the first has the embedding, the last one the head."""

    def __init__(self, index: int, number: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN) if index == 0 else None
        self.blocks = nn.ModuleList(Block() for _ in range(max(2, 4 // number)))
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False) if index == number - 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(x)


def mesh(shape: tuple[int, ...], *names: str) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=names or None)


def sharded(model: nn.Module, over: DeviceMesh, **options: object) -> nn.Module:
    for block in model.blocks:
        fully_shard(block, mesh=over, **options)
    return fully_shard(model, mesh=over, **options)
