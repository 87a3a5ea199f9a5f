"""Call the user's own loggers (`log=`). Each one gets the figures once a window, on the training thread of rank 0."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

from carbon_plugin.errors import WatchError

Log = Callable[[dict[str, float], int], object]
"""A function that takes the `carbon/*` figures and the optimizer step of the run."""

_EXPECTED = (
    "a function (metrics, step), an object with log(metrics, step=...), log_metrics(metrics, step=...) or "
    "add_scalar(name, value, step), a logging.Logger, or a list of these"
)


class Loggers:
    """Holds functions that each take a row of figures. A copy or a pickle holds none, because rows belong to one
    process.

    Args:
        logs: The functions, in the order in which they are called. Default: none.
    """

    def __init__(self, logs: tuple[Log, ...] = ()) -> None:
        self._logs = list(logs)

    def __bool__(self) -> bool:
        return bool(self._logs)

    def __reduce__(self) -> tuple[type[Loggers], tuple[()]]:
        return Loggers, ()

    def add(self, log: Log) -> None:
        """Add a function to those that are called. One that is already there is not added again."""
        if log not in self._logs:
            self._logs.append(log)

    def write(self, metrics: dict[str, float], step: int) -> Iterator[Exception]:
        """Call each function with a copy of the figures. Yield the exception of one that raises, and call it no
        more."""
        for log in tuple(self._logs):
            try:
                log(dict(metrics), step)
            except Exception as error:
                self._logs.remove(log)
                yield error


def loggers_of(log: Any) -> Loggers:
    """Return the loggers that a user handed over as `log=`.

    Args:
        log: None, a logger, or a list or tuple of loggers: a function `(metrics, step)`, a `logging.Logger`, or an
            object such as a TensorBoard `SummaryWriter`, a W&B run, a Lightning logger or the `mlflow` module.

    Returns:
        The functions that write a row. `Loggers` come back as they are.

    Raises:
        WatchError: Something is no logger, or its method cannot be called with figures and a step.
    """
    if isinstance(log, Loggers):
        return log
    several = log if isinstance(log, list | tuple) else () if log is None else (log,)
    return Loggers(tuple(_function_of(one) for one in several))


def _function_of(logger: Any) -> Log:
    if isinstance(logger, logging.Logger):
        return lambda metrics, step: logger.info("%s", _line(metrics, step))
    if inspect.isclass(logger):
        raise WatchError(f"log is the class {logger.__name__}, expected an object of it")
    if callable(add_scalar := getattr(logger, "add_scalar", None)):
        _check_call(logger, "add_scalar", add_scalar, "carbon/power_w", 0.0, 0)

        def add_scalars(metrics: dict[str, float], step: int) -> None:
            for name, value in metrics.items():
                add_scalar(name, value, step)

        return add_scalars
    for name in ("log_metrics", "log"):
        if callable(method := getattr(logger, name, None)):
            _check_call(logger, name, method, {}, step=0)
            return _with_step(method)
    if callable(logger):
        _check_call(logger, getattr(logger, "__qualname__", "a call of it"), logger, {}, 0)
        function: Log = logger
        return function
    raise WatchError(f"log is {_named(logger)}, expected {_EXPECTED}")


def _with_step(method: Callable[..., object]) -> Log:
    return lambda metrics, step: method(metrics, step=step)


def _check_call(logger: Any, name: str, method: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return  # some built-in functions tell no signature
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise WatchError(
            f"log is {_named(logger)}, and {name}{signature} cannot be called with figures and a step: "
            f"expected {_EXPECTED}"
        ) from error


def _named(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _line(metrics: dict[str, float], step: int) -> str:
    return f"step {step}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
