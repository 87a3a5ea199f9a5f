"""Check the model and the optimizer that a script hands over to be watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.optimizers import Stepping, innermost, optimizers_in, stepping
from carbon_plugin.detect.wrappers import unwrapped
from carbon_plugin.errors import WatchError

if TYPE_CHECKING:
    from torch import nn


class Watched(Struct, frozen=True, kw_only=True):
    """One instance holds what is watched.

    `model` is what is trained, in one module; `modules` are those that the script gave, and `called` is the one of them
    that gets the batches. A step of the first of the `optimizers` is a step of the run.
    """

    model: Any
    modules: tuple[Any, ...] = ()
    called: Any
    optimizers: tuple[Any, ...]

    @property
    def stepping(self) -> Stepping | None:
        """Return how steps of the run are noticed, or None where the script reports them."""
        return stepping(self.optimizers[0]) if self.optimizers else None

    @property
    def identities(self) -> tuple[Any, ...]:
        """Return the objects, without wrappers, that only one training can have at a time."""
        return (unwrapped(self.called), *(innermost(optimizer) for optimizer in self.optimizers))


def watched(model: Any, optimizer: Any = None) -> Watched:
    """Return the model, what the loop calls, and the optimizers. Raises `WatchError` where the arguments are no model
    and no optimizer."""
    modules = _modules(model)
    optimizers = optimizers_in(optimizer)
    called = max(modules, key=_size) if len(modules) > 1 else modules[0]
    return Watched(model=one_module(modules), modules=tuple(modules), called=called, optimizers=optimizers)


def one_module(modules: list[nn.Module]) -> nn.Module:
    """Return several modules as one."""
    from torch import nn

    return modules[0] if len(modules) == 1 else nn.ModuleList(modules)


def _size(module: nn.Module) -> int:
    from torch.nn.parameter import is_lazy

    return sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))


def _modules(model: Any) -> list[nn.Module]:
    from torch import nn

    several = list(model.values()) if isinstance(model, Mapping) else model
    modules = list(several) if isinstance(several, list | tuple | nn.ModuleList) else [several]
    wrong = [module for module in modules if not isinstance(module, nn.Module)]
    if wrong or not modules:
        found = f"a {type(wrong[0]).__name__}" if wrong else "an empty list"
        raise WatchError(f"model is {found}, expected a torch.nn.Module or a list of such; the optimizer comes second")
    return modules
