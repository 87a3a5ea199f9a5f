"""Blocks that are no plain stack: run several times, at several lengths, or on more tokens than a batch shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.observed import DetectedModel
from carbon_plugin.detect.readers import recompute
from carbon_plugin.detect.shape.counting import count_forward

WIDTH, TOKENS, BATCH = 32, 16, 2


class Block(nn.Module):
    """A block of linear layers in place of attention, so that its FLOPs on any device are those of its matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.num_heads = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.o(self.q(y) + self.k(y) + self.v(y))
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Decoder(nn.Module):
    """A stack of four blocks that each token passes once."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(WIDTH, 64, bias=False)

    def through(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.through(self.table(ids)))


class Checkpointed(Decoder):
    """The same, whose blocks run again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def through(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Looped(Decoder):
    """A universal transformer, whose tokens pass the stack three times."""

    def through(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = super().through(x)
        return x


class Hourglass(Decoder):
    """Its inner blocks work on a quarter of the sequence."""

    def through(self, x: torch.Tensor) -> torch.Tensor:
        first, *inner, last = self.blocks
        x = first(x)
        short = x.view(BATCH, -1, 4, WIDTH).mean(2)
        for block in inner:
            short = block(short)
        return last(x + short.repeat_interleave(4, 1))


class Prefixed(Decoder):
    """Many learned tokens, as those of an image, stand before the text."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.zeros(1, 3 * TOKENS, WIDTH))

    def through(self, x: torch.Tensor) -> torch.Tensor:
        return super().through(torch.cat([self.prefix.expand(BATCH, -1, -1), x], 1))


def seen(model: nn.Module, *, calls: int = 1, before: int = 0) -> tuple[DetectedModel, float]:
    """Return what a look after a step shows of the model, and the FLOPs of one forward pass of a sequence."""
    first = FirstStep(model)
    ids = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    for _ in range(before):  # a pass that no gradient follows, as over old probabilities in reinforcement learning
        with torch.no_grad():
            model(ids)
    for _ in range(calls):
        with FlopCounterMode(display=False) as counted:
            loss = model(ids).sum()
        loss.backward()
    detected, _ = first.look(model, world_size=1)
    assert detected.model is not None
    return detected.model, counted.get_total_flops() / BATCH


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    "make",
    [Decoder, lambda: Checkpointed(reentrant=False), lambda: Checkpointed(reentrant=True)],
    ids=["plain", "recomputed", "recomputed reentrantly"],
)
def test_a_plain_stack_is_believed_however_often_it_is_called_and_run_again(make, calls: int, before: int) -> None:
    model, _ = seen(make(), calls=calls, before=before)

    assert model.counted is None
    assert model.fields["layers"] == 4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Looped, "its blocks are run 3 times in each call"),
        (Hourglass, "its blocks work on sequences of different lengths, 8 to 32 tokens of a batch"),
        (Prefixed, "its blocks work on 128 tokens of a batch in which 32 are seen"),
    ],
)
@pytest.mark.parametrize("calls", [1, 3])
def test_blocks_that_are_no_plain_stack_are_counted_as_they_run(make, reason: str, calls: int) -> None:
    model, flops = seen(make(), calls=calls)

    assert model.counted is not None
    assert model.counted.forward_flops_per_sample == pytest.approx(flops)
    assert model.fields == {}
    assert reason in model.source


def test_a_module_that_is_called_with_a_view_of_a_parameter_is_counted() -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latent, self.layer = nn.Parameter(torch.zeros(1, 8, WIDTH)), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.latent.expand(BATCH, -1, -1)) @ x

    x = torch.zeros(WIDTH, 1, device="meta")
    counts = count_forward(Latent(), lambda module: module(x), float("inf"))

    assert counts.flops == BATCH * (2 * 8 * WIDTH * WIDTH + 2 * 8 * WIDTH)
    assert counts.saved_bytes is not None


def test_no_error_of_the_watch_reaches_a_call_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_torch() -> bool:
        raise AttributeError("this release of torch has no such function")

    monkeypatch.setattr(recompute, "_in_backward_pass", other_torch)
    model, _ = seen(Decoder())

    assert model.fields["layers"] == 4
