"""What may be handed over to `watch`: models, optimizers, lists and wrappers of them; anything else raises at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.errors import CarbonPluginError, WatchError
from carbon_plugin.integrations import megatron
from carbon_plugin.integrations.pytorch import watch


def net() -> nn.Module:
    return nn.Linear(2, 2)


def sgd(*models: nn.Module) -> Any:
    return torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)


class Wrapper:
    """As Apex and many a script wrap an optimizer: no hooks of its own, the one inside under a usual name."""

    def __init__(self, inner: Any, name: str = "optimizer", *, skips: bool = False) -> None:
        setattr(self, name, inner)
        self._inner, self._skips = inner, skips

    def step(self) -> None:
        if not self._skips:
            self._inner.step()


class Inherits(torch.optim.Optimizer):
    """As Accelerate's: an optimizer by its class only, that was never made as one."""

    def __init__(self, inner: Any) -> None:
        self.optimizer = inner

    def step(self) -> None:
        self.optimizer.step()


class Bare:
    """Steps, and is nothing of torch's."""

    def step(self) -> str:
        return "the result"


ZeRO = type("DeepSpeedZeroOptimizer", (Wrapper,), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda inner: inner,
        Wrapper,
        lambda inner: Wrapper(inner, "optim"),
        lambda inner: Wrapper(Wrapper(inner), "_optimizer"),
        Inherits,
        ZeRO,
        lambda inner: [inner],
        lambda inner: {"main": Wrapper(inner)},
        lambda inner: Bare(),
    ],
)
def test_step_of_a_wrapper_or_of_a_lonely_optimizer_is_counted_once(wrapped: Callable[[Any], Any], tmp_path: Path):
    model = net()
    given = wrapped(sgd(model))
    single = given[0] if isinstance(given, list) else given["main"] if isinstance(given, dict) else given

    with watch(model, given, run_dir=tmp_path / "run") as carbon:
        for _ in range(3):
            result = single.step()

    assert carbon.monitor.step == 3
    assert result == ("the result" if isinstance(single, Bare) else None)
    assert "step" not in vars(single)


def test_step_that_a_wrapper_or_deepspeed_skips_is_none(tmp_path):
    model = net()
    wrapper, zero = Wrapper(sgd(model), skips=True), ZeRO(sgd(model))
    zero.overflow = True

    with watch(model, wrapper, run_dir=tmp_path / "a") as carbon:
        wrapper.step()
    with watch(model, zero, run_dir=tmp_path / "b") as other:
        zero.step()
        zero.overflow = False
        zero.step()

    assert (carbon.monitor.step, other.monitor.step) == (0, 1)


def test_of_several_optimizers_the_first_one_says_what_a_step_is(tmp_path):
    generator, critic = net(), net()
    first, second = sgd(generator), sgd(critic)

    with watch([generator, critic], [first, second], run_dir=tmp_path / "run") as carbon:
        for _ in range(3):
            for _ in range(5):
                second.step()
            first.step()

    assert carbon.monitor.step == 3


class Chained:
    """As Megatron's: it steps those inside by other methods than `step`, and says whether gradients were finite."""

    def __init__(self, *inside: Any) -> None:
        self.chained_optimizers = list(inside)
        self.finite = True

    def step(self) -> tuple[bool, float]:
        return self.finite, 1.0


def test_container_of_optimizers_is_watched_by_its_own_step_and_what_it_says(tmp_path):
    model = net()
    chained = Chained(Bare(), Bare())

    with watch(model, chained, run_dir=tmp_path / "run") as carbon:
        for finite in (True, False, True):
            chained.finite = finite
            chained.step()

    assert carbon.monitor.step == 2


def test_module_whose_parameters_are_made_by_its_first_call_can_be_watched(tmp_path):
    lazy = nn.LazyLinear(2)

    with watch([lazy, net()], run_dir=tmp_path / "run") as carbon:
        lazy(torch.ones(1, 3))
        carbon.step()

    assert carbon.monitor.step == 1


@pytest.mark.parametrize("optimizer", [[], {}, [1], "adam", 3, object(), torch.optim.SGD, net(), (p for p in [])])
def test_optimizer_that_is_none_raises_before_training(optimizer, tmp_path):
    with pytest.raises(WatchError, match="optimizer is"):
        watch(net(), optimizer, run_dir=tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", [None, [], "model", [net(), 3], 7])
@pytest.mark.parametrize("begin", [watch, megatron.watch])
def test_model_that_is_none_raises_before_training(begin, model, tmp_path):
    with pytest.raises(WatchError, match="model is"):
        begin(model, sgd(net()), run_dir=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_swapped_arguments_are_named(tmp_path):
    model = net()

    with pytest.raises(WatchError, match=r"model is a SGD, .*the optimizer comes second"):
        watch(sgd(model), model, run_dir=tmp_path / "run")


def test_error_is_ours_and_a_type_error():
    assert issubclass(WatchError, CarbonPluginError)
    assert issubclass(WatchError, TypeError)


def test_nothing_is_checked_where_the_plugin_is_disabled(monkeypatch):
    monkeypatch.setenv("CARBON_PLUGIN_DISABLED", "1")

    with watch(None, "anything") as carbon:
        carbon.step()

    assert carbon.metrics() == {}
