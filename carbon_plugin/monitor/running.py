"""Tell on another thread whether a function that calls us is still being called.

A trainer without a hook for exceptions ends without a word where one passes through it. In a notebook the process lives
on, for hours or days that are no part of the training.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from carbon_plugin.monitor.clock import TrainingClock

LEFT = "its trainer was left before its end"
"""The reason in the closing record of a training that nobody has ended."""


class RunningCall:
    """Represents the nearest call of a function, by its name and its module, on the stack of the thread that makes this
    object. It holds neither frames nor what is in them."""

    def __init__(self, module: str, name: str) -> None:
        self._thread = threading.get_ident()
        found = _nearest(sys._getframe(1), lambda frame: _is_of(frame, module, name))
        # A frame that is gone leaves its number to another one, which is of another function.
        self._frame = None if found is None else (id(found), found.f_code)

    @property
    def goes_on(self) -> bool:
        """Return whether the call has not returned, or True where there was none. Any thread may ask."""
        top = sys._current_frames().get(self._thread)
        return self._frame is None or _nearest(top, lambda frame: (id(frame), frame.f_code) == self._frame) is not None


class Presence:
    """Decides whether a training was left: at two looks, at least `least_s` apart, its call did not go on, and no step
    ended between them. A call that only waits on a stack of its own, as with greenlets, is not taken for left.
    """

    def __init__(
        self,
        call: RunningCall | None,
        clock: TrainingClock,
        least_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._now = now
        self._clock = clock
        self._least_s = least_s
        self._missed: tuple[float, int] | None = None

    def left(self) -> bool:
        """Look again, and return whether the training was left."""
        if self._call is None or self._call.goes_on:
            self._missed = None
            return False
        now_s, steps = self._now(), self._clock.mark.steps
        if self._missed is None or self._missed[1] != steps:
            self._missed = now_s, steps
        return now_s - self._missed[0] >= self._least_s


def _nearest(frame: FrameType | None, fits: Callable[[FrameType], bool]) -> FrameType | None:
    while frame is not None and not fits(frame):
        frame = frame.f_back
    return frame


def _is_of(frame: FrameType, module: str, name: str) -> bool:
    return frame.f_code.co_name == name and frame.f_globals.get("__name__") == module
