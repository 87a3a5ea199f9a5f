"""The one place that turns an exception of ours into a warning, so that a training never sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)

T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[..., None])


class Guard:
    """Runs parts of the monitor; one that raises is switched off for good.

    The first failure of a process is one warning; all are handed to `report` as (part, sentence) for the ledger.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._off: dict[str, str] = {}

    @property
    def failures(self) -> dict[str, str]:
        """Parts that are off, with what happened."""
        return dict(self._off)

    def run(self, part: str, work: Callable[[], T], otherwise: T) -> T:
        """What `work` returns; `otherwise` if it raises, or did before."""
        if part in self._off:
            return otherwise
        try:
            return work()
        except Exception as error:
            self.fail(part, error)
            return otherwise

    def fail(self, part: str, error: BaseException) -> None:
        """Switch a part off because of an exception."""
        if part in self._off:
            return
        sentence = f"{part}: {type(error).__name__}: {error}"
        first = not self._off
        self._off[part] = sentence
        log = logger.warning if first else logger.debug
        log("carbon_plugin: %s is switched off, training goes on; %s", part, sentence)
        logger.debug("what happened in %s", part, exc_info=error)
        self._report(part, sentence)


def harmless(hook: Hook) -> Hook:
    """A hook of a callback that holds a `CarbonMonitor` as `monitor`: its failure is a warning of that monitor and
    never the trainer's."""

    @wraps(hook)
    def safe(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self.monitor.fail(hook.__name__, error)

    return cast(Hook, safe)
