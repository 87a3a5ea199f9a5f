"""Activation checkpointing: by what runs again in a real backward pass, else by what asks for it."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed._composable import checkpoint as composable_checkpoint
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.readers.recompute import read
from carbon_plugin.spec.layout import SHARED_OUT

MATMULS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
keep_matmuls = functools.partial(create_selective_checkpoint_contexts, MATMULS)


class Block(nn.Module):
    def __init__(self, attention: Callable[..., torch.Tensor] | None) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.around = attention

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.norm(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + (self.around(self.attention, x) if self.around else self.attention(x))
        return x + self.down(self.up(x).relu())


class Model(nn.Module):
    """Four blocks; `around` calls every `every`-th of them, `attention` the first half of each."""

    def __init__(self, around=None, every: int = 1, attention=None, blocks=None) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(blocks(Block(attention)) if blocks else Block(attention) for _ in range(4))
        self.around, self.every = around, every

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        for number, block in enumerate(self.blocks):
            x = self.around(block, x) if self.around and number % self.every == 0 else block(x)
        return x


def recomputing(**options: object) -> Callable[..., torch.Tensor]:
    return functools.partial(checkpoint, use_reentrant=False, **options)


def composed(block: nn.Module) -> nn.Module:
    return composable_checkpoint(block)


def seen(model: nn.Module) -> Findings:
    watch = BatchWatch(model)
    model(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    watch.remove()
    return read(Job(model=model, world_size=1, batch=watch))


def values(reading: Findings) -> dict[str, object]:
    return {name: value.value for name, value in reading.fields.items()}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (Model(), "none"),
        (Model(around=recomputing()), "full"),
        (Model(blocks=checkpoint_wrapper), "full"),
        (Model(blocks=composed), "full"),
        (Model(attention=recomputing()), "selective"),
        (Model(around=recomputing(context_fn=keep_matmuls)), "operators"),
    ],
    ids=["none", "function", "wrapper", "composable", "attention only", "policy"],
)
def test_what_runs_again_in_the_backward_pass_is_what_counts(model, kind):
    reading = seen(model)

    whole = {"layout.recompute_share": 1.0} if kind in SHARED_OUT else {}
    assert values(reading) == {"layout.recompute": kind} | whole
    assert reading.problems == ()


def test_reentrant_recomputation_is_told_by_its_forward_pass_without_gradients():
    model = Model(around=functools.partial(checkpoint, use_reentrant=True))

    assert values(seen(model)) == {
        "layout.recompute": "full",
        "layout.recompute_share": 1.0,
        "layout.recompute_reentrant": True,
    }


@pytest.mark.parametrize(("policy", "kind"), [({}, "full"), ({"context_fn": keep_matmuls}, "operators")])
def test_every_second_block_is_seen_as_half_of_them(policy, kind):
    reading = seen(Model(around=recomputing(**policy), every=2))

    assert "modules of 2 of 4 blocks" in reading.fields["layout.recompute"].source
    assert values(reading) == {"layout.recompute": kind, "layout.recompute_share": 0.5}
    assert reading.problems == ()


def test_blocks_that_recompute_in_different_ways_are_said_to_be_predicted_as_one():
    model = Model(around=recomputing(), every=2)
    model.blocks[1].around = recomputing()
    reading = seen(model)

    assert values(reading) == {"layout.recompute": "full", "layout.recompute_share": 0.75}
    assert reading.problems == (("recompute", "only 2 of 3 blocks that recompute do so by full; predicted as all"),)


def test_part_of_some_blocks_is_said_to_be_predicted_as_part_of_all():
    model = Model()
    for block in model.blocks[:2]:
        block.around = recomputing()

    assert seen(model).problems == (("recompute", "only 2 of 4 blocks recompute (selective); predicted as all"),)


def test_evaluation_is_no_recomputation():
    model = Model()
    watch = BatchWatch(model)
    model(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    with torch.no_grad():
        model.eval()(torch.zeros(2, 3, dtype=torch.long))
    watch.remove()

    assert values(read(Job(model=model, world_size=1, batch=watch))) == {"layout.recompute": "none"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_of_a_watched_model_is_not_watched(copied):
    model = Model()
    watch = BatchWatch(model)

    copied(model)(torch.zeros(2, 3, dtype=torch.long)).sum().backward()

    assert watch.calls == 0
    assert watch.recompute.reading() is None


def test_compiled_model_is_not_watched_but_asked():
    flagged = nn.Sequential(nn.Linear(2, 2))
    flagged[0].gradient_checkpointing = True
    some = Model()
    some.blocks = nn.ModuleList(checkpoint_wrapper(b) if i < 2 else b for i, b in enumerate(some.blocks))
    compiled = torch.compile(some)
    watch = BatchWatch(compiled)

    reading = read(Job(model=compiled, world_size=1, batch=watch))

    assert reading.fields["layout.recompute"].source == "CheckpointWrapper on 2 modules"
    assert reading.fields["layout.recompute_share"].value == 0.5
    assert reading.problems == ()
    assert values(read(Job(model=flagged, world_size=1))) == {"layout.recompute": "full", "layout.recompute_share": 1.0}
    assert read(Job(model=nn.Linear(2, 2), world_size=1)) is None
