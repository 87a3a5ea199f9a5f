"""Keep the list of trainings that this process measures. A new training ends those that it replaces, and the end of the
program ends the rest.

A forked child measures none of them.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from carbon_plugin.detect.successor import weakly

logger = logging.getLogger(__name__)


class Training:
    """One training of this process. It is known to the others from `enter` to `leave`.

    Args:
        run_dir: The run directory.
        watched: The objects that are trained.
        gives_way: Whether nobody's script has started to measure it, so that one that measures itself replaces it.
        end: What ends it, with a reason. It is called where another training replaces it, and when the program ends.
        disarm: What makes its calls do nothing in a forked child.
    """

    def __init__(
        self,
        run_dir: Path,
        watched: tuple[Any, ...],
        *,
        gives_way: bool,
        end: Callable[[str], None],
        disarm: Callable[[], None],
    ) -> None:
        self._run_dir = run_dir
        self._watched = [weakly(thing) for thing in watched]
        self._gives_way = gives_way
        self._end = end
        self._disarm = disarm

    def end_others(self) -> None:
        """End each training that gives way, has the same run directory, or trains one of the same objects: the user has
        run a cell of a notebook again. End those too whose objects are gone: an exception has ended them, and nobody
        has closed them."""
        if any(other._watched for other in _measured):
            gc.collect()  # a model that an exception has left may be part of a cycle
        for other in list(_measured):
            same = any(mine() is its() is not None for mine in self._watched for its in other._watched)
            if other._watched and not any(thing() is not None for thing in other._watched):
                other._end("its model and its optimizer are gone")
                continue
            if other._gives_way:
                other._end("the script began to measure itself")
                continue
            if other._run_dir == self._run_dir and not same:
                logger.warning(
                    "carbon_plugin: trainings at a time need a run_dir each; the first in %s ends", self._run_dir
                )
            if other._run_dir == self._run_dir or same:
                other._end("another training began with its model, its optimizer or its run directory")

    def enter(self) -> None:
        """Make the training known from now on, and end it when the program ends."""
        _measured.append(self)
        atexit.register(self._at_exit)

    def enter_again(self) -> None:
        """End before a package that a sink has imported ends what it holds for this sink, since functions that are
        called at the exit are called in the reverse order. A second end does nothing."""
        if self in _measured:
            atexit.register(self._at_exit)

    def leave(self) -> None:
        """Forget the training, which has ended."""
        if self in _measured:
            _measured.remove(self)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        # The interpreter keeps the exception that ended the program, so that no handler is needed.
        self._end(reason_of(getattr(sys, "last_type", None), otherwise="exit"))


def any_measured() -> bool:
    """Return whether this process measures a training at present."""
    return bool(_measured)


def reason_of(kind: type[BaseException] | None, *, otherwise: str = "closed") -> str:
    """Return the reason of an end for the closing record: the exception that led to it, if there is one."""
    return otherwise if kind is None else f"exception: {kind.__name__}"


def _disarm_all() -> None:
    for training in list(_measured):
        training._disarm()


_measured: list[Training] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disarm_all)
