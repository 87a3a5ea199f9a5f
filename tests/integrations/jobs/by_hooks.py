"""Loops whose optimizers are seen through torch's global hooks only: `by_hooks.py FOLDER`, one run of each in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from telling import tell
from torch import nn

import carbon_plugin.integrations.hands_free as ours
from carbon_plugin.integrations.entry_points import ARGUMENTS_VARIABLE
from carbon_plugin.integrations.pytorch import watch

STEPS = 8
FOLDER = Path(sys.argv[1])


class Ours(torch.optim.Optimizer):
    """A wrapper that is an optimizer itself and steps the one inside, as ZeRO's of torch does."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:
        self.inner.step()


def step(*optimizers: torch.optim.Optimizer, model: nn.Module) -> float:
    loss = model(torch.ones(2, 4)).square().sum()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def gan(model: nn.Module) -> None:
    critic, generator = adamw(model[0]), adamw(model[1])
    for _ in range(STEPS):
        step(critic, generator, model=model)


def one_a_parameter(model: nn.Module) -> None:
    several = [torch.optim.SGD([parameter], lr=1e-2) for parameter in model.parameters()]
    for _ in range(STEPS):
        step(*several, model=model)


def wrapped(model: nn.Module) -> None:
    outer = Ours(adamw(model))
    for _ in range(STEPS):
        step(outer, model=model)


def one_group_at_a_time(model: nn.Sequential) -> None:
    """Step one group of parameters a call, as DeepSpeed does."""
    groups = [{"params": list(part.parameters())} for part in model]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    every = optimizer.param_groups
    for _ in range(STEPS):
        for group in every:
            optimizer.param_groups = [group]
            step(optimizer, model=model)
        optimizer.param_groups = every


def made_anew(model: nn.Module) -> None:
    for _ in range(2):
        optimizer = adamw(model)
        for _ in range(STEPS // 2):
            step(optimizer, model=model)
        del optimizer


def second_stage(model: nn.Module) -> None:
    """Train with a second optimizer while the first one stays alive and steps no more. The second is chosen at its
    100th step.
    """
    first, second = adamw(model), torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(4):
        step(first, model=model)
    for _ in range(103):
        step(second, model=model)


def compiled(model: nn.Module) -> None:
    optimizer = adamw(model)
    run = torch.compile(lambda: step(optimizer, model=model), backend="eager")
    for _ in range(STEPS):
        run()


def resumed(model: nn.Module) -> None:
    state = {name: {"step": torch.tensor(4.0)} for name in range(4)}
    optimizer = adamw(model)
    for values, parameter in zip(state.values(), model.parameters(), strict=True):
        values |= {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for _ in range(STEPS // 2):
        step(optimizer, model=model)


def watches_itself(model: nn.Module) -> None:
    optimizer = adamw(model)
    with watch(model, optimizer, run_dir=FOLDER / "own", step=0):
        for _ in range(STEPS):
            step(optimizer, model=model)


def watches_itself_later(model: nn.Module) -> None:
    optimizer = adamw(model)
    step(optimizer, model=model)
    with watch(model, optimizer, run_dir=FOLDER / "later", step=0):
        for _ in range(STEPS):
            step(optimizer, model=model)


def fails(model: nn.Module) -> None:
    whole = ours._seen

    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    ours._seen = broken
    made_anew(model)
    ours._seen = whole


LOOPS: tuple[Callable[[nn.Module], None], ...] = (
    gan, one_a_parameter, wrapped, one_group_at_a_time, made_anew, second_stage, resumed, watches_itself,
    watches_itself_later, fails, compiled,
)  # fmt: skip


def main() -> None:
    module = sys.modules["torch.optim.optimizer"]
    for loop in LOOPS:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        arguments = {"run_dir": str(FOLDER / loop.__name__), "site": "FRA", "quiet": True}
        watching = ours.install(module, {ARGUMENTS_VARIABLE: json.dumps(arguments)})
        loop(model)
        watching.close("the loop ended")
        weights = sum(parameter.sum().item() for parameter in model.parameters())
        left = len(module._global_optimizer_pre_hooks) + len(module._global_optimizer_post_hooks)
        tell("RESULT", [loop.__name__, weights.hex(), left])


if __name__ == "__main__":
    main()
