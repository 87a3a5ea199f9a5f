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
_NESTED = {
    False: "carbon_plugin: this training is inside of the one in %s, which goes on; while both run, each of the two "
    "records has a part of the energy, so that their sum counts it once",
    True: "carbon_plugin: this training is inside of the one in %s, which goes on and records it; give the inner one a "
    "run_dir of its own for a record of its own",
}
"""What is said of a training inside of another one of the same objects, by whether both have one run directory."""


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
        self.in_block = False
        """Whether a `with` block holds it open, so that what begins inside the block is a part of it."""

    def takes_place(self) -> bool:
        """Return whether this training can begin beside the others, after those that it replaces were ended.

        It ends each one that gives way, has the same run directory, or trains one of the same objects: the user has run
        a cell of a notebook again. It ends those too whose objects are gone: an exception has ended them, and nobody
        has closed them. One that trains the same objects in an open `with` block goes on, because this one is a part of
        it: both are measured and share the energy, or, where both would record in one run directory, only the outer one
        is.
        """
        within = False
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
            if same and other.in_block:
                within |= other._run_dir == self._run_dir
                logger.warning(_NESTED[other._run_dir == self._run_dir], other._run_dir)
                continue
            if other._run_dir == self._run_dir and not same:
                logger.warning(
                    "carbon_plugin: trainings at a time need a run_dir each; the first in %s ends", self._run_dir
                )
            if other._run_dir == self._run_dir or same:
                other._end("another training began with its model, its optimizer or its run directory")
        return not within

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
        self._end(reason_of(getattr(sys, "last_value", None), otherwise="exit"))


def any_measured() -> bool:
    """Return whether this process measures a training at present."""
    return bool(_measured)


def reason_of(error: BaseException | None, *, otherwise: str = "closed") -> str:
    """Return the reason of an end for the closing record: the exception that led to it, if there is one.

    `sys.exit()` without a status of failure, and a generator that is closed, are orderly ends.
    """
    orderly = isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and error.code in (None, 0))
    return otherwise if error is None or orderly else f"exception: {type(error).__name__}"


def _disarm_all() -> None:
    for training in list(_measured):
        training._disarm()


_measured: list[Training] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disarm_all)
