"""The recipes of docs/recipes.md, run on stand-ins of the frameworks that do not install here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, Window
from tests.pages import blocks_of

SECTIONS = {block.section: block.code for block in blocks_of("docs/recipes.md", "python")}
STEPS = 5


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Run a recipe of the page in a folder of its own, with stand-ins for modules: the names that it defines."""
    monkeypatch.chdir(tmp_path)

    def run(section: str, modules: dict[str, dict[str, Any]], **names: Any) -> dict[str, Any]:
        for path, content in modules.items():
            for end in range(1, path.count(".") + 2):  # the parents too
                part = ".".join(path.split(".")[:end])
                if part not in sys.modules or part == path:
                    monkeypatch.setitem(sys.modules, part, ModuleType(part))
            vars(sys.modules[path]).update(content)
            parent, _, name = path.rpartition(".")
            if parent:
                monkeypatch.setattr(sys.modules[parent], name, sys.modules[path], raising=False)
        exec(compile(SECTIONS[section], section, "exec"), names)
        return names

    return run


def steps_of(run_dir: str | Path) -> tuple[list[tuple[str, int]], set[str], int]:
    """Return how a run was closed with its steps, the phases that it had, and the step that it reached."""
    (file,) = read_run(run_dir).files
    windows = [record for record in file.records if isinstance(record, Window)]
    closes = [(r.reason, r.steps) for r in file.records if isinstance(r, Close)]
    return closes, {window.phase for window in windows}, max(window.last_step for window in windows)


def pair() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_every_recipe_of_the_page_is_tested_here():
    tested = {"Composer and LLM Foundry", "Megatron-Bridge", "Megatron-LM", "NeMo 2", "nanotron", "Axolotl", "MaxText"}

    assert set(SECTIONS) == tested


def test_composer_tells_of_batches_and_evaluations(recipe, tmp_path):
    names = recipe("Composer and LLM Foundry", {"composer.core": {"Callback": object}})
    rows: list[dict[str, float]] = []
    state, logger = SimpleNamespace(timestamp=SimpleNamespace(batch=10)), SimpleNamespace(log_metrics=rows.append)

    carbon = names["Carbon"](site="FRA", run_dir=tmp_path / "run", quiet=True)
    carbon.fit_start(state, logger)
    for _ in range(STEPS):
        carbon.batch_end(state, logger)
    carbon.eval_start(state, logger)
    carbon.eval_end(state, logger)
    carbon.close(state, logger)

    closes, phases, reached = steps_of(tmp_path / "run")
    assert (closes, reached) == ([("closed", STEPS)], 10 + STEPS)
    assert "evaluation" in phases
    assert "carbon/energy_kwh" in rows[-1]


def test_megatron_bridge_tells_of_steps_without_those_that_were_skipped(recipe, tmp_path):
    names = recipe("Megatron-Bridge", {"megatron.bridge.training.callbacks": {"Callback": object}})
    state = SimpleNamespace(train_state=SimpleNamespace(step=3))

    carbon = names["Carbon"](site="FRA", run_dir=tmp_path / "run", quiet=True)
    carbon.on_train_start(SimpleNamespace(state=state))
    for skipped in (False, True, False):
        carbon.on_train_step_end(SimpleNamespace(skipped_iter=skipped))
    carbon.on_eval_start(None)
    carbon.on_eval_end(None)
    carbon.on_train_end(None)

    closes, phases, reached = steps_of(tmp_path / "run")
    assert (closes, reached) == ([("closed", 2)], 5)
    assert "evaluation" in phases


def test_train_step_of_megatron_lm_is_watched_from_its_first_call(recipe):
    model, optimizer = pair()
    training = {"train_step": lambda forward, data, model, optimizer, *rest: step(model[0], optimizer)}
    names = recipe("Megatron-LM", {"megatron.training.training": training})

    for _ in range(STEPS):
        sys.modules["megatron.training.training"].train_step(None, None, [model], optimizer, None, None)
    names["sessions"][0].close()

    # The first step had begun when the watch began.
    assert steps_of("runs/megatron_lm")[0] == [("closed", STEPS)]


def test_trainer_of_nemo_gets_the_callback_of_lightning(recipe):
    pytest.importorskip("lightning")
    from lightning.pytorch import Callback

    trainer = SimpleNamespace
    names = recipe("NeMo 2", {"nemo.lightning": {"Trainer": trainer}}, trainer_arguments={"devices": 8})

    (carbon,) = names["trainer"].callbacks
    assert isinstance(carbon, Callback)


def test_nanotron_is_watched_by_its_optimizer_inside_two_wrappers(recipe):
    model, optimizer = pair()

    class Trainer:
        def __init__(self, config_file: str) -> None:
            self.unwrapped_model = model
            inner = SimpleNamespace(optimizer=optimizer, step=optimizer.step)
            self.optimizer = SimpleNamespace(optimizer=inner, step=inner.step)

        def train(self, batches: range) -> None:
            for _ in batches:
                model(torch.ones(1, 2)).sum().backward()
                self.optimizer.step()

    recipe(
        "nanotron", {"nanotron.trainer": {"DistributedTrainer": Trainer}}, config_file="c.yaml", dataloader=range(STEPS)
    )

    assert steps_of("runs/nanotron")[0] == [("closed", STEPS)]


def test_axolotl_hands_the_callback_of_transformers_to_its_trainer(recipe):
    transformers = pytest.importorskip("transformers")
    names = recipe("Axolotl", {"axolotl.integrations.base": {"BasePlugin": object}})

    (carbon,) = names["CarbonPlugin"]().add_callbacks_post_trainer({}, None)
    assert isinstance(carbon, transformers.TrainerCallback)


def test_maxtext_counts_steps_and_tokens(recipe):
    config = SimpleNamespace(steps=STEPS, global_batch_size_to_train_on=4, max_target_length=8)
    recipe(
        "MaxText", {}, config=config, start_step=0, state=None,
        p_train_step=lambda state, batch, step: (state, {}), load_next_batch=lambda step: step,
    )  # fmt: skip

    assert steps_of("runs/maxtext")[0] == [("closed", STEPS)]
    (file,) = read_run("runs/maxtext").files
    assert sum(record.tokens for record in file.records if isinstance(record, Window)) == STEPS * 4 * 8
