"""Steps that a script says: the only ones where no optimizer is handed over, and else those that its hook sees."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carbon_plugin import watch, watch_training
from carbon_plugin.ledger.records import Window
from carbon_plugin.monitor.loops.loop import NO_OPTIMIZER
from tests.ledgers import ledger_of


@pytest.mark.parametrize(
    ("optimized", "quiet", "told"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_loop_without_an_optimizer_is_told_that_it_must_call_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, optimized: bool, quiet: bool, told: bool
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimized else None

    with (
        caplog.at_level(logging.INFO, logger="carbon_plugin"),
        watch(model, optimizer, run_dir=tmp_path / "run", quiet=quiet),
    ):
        pass

    assert any(NO_OPTIMIZER in record.getMessage() for record in caplog.records) is told


Loop = Callable[[torch.optim.Optimizer, Callable[[int], None]], None]


def said_after(optimizer: torch.optim.Optimizer, say: Callable[[int], None]) -> None:
    for number in range(8):
        optimizer.step()
        say(100 + number)


def said_before(optimizer: torch.optim.Optimizer, say: Callable[[int], None]) -> None:
    for number in range(8):
        say(100 + number)
        optimizer.step()


def replayed(optimizer: torch.optim.Optimizer, say: Callable[[int], None]) -> None:
    for number in range(8):
        if number < 3:  # the others are replays of a graph, which call no hook
            optimizer.step()
        say(100 + number)


@pytest.mark.parametrize("loop", [said_after, said_before, replayed])
@pytest.mark.parametrize("handed_over", [True, False], ids=["handed over", "found by a hook of all optimizers"])
def test_a_step_that_is_said_and_seen_is_one_step_with_the_tokens_that_were_said(
    tmp_path: Path, loop: Loop, handed_over: bool
) -> None:
    @watch_training(run_dir=tmp_path / "run", quiet=True)
    def train(number: int, carbon=None) -> None:
        model = torch.nn.Linear(2, 2)
        loop(torch.optim.SGD(model.parameters(), lr=0.1), carbon.step)

    if handed_over:
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, run_dir=tmp_path / "run", quiet=True) as carbon:
            loop(optimizer, carbon.step)
    else:
        train(0)

    windows = [record for record in ledger_of(tmp_path / "run").records if isinstance(record, Window)]
    assert sum(window.steps for window in windows) == 8
    assert sum(window.tokens for window in windows) == sum(range(100, 108))
