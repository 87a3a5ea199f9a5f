"""A script that makes its optimizer anew, or leaves a training behind: what is counted, and what is kept alive."""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.detect.primary import TAKE_OVER
from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, Event

STEPS = 5


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    for _ in range(steps):
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))


def closes(run_dir: Path) -> list[tuple[str, int]]:
    records = [record for file in read_run(run_dir).files for record in file.records]
    return [(record.reason, record.steps) for record in records if isinstance(record, Close)]


def said(run_dir: Path) -> list[str]:
    records = [record for file in read_run(run_dir).files for record in file.records]
    return [record.message for record in records if isinstance(record, Event) and record.kind == "optimizer"]


def in_stages(model: nn.Sequential) -> None:
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-4))


def anew(model: nn.Sequential) -> None:
    for _ in range(2):
        train(model, torch.optim.SGD(model.parameters(), lr=1e-3))


@pytest.mark.parametrize(("then", "steps"), [(in_stages, 2 * STEPS), (anew, 3 * STEPS)])
def test_steps_of_an_optimizer_that_takes_the_place_of_the_first_one_count(then, steps, tmp_path):
    model = net()
    optimizer: Any = torch.optim.SGD(model[1].parameters(), lr=1e-3)
    with watch(model, optimizer, run_dir=tmp_path, site="FRA", quiet=True):
        train(model, optimizer)
        optimizer = None
        then(model)

    assert closes(tmp_path) == [("closed", steps)]
    assert said(tmp_path)[0].startswith("SGD, which was handed over, is gone")


def test_optimizer_of_another_model_takes_no_place(tmp_path):
    model, other = net(), net()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watch(model, optimizer, run_dir=tmp_path, site="FRA", quiet=True):
        train(model, optimizer)
        optimizer = None
        train(other, torch.optim.SGD(other.parameters(), lr=1e-3))

    assert closes(tmp_path) == [("closed", STEPS)]


def test_optimizer_that_was_handed_over_counts_while_it_lives_and_the_user_is_told_once(tmp_path, caplog):
    model = net()
    outer, inner = (torch.optim.SGD(model.parameters(), lr=1e-3) for _ in range(2))
    with watch(model, outer, run_dir=tmp_path, site="FRA", quiet=True):
        train(model, outer)
        train(model, inner, 3 * TAKE_OVER)
        train(model, outer)

    assert closes(tmp_path) == [("closed", 2 * STEPS)]
    assert len(said(tmp_path)) == 1
    assert [record.message for record in caplog.records] == [f"carbon_plugin: {said(tmp_path)[0]}"]


def left_behind(run_dir: Path) -> weakref.ref[nn.Module]:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch(model, optimizer, run_dir=run_dir, site="FRA", quiet=True)
    train(model, optimizer)
    with contextlib.suppress(RuntimeError):
        raise RuntimeError("the user's own")
    return weakref.ref(model)


def test_a_training_that_was_left_is_kept_alive_by_nobody_and_ends_when_another_begins(tmp_path):
    model = left_behind(tmp_path / "first")
    gc.collect()
    assert model() is None

    after = net()
    optimizer = torch.optim.AdamW(after.parameters())
    with watch(after, optimizer, run_dir=tmp_path / "second", site="FRA", quiet=True):
        assert closes(tmp_path / "first") == [("its model and its optimizer are gone", STEPS)]
        train(after, optimizer)

    assert closes(tmp_path / "second") == [("closed", STEPS)]
