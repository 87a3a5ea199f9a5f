"""A resumed loop goes on at its step: by the optimizer's states, a scheduler, or what the script says."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.integrations.pytorch import TorchCarbon, watch
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Window
from carbon_plugin.ledger.verification.verify import verify_run

JOB = Path(__file__).parent / "jobs" / "resume.py"


def trained(model: nn.Module, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def model_and_optimizer(make: Callable[..., Any] = torch.optim.AdamW, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    return model, make(model.parameters(), **options)


def test_second_process_in_the_run_directory_does_its_own_steps_and_redoes_none(launcher, tmp_path):
    for _ in range(2):
        environ = {**os.environ, "TMPDIR": str(tmp_path)}
        done = launcher.run(JOB, tmp_path / "run", tmp_path / "last.pt", env=environ)
        assert done.returncode == 0, done.stderr

    summary = summarise(tmp_path / "run")

    assert (summary.progress.steps, summary.progress.last_step, summary.progress.tokens) == (100, 100, 1000)
    assert summary.waste.redone_steps == 0
    assert verify_run(tmp_path / "run").ok


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.Adagrad, {}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_states_that_were_loaded_before_say_the_step(make, options, tmp_path):
    model, optimizer = model_and_optimizer(make, **options)
    trained(model, optimizer, 7)
    model, fresh = model_and_optimizer(make, **options)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    with watch(model, fresh, run_dir=tmp_path / "run") as carbon:
        trained(model, fresh, 3)

    assert carbon.monitor.step == 10


def test_states_that_are_loaded_after_watch_say_the_step_before_any_window(tmp_path):
    model, optimizer = model_and_optimizer()
    trained(model, optimizer, 7)
    model, fresh = model_and_optimizer()

    with watch(model, fresh, run_dir=tmp_path / "run") as carbon:
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        trained(model, fresh, 3)

    windows = [record for record in read_run(tmp_path / "run").files[0].records if isinstance(record, Window)]
    assert carbon.monitor.step == 10
    assert (windows[-1].last_step, sum(window.steps for window in windows)) == (10, 3)


def test_states_that_are_loaded_while_training_take_the_run_back(tmp_path):
    model, optimizer = model_and_optimizer()
    trained(model, optimizer, 2)
    early = copy.deepcopy(optimizer.state_dict())

    with watch(model, optimizer, run_dir=tmp_path / "run") as carbon:
        trained(model, optimizer, 5)
        optimizer.load_state_dict(early)
        trained(model, optimizer, 1)

    assert carbon.monitor.step == 3
    assert '"kind":"resumed"' in (tmp_path / "run" / "node-0.attempt-0.jsonl").read_text()


def test_parameters_that_were_added_later_do_not_take_the_run_back(tmp_path):
    model, optimizer = model_and_optimizer()
    trained(model, optimizer, 4)
    late = nn.Linear(4, 4)
    optimizer.add_param_group({"params": late.parameters()})
    trained(nn.Sequential(late, model), optimizer, 2)

    with watch(model, optimizer, run_dir=tmp_path / "run") as carbon:
        pass

    assert carbon.monitor.step == 6


def test_steps_that_a_scaler_skipped_are_none_of_the_run(tmp_path):
    model, optimizer = model_and_optimizer()
    scaler = torch.amp.GradScaler("cpu")
    with watch(model, optimizer, run_dir=tmp_path / "run") as carbon:
        for number in range(4):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 4)).sum()).backward()
            if number == 1:
                model.weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
    with watch(model, optimizer, run_dir=tmp_path / "run") as again:
        pass

    assert (carbon.monitor.step, again.monitor.step) == (3, 3)


def resumed_with(tmp_path: Path, optimizer: Any = None, **arguments: Any) -> TorchCarbon:
    model, plain = model_and_optimizer(torch.optim.SGD, lr=0.1)
    with watch(model, optimizer or plain, run_dir=tmp_path / "run", **arguments) as carbon:
        pass
    return carbon


def test_optimizer_that_counts_no_steps_leaves_it_to_the_script(tmp_path):
    _, optimizer = model_and_optimizer(torch.optim.SGD, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 12})

    assert resumed_with(tmp_path).monitor.step == 0
    assert resumed_with(tmp_path, step=50).monitor.step == 50
    assert resumed_with(tmp_path, scheduler=scheduler).monitor.step == 12
    assert resumed_with(tmp_path, scheduler=scheduler, step=50).monitor.step == 50


def test_what_the_script_says_wins_over_states_that_come_from_another_run(tmp_path):
    model, optimizer = model_and_optimizer()
    trained(model, optimizer, 7)

    assert resumed_with(tmp_path, optimizer, step=0).monitor.step == 0


def test_of_a_list_the_first_optimizer_that_counts_says_the_step(tmp_path):
    model, adam = model_and_optimizer()
    trained(model, adam, 7)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)  # as Muon, it counts nothing

    assert resumed_with(tmp_path, [sgd, adam]).monitor.step == 7


class Fused:
    """As fused optimizers keep it: one count a parameter group, in a tensor or as a number."""

    def __init__(self, step: Any) -> None:
        self.param_groups = [{"params": [], "step": step}, {"params": []}]
        self.state: dict[Any, Any] = {}

    def step(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kept", "read"), [(9, 9), (torch.tensor(9.0), 9), (torch.tensor(9, device="meta"), 0), ("nine", 0), (-1, 0)]
)
def test_count_of_a_group_is_read_where_that_needs_no_waiting(kept, read, tmp_path):
    assert resumed_with(tmp_path, Fused(kept)).monitor.step == read


def test_states_that_torch_makes_room_for_are_no_step(tmp_path):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model, optimizer = model_and_optimizer()
    trained(model, optimizer, 7)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    model, fresh = model_and_optimizer()

    with watch(model, fresh, run_dir=tmp_path / "run") as carbon:
        set_optimizer_state_dict(model, fresh, optim_state_dict=saved)
        assert carbon.monitor.step == 7
        trained(model, fresh, 3)

    assert carbon.monitor.step == 10
    assert carbon.monitor.counted == 3


@pytest.mark.parametrize("wrong", [{"step": -1}, {"step": "5"}, {"scheduler": object()}])
def test_wrong_step_is_said_before_training(wrong, tmp_path):
    with pytest.raises(CarbonPluginError, match=next(iter(wrong))):
        resumed_with(tmp_path, **wrong)


def test_accelerate_says_the_step_by_the_optimizer_that_it_loads(tmp_path):
    state = pytest.importorskip("accelerate.state")
    from accelerate import Accelerator

    from carbon_plugin.integrations import accelerate

    def begun() -> tuple[Any, nn.Module, Any]:
        accelerator = Accelerator(cpu=True)
        return accelerator, *accelerator.prepare(*model_and_optimizer())

    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator, model, optimizer = begun()
        trained(model, optimizer, 7)
        accelerator.save_state(str(tmp_path / "checkpoint"))
        accelerator, model, optimizer = begun()
        with accelerate.watch(accelerator, model, optimizer, run_dir=tmp_path / "run") as carbon:
            accelerator.load_state(str(tmp_path / "checkpoint"))
            trained(model, optimizer, 3)
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)

    assert (carbon.monitor.step, carbon.monitor.counted) == (10, 3)
