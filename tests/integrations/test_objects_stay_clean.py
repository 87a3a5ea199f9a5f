"""Between `watch` and the first step whatever copies, saves, quantises or exports a model has nothing of ours."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from carbon_plugin.detect.hooks import Hooks
from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.monitor.loops.methods import Methods

JOB = Path(__file__).parent / "jobs" / "clean.py"
PIECES = {
    "pickle", "deepcopy", "average", "save", "parts", "optimizer", "qat", "dynamic", "sharded", "export",
    "export.strict", "export.watched",
}  # fmt: skip


@pytest.fixture(scope="module")
def said(launcher, tmp_path_factory) -> tuple[str, str]:
    """Return what the process that saved printed, and what the process that loaded printed."""
    folder = tmp_path_factory.mktemp("clean")
    saved, loaded = (
        launcher.run(JOB, what, folder, env={**os.environ, "TMPDIR": str(folder)}) for what in ("save", "load")
    )
    assert (saved.returncode, loaded.returncode) == (0, 0), saved.stderr + loaded.stderr
    return saved.stdout, loaded.stdout


def test_what_was_made_of_a_watched_model_loads_where_this_package_is_missing(said):
    assert {line.removeprefix("loaded ") for line in said[1].splitlines()} == PIECES


def test_watched_model_carries_no_hook_and_no_attribute_and_is_watched_all_the_same(said):
    assert "hooks [] set()" in said[0]
    assert "watched True steps 2" in said[0]


def test_nothing_is_left_after_the_first_step(said):
    assert "left False False" in said[0]


def test_copy_of_what_watch_returned_measures_nothing_and_can_be_called(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, run_dir=tmp_path / "run", quiet=True) as carbon:
        for other in (copy.deepcopy(carbon), pickle.loads(pickle.dumps(carbon))):
            with other, other.phase("evaluation"):
                other.step()
            assert not other.monitor.active
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

        assert carbon.monitor.active
        assert carbon.monitor.step == 1


class Mine(nn.Linear):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x) + 1


def test_call_of_the_users_own_class_is_called_and_given_back():
    own, hooks, seen = Mine.__call__, Hooks(), []
    model = Mine(2, 2)
    expected = model(torch.ones(1, 2))
    hooks.put(model, lambda *call: seen.append(call))

    assert torch.equal(model(torch.ones(1, 2)), expected)
    Mine(2, 2)(torch.ones(1, 2))
    hooks.remove()

    assert [module for module, _, _ in seen] == [model]
    assert Mine.__call__ is own


def test_two_who_watch_modules_of_one_class_leave_in_any_order():
    first, second, seen = Hooks(), Hooks(), []
    model = nn.Linear(2, 2)
    first.put(model, lambda *_: seen.append("first"))
    second.put(model, lambda *_: seen.append("second"))
    model(torch.ones(1, 2))
    first.remove()
    model(torch.ones(1, 2))
    second.remove()
    model(torch.ones(1, 2))

    assert seen == ["first", "second", "second"]
    assert "__call__" not in vars(nn.Linear)


class Engine:
    def step(self) -> str:
        return "stepped"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_copy_of_an_object_whose_method_is_watched_has_its_own_method(copied):
    engine, calls, methods = Engine(), [], Methods()
    methods.after(engine, "step", calls.append)

    twin = copied(engine)

    assert (twin.step(), engine.step()) == ("stepped", "stepped")
    assert calls == ["stepped"]
    assert "carbon_plugin" not in repr(vars(twin))
    methods.remove()
    assert not vars(engine)


def test_copies_of_an_optimizer_do_not_count_steps(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    with watch(model, optimizer, run_dir=tmp_path / "run") as carbon:
        model(torch.ones(1, 2)).sum().backward()
        copy.deepcopy(optimizer).step()
        pickle.loads(pickle.dumps(optimizer)).step()
        optimizer.step()

    assert carbon.monitor.step == 1
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks
