"""Turn every exception of this package into a warning, so that a training never sees it.

A signal handler of the script may raise in the middle of our code, as one does that ends a training at SIGTERM or after
a time. That exception is the script's, and goes on to it.
"""

from __future__ import annotations

import errno
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

_NO_FILE_LEFT = (errno.EMFILE, errno.ENFILE)

T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[..., None])


class Guard:
    """Runs parts of the monitor, and switches a part off for good once it has raised.

    A part that fails only because the process, or the machine, has no file left to open is not switched off: it misses
    something now and is run again. The first failure of a process is logged as a warning, and so is the first that is
    missed. Each part's failure is handed to `report` as (part, sentence) for the ledger.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._off: dict[str, str] = {}
        self._missed: set[str] = set()

    @property
    def failures(self) -> dict[str, str]:
        """Return the parts that are off, with a sentence on what happened to each."""
        return dict(self._off)

    def run(self, part: str, work: Callable[[], T], otherwise: T, *, once: bool = False, begins: bool = False) -> T:
        """Return what `work` returns, or `otherwise` if it raises or the part is already off. A part that runs only
        `once` is off whatever it raises. Of a part that `begins` the exception is raised where no file can be opened,
        because nothing would make it later; the caller is run again."""
        if part in self._off:
            return otherwise
        give_way()
        try:
            return work()
        except Exception as error:
            if begins and passes(error):
                raise
            if once or not passes(error):
                self.fail(part, error)
            else:
                self.miss(part, error)
            return otherwise

    def attempt(self, part: str, work: Callable[[], T], otherwise: T) -> T:
        """Return what `work` returns, or `otherwise` if no file can be opened at this moment: the caller runs it again
        later. Any other exception is raised."""
        try:
            return work()
        except Exception as error:
            if not passes(error):
                raise
            self.miss(part, error)
            return otherwise

    def miss(self, part: str, error: BaseException) -> None:
        """Say once of a part that it has missed something, and goes on as soon as the process can open files again."""
        if part not in self._missed:
            first = not self._missed
            self._missed.add(part)
            (self.warn if first else self._note)(part, error)

    def _note(self, part: str, error: BaseException) -> None:
        self._report(part, f"{part}: {error}")

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


def passes(error: BaseException) -> bool:
    """Return whether an exception, or what it was raised from, says that no file can be opened at this moment."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _NO_FILE_LEFT:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


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
