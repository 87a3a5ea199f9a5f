"""Find the optimizers that a script steps inside lists and wrappers, notice their steps, and count the steps done.

Nothing here waits for a device: a count on a device is copied in the background, and read when it has arrived.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from carbon_plugin.detect.tensors import Arriving
from carbon_plugin.errors import WatchError

_INNER = ("optimizer", "optim", "_optimizer", "base_optimizer")
"""The attributes in which wrappers keep the optimizer that they step: Accelerate, Apex, DeepSpeed, Megatron and most
others.
"""
_SEVERAL = ("optimizers", "chained_optimizers")
"""The attributes in which containers keep their optimizers: torchtitan, Megatron."""
_DEPTH = 6
_STATES_LOOKED_AT = 4096


class Stepping(Struct, frozen=True, kw_only=True):
    """One instance holds the object whose `step` is a step of the run.

    `hooked` says that it is an optimizer of torch with hooks of its own; otherwise its method is watched.
    """

    owner: Any
    hooked: bool

    def skipped(self, result: Any) -> bool:
        """Return whether a call of the method that gave `result` changed nothing because gradients overflowed.

        DeepSpeed says so in an attribute, Megatron in its result.
        """
        told = isinstance(result, tuple) and len(result) > 0 and result[0] is False
        return told or getattr(self.owner, "overflow", False) is True


def optimizers_in(given: Any) -> tuple[Any, ...]:
    """Return the optimizers of an argument: one, or several in a list, a tuple or a mapping, or none for None.

    Raises `WatchError` for anything that has no `step`.
    """
    if given is None:
        return ()
    several = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(several, list | tuple):
        several = [given]
    if not several:
        raise WatchError(
            "optimizer is an empty list, expected an optimizer, or None and a call of step() after each step"
        )
    for optimizer in several:
        if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
            raise WatchError(
                f"optimizer is a {_kind(optimizer)}, expected something with a method `step`, a list of such, or None "
                "and a call of step() after each step"
            )
    return tuple(several)


def stepping(optimizer: Any) -> Stepping:
    """Return how the steps of an optimizer are noticed.

    They are noticed by the outermost optimizer of torch in it that has hooks, else by its own method.
    """
    if type(optimizer).__module__.partition(".")[0] == "deepspeed":  # it steps the inner one once a parameter group
        return Stepping(owner=optimizer, hooked=False)
    for layer in _layers(optimizer):
        if _has_hooks(layer):
            return Stepping(owner=layer, hooked=True)
    return Stepping(owner=optimizer, hooked=False)


def innermost(optimizer: Any) -> Any:
    """Return the optimizer that changes the parameters, inside those of ZeRO, Accelerate and others."""
    return list(_layers(optimizer))[-1]


def steps_done(optimizers: Sequence[Any]) -> int | Arriving | None:
    """Return how many steps the states of the optimizers have counted, or None if none of them counts.

    The first optimizer that counts is asked; SGD and Muon do not count. It is the highest count of all its parameters,
    because some may have been added, or frozen, later. A count on a GPU is returned as an `Arriving`.
    """
    return next((done for done in map(_steps_done, optimizers) if done is not None), None)


def _steps_done(optimizer: Any) -> int | Arriving | None:
    highest, elsewhere = None, None
    for part in parts(optimizer):
        for value in _counts(part):
            number, arriving = _number(value)
            if number is not None and (highest is None or number > highest):
                highest = number
            elsewhere = arriving if elsewhere is None else elsewhere
    if highest is None and elsewhere is not None:
        return Arriving(elsewhere)
    return highest


def steps_scheduled(scheduler: Any) -> int:
    """Return how many optimizer steps a learning-rate scheduler has followed. Raises `WatchError` for anything else."""
    inner = getattr(scheduler, "scheduler", scheduler)
    done = getattr(inner, "last_epoch", None)
    if not isinstance(done, int):
        raise WatchError(f"scheduler is a {_kind(scheduler)}, expected a learning-rate scheduler with `last_epoch`")
    if inner is not scheduler and not getattr(scheduler, "split_batches", False):
        done //= _processes()  # Accelerate steps its schedulers once for each process
    return max(0, done)


def prepares_states() -> bool:
    """Return whether the present step only makes the states into which torch's distributed checkpoints load."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_init_optim_state":
            return True
        frame = frame.f_back
    return False


def _layers(optimizer: Any) -> Iterator[Any]:
    """Return an optimizer and those inside it, from the outside in; where several are inside, the first of them."""
    for _ in range(_DEPTH):
        yield optimizer
        inside = _inside(optimizer)
        if not inside:
            return
        optimizer = inside[0]


def parts(optimizer: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Return an optimizer and all optimizers inside it."""
    yield optimizer
    for inner in _inside(optimizer) if depth else ():
        yield from parts(inner, depth - 1)


def _inside(optimizer: Any) -> Sequence[Any]:
    for name in _INNER:
        inner = getattr(optimizer, name, None)
        if inner is not None:
            return [inner]
    for name in _SEVERAL:
        several = getattr(optimizer, name, None)
        if isinstance(several, list | tuple):
            return several
    return ()


def _has_hooks(optimizer: Any) -> bool:
    """Return whether it was made as an optimizer of torch: some wrappers only inherit from one and never call its
    hooks.
    """
    return "_optimizer_step_post_hooks" in getattr(optimizer, "__dict__", {})


def _counts(optimizer: Any) -> Iterator[Any]:
    states = getattr(optimizer, "state", None)
    for state in islice(states.values(), _STATES_LOOKED_AT) if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping) and "step" in state:
            yield state["step"]
    for group in getattr(optimizer, "param_groups", None) or ():
        if isinstance(group, Mapping) and "step" in group:  # fused optimizers of Apex and TE count here
            yield group["step"]


def _number(value: Any) -> tuple[int | None, Any]:
    """Return (a count, None), or (None, a tensor on a GPU that holds one), or (None, None) for anything else."""
    import torch

    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.numel() != 1:
            return None, None
        if value.is_cuda:
            return None, value.detach().reshape(())
        if value.device.type != "cpu":
            return None, None
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        return None, None
    return int(value), None


def _processes() -> int:
    state = sys.modules.get("accelerate.state")
    return int(state.PartialState().num_processes) if state is not None else 1


def _kind(value: Any) -> str:
    return value.__name__ + " (a class)" if isinstance(value, type) else type(value).__name__
