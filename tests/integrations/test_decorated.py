"""`@watch_training` above functions and methods of all kinds, in this process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin import watch_training
from carbon_plugin.errors import SpecError, WatchError
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close

STEPS = 3


def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.ones(2, 2)).sum().backward()
        optimizer.step()
    return STEPS


def closed(run_dir: Path) -> tuple[list[tuple[str, int]], int | None]:
    """Return how each attempt was closed, and the parameters of the model that the last one saw."""
    files = read_run(run_dir).files
    seen = manifest_of(files[-1].records).effective["model.parameters"]["value"]
    return [(r.reason, r.steps) for file in files for r in file.records if isinstance(r, Close)], seen


class Trainer:
    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


def test_model_and_optimizer_are_found_among_arguments_in_lists_and_on_self(tmp_path):
    watched = watch_training(site="FRA", run_dir=tmp_path / "run", quiet=True)

    class Own(Trainer):
        fit = watched(lambda self: steps(self.model, self.optimizer))

    teacher, pair = nn.Linear(7, 7), Trainer()
    fit_pairs = watched(lambda teacher, pairs: steps(*pairs))
    fit_keywords = watched(lambda *, model, optimizer: steps(model, optimizer))

    assert Own().fit() == fit_pairs(teacher, [pair.model, pair.optimizer]) == STEPS
    assert fit_keywords(model=pair.model, optimizer=pair.optimizer) == STEPS
    assert closed(tmp_path / "run") == ([("closed", STEPS)] * 3, 6)  # the teacher is not trained


def test_a_function_that_makes_its_model_is_measured_without_it(tmp_path):
    @watch_training(site="FRA", run_dir=tmp_path / "run", quiet=True)
    def train() -> int:
        trainer = Trainer()
        return steps(trainer.model, trainer.optimizer)

    assert train() == STEPS
    assert closed(tmp_path / "run") == ([("closed", STEPS)], None)
    assert not sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks


def test_exception_of_the_function_passes_and_ends_the_record_with_its_name(tmp_path):
    @watch_training(site="FRA", run_dir=tmp_path / "run", quiet=True)
    def train(pair: Trainer, carbon: Any = None) -> None:
        with carbon.phase("evaluation"):
            raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        train(Trainer())
    assert [reason for reason, _ in closed(tmp_path / "run")[0]] == ["exception: KeyError"]


def test_decorator_without_arguments_keeps_name_and_signature():
    @watch_training
    def train(model: nn.Module) -> None:
        """Docstring of the user."""

    assert (train.__name__, train.__doc__) == ("train", "Docstring of the user.")


async def waits() -> None:
    await asyncio.sleep(0)


def yields() -> Any:
    yield 1


@pytest.mark.parametrize("wrong", [waits, yields, Trainer, 3])
def test_what_does_not_train_while_it_is_called_is_refused_at_once(wrong):
    with pytest.raises(WatchError, match="watch_training decorates a function"):
        watch_training()(wrong)


def test_a_wrong_argument_raises_at_the_call_before_the_function_runs():
    @watch_training(total_steps=0)
    def train() -> None:
        raise AssertionError("it ran")

    with pytest.raises(SpecError, match="total_steps is 0"):
        train()
    assert not sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks
