"""Call loggers that a user handed over: functions, and objects with a method for metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from carbon_plugin.errors import WatchError
from carbon_plugin.sinks.row import Row
from carbon_plugin.sinks.sink import Sink

Log = Callable[[dict[str, float], int], object]
"""A function that takes the `carbon/*` figures and the optimizer step of the run."""


class FunctionSink(Sink):
    """Calls a function with the figures and the step of each row."""

    def __init__(self, name: str, function: Log) -> None:
        self.name = name
        self._function = function

    def write(self, row: Row) -> None:
        """Call the function with a copy of the figures."""
        self._function(dict(row.metrics), row.step)


def given_sink(logger: Any, expected: str) -> Sink:
    """Return the sink that calls a logger object or a function of the user.

    Raises `WatchError`, which says what was `expected`, if it is no logger, or if its method cannot be called with
    figures and a step.
    """
    if inspect.isclass(logger):
        raise WatchError(f"log is the class {logger.__name__}, expected an object of it")
    if callable(add_scalar := getattr(logger, "add_scalar", None)):
        _check_call(logger, expected, "add_scalar", add_scalar, "carbon/power_w", 0.0, 0)

        def add_scalars(metrics: dict[str, float], step: int) -> None:
            for name, value in metrics.items():
                add_scalar(name, value, step)

        return FunctionSink(type(logger).__name__, add_scalars)
    for name in ("log_metrics", "log"):
        if callable(method := getattr(logger, name, None)):
            _check_call(logger, expected, name, method, {}, step=0)
            return FunctionSink(type(logger).__name__, _with_step(method))
    if callable(logger):
        name = str(getattr(logger, "__qualname__", type(logger).__name__))
        _check_call(logger, expected, getattr(logger, "__qualname__", "a call of it"), logger, {}, 0)
        return FunctionSink(name, logger)
    raise WatchError(f"log is {_named(logger)}, expected {expected}")


def _with_step(method: Callable[..., object]) -> Log:
    return lambda metrics, step: method(metrics, step=step)


def _check_call(
    logger: Any, expected: str, name: str, method: Callable[..., object], *args: Any, **kwargs: Any
) -> None:
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return  # some built-in functions tell no signature
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise WatchError(
            f"log is {_named(logger)}, and {name}{signature} cannot be called with figures and a step: "
            f"expected {expected}"
        ) from error


def _named(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
