"""Hold the receivers of a training's figures: the sinks of `log=`, and the loggers of the trainer.

A sink gets each row on a thread of its own. The trainer's loggers are called on the training thread, because the
trainer uses them there too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbon_plugin.sinks.sink import Sink

if TYPE_CHECKING:
    from carbon_plugin.sinks.delivery import Delivery, Trouble
    from carbon_plugin.sinks.given import Log
    from carbon_plugin.sinks.row import Row
    from carbon_plugin.spec.alerts import Alert

AlertFunction = Callable[["Alert"], object]


class Loggers:
    """Holds sinks, and functions of the trainer that take figures and a step. A copy or a pickle holds none, because
    rows belong to one process.

    Args:
        sinks: The sinks of `log=`. Default: none.
    """

    def __init__(self, sinks: tuple[Sink, ...] = (), alert_functions: tuple[AlertFunction, ...] = ()) -> None:
        self._sinks = sinks
        self.alert_functions = alert_functions
        """Functions that take an alert, of the loggers that have something of the kind, such as a W&B run."""
        self._logs: list[Log] = []
        self._delivery: Delivery | None = None

    def __bool__(self) -> bool:
        """Return whether the training thread has anything to call."""
        return bool(self._logs)

    def __reduce__(self) -> tuple[type[Loggers], tuple[()]]:
        return Loggers, ()

    @property
    def has_sinks(self) -> bool:
        """Return whether rows are wanted."""
        return bool(self._sinks)

    def add(self, log: Log) -> None:
        """Add a function of the trainer, to be called on the training thread. One that is already there is not added
        again."""
        if log not in self._logs:
            self._logs.append(log)

    def write(self, metrics: dict[str, float], step: int) -> Iterator[tuple[str, Exception]]:
        """Call each function of the trainer with a copy of the figures. Yield the name and the exception of one that
        raises, and call it no more."""
        for log in tuple(self._logs):
            try:
                log(dict(metrics), step)
            except Exception as error:
                self._logs.remove(log)
                yield str(getattr(log, "__qualname__", type(log).__name__)), error

    def start(self, trouble: Trouble, opened: Callable[[], None]) -> None:
        """Start the threads of the sinks, as `Delivery` says."""
        if self._sinks:
            from carbon_plugin.sinks.delivery import Delivery

            self._delivery = Delivery(self._sinks, trouble, opened)
            self._delivery.start()

    def put(self, row: Row) -> None:
        """Hand a row to the sinks. This never waits."""
        if self._delivery is not None:
            self._delivery.put(row)

    def close(self, last: Row | None, run_dir: Path, *, wait: bool = True) -> None:
        """Hand over the last row and end the sinks, as `Delivery` says."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.close(last, run_dir, wait=wait)

    def forget(self) -> None:
        """Drop the threads of the sinks in a forked child, which has none of them."""
        if self._delivery is not None:
            self._delivery.forget()
            self._delivery = None


def loggers_of(log: Any) -> Loggers:
    """Return the loggers that a user handed over as `log=`. `Loggers` come back as they are.

    Raises `WatchError` as `sinks_of` does.
    """
    if isinstance(log, Loggers):
        return log
    from carbon_plugin.sinks.choose import sinks_of

    several = log if isinstance(log, list | tuple) else () if log is None else (log,)
    sinks = sinks_of(log)
    functions = (_alert_function_of(sink, one) for sink, one in zip(sinks, several, strict=True))
    return Loggers(sinks, tuple(function for function in functions if function is not None))


def _alert_function_of(sink: Sink, logger: Any) -> AlertFunction | None:
    """Return what hands an alert to a sink that takes some, else to a logger with a method `alert(title=..., text=...)`
    such as that of a W&B run."""
    from carbon_plugin.sinks.sink import Sink

    takes = type(sink).alert is not Sink.alert
    method = sink.alert if takes else getattr(logger, "alert", None)
    if not callable(method) or inspect.isclass(logger):
        return None
    return lambda alert: method(title=f"carbon_plugin: {alert.kind.replace('_', ' ')}", text=alert.message)
