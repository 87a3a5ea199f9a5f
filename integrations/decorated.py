"""Measure functions that train: `@watch_training(site="FRA")` above the function that holds the loop.

Every call of the function is measured from its beginning to its end. Where model and optimizer are arguments of the
call, or attributes of its `self`, they are watched as `watch` does. Otherwise the steps are counted through the hook
that torch has for all optimizers of a process, as `carbon-plugin run` does, and the model is not seen.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from carbon_plugin.errors import WatchError
from carbon_plugin.integrations.hands_free import HandsFree
from carbon_plugin.integrations.pytorch import TorchCarbon
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

__all__ = ["watch_training"]

P = ParamSpec("P")
T = TypeVar("T")

HANDLE = "carbon"
"""A function with a parameter of this name gets the loop under measurement there, where the call leaves it out."""


@overload
def watch_training(function: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def watch_training(
    function: None = None, /, **arguments: Unpack[MonitorArguments]
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


@with_arguments
def watch_training(function: Any = None, /, **arguments: Unpack[MonitorArguments]) -> Any:
    """Measure every call of a function that trains.

        @watch_training(site="FRA", run_dir="runs/a")
        def train(model, optimizer, loader): ...

    Args:
        function (function, default None): The function, where the decorator stands without arguments. If it has a
            parameter `carbon`, it gets the loop under measurement there, with `phase(name)` and `metrics()`.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The function under measurement, or a decorator where there are arguments. It returns and raises what the
        function does.

    Raises:
        CarbonPluginError: What is decorated is no function that trains by being called, or, when it is called, an
            argument cannot be used.
    """
    if function is None:
        return functools.partial(_decorated, arguments=arguments)
    return _decorated(function, arguments)


def _decorated(function: Any, arguments: MonitorArguments) -> Any:
    waits = inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)
    if not callable(function) or inspect.isclass(function) or waits:
        kind = "a generator or a coroutine" if waits else f"a {type(function).__name__}"
        raise WatchError(f"watch_training decorates a function that trains while it is called, and this is {kind}")
    signature = inspect.signature(function)

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        with _loop(given, arguments) as carbon:
            if HANDLE in signature.parameters and HANDLE not in given:
                kwargs[HANDLE] = carbon
            return function(*args, **kwargs)

    return measured


def _loop(given: Mapping[str, Any], arguments: MonitorArguments) -> TorchCarbon | HandsFree:
    import torch

    candidates = [*_candidates(given)]
    found = [value for value in candidates if isinstance(value, torch.optim.Optimizer)]
    groups = [group for optimizer in found for group in optimizer.param_groups]
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    models = _models(candidates, trained)
    if models:
        return TorchCarbon(models, found, **arguments)
    return HandsFree(arguments, sys.modules["torch.optim.optimizer"]).begin()


def _candidates(given: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments of a call, the items of arguments that are lists or mappings, and the attributes of
    `self`.
    """
    for name, value in given.items():
        if name == "self":
            yield from vars(value).values() if hasattr(value, "__dict__") else ()
        elif isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        yield value


def _models(candidates: list[Any], trained: set[int]) -> list[Any]:
    """Return the modules that hold what the optimizers train, without those that are inside another one."""
    from torch import nn

    modules = [
        value
        for value in {id(value): value for value in candidates}.values()
        if isinstance(value, nn.Module) and any(id(parameter) in trained for parameter in value.parameters())
    ]
    inside = {id(child) for module in modules for child in module.modules() if child is not module}
    return [module for module in modules if id(module) not in inside]
