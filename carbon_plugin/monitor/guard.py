"""Turn every exception of this package into a warning, so that a training never sees it.

A signal handler of the script may raise in the middle of our code, as one does that ends a training at SIGTERM or after
a time. That exception is the script's, and goes on to it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from functools import partial, wraps
from traceback import walk_tb
from types import CodeType
from typing import Any, TypeVar, cast

from carbon_plugin.printable import brief
from carbon_plugin.threads.turns import give_way

logger = logging.getLogger(__name__)

T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[..., None])


class Guard:
    """Runs parts of the monitor, and switches a part off for good once it has raised.

    The first failure of a process is logged as a warning. Every failure is handed to `report` as (part, sentence) for
    the ledger.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._off: dict[str, str] = {}

    @property
    def failures(self) -> dict[str, str]:
        """Return the parts that are off, with a sentence on what happened to each."""
        return dict(self._off)

    def run(self, part: str, work: Callable[[], T], otherwise: T) -> T:
        """Return what `work` returns, or `otherwise` if it raises or the part is already off."""
        if part in self._off:
            return otherwise
        give_way()
        try:
            return work()
        except Exception as error:
            self.fail(part, error)
            return otherwise

    def fail(self, part: str, error: BaseException, *, alone: bool = False) -> None:
        """Switch a part off because of an exception. A part that stands `alone`, such as a logger of the user, is
        warned of whatever failed before. Raises the exception where a signal handler of the script has raised it."""
        if _is_of_a_signal_handler(error):
            raise error
        if part in self._off:
            return
        sentence = f"{part}: {brief(error)}"
        first = alone or not self._off
        self._off[part] = sentence
        log = logger.warning if first else logger.debug
        log("carbon_plugin: %s is switched off, training goes on; %s", part, sentence)
        logger.debug("what happened in %s", part, exc_info=error)
        self._report(part, sentence)

    def warn(self, part: str, error: BaseException) -> None:
        """Warn of a part that missed something and goes on, and hand that to `report`."""
        logger.warning("carbon_plugin: %s: %s; training goes on", part, error)
        self._report(part, f"{part}: {error}")


def harmless(hook: Hook) -> Hook:
    """Wrap a hook of a callback that holds a `CarbonMonitor` as `monitor`. If the hook fails, that monitor warns, and
    the trainer sees no exception."""

    @wraps(hook)
    def safe(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self.monitor.fail(hook.__name__, error)

    return cast(Hook, safe)


def _is_of_a_signal_handler(error: BaseException) -> bool:
    """Return whether an exception passed through a function that is a signal handler of this process."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    frames = walk_tb(error.__traceback__)
    return any(frame.f_code in codes for frame, _ in frames)


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a function, a method, a partial function or an object that can be called, or None for what is
    not written in Python."""
    while isinstance(handler, partial):
        handler = handler.func
    if not callable(handler):  # SIG_DFL, SIG_IGN
        return None
    found = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return found if isinstance(found, CodeType) else None
