"""Wait for another thread of this process, and count only time in which that thread could have worked.

A process can stand still: SIGSTOP, a scheduler that suspends jobs, a paused container, a machine without a free core.
None of its threads does anything meanwhile, so that a wait by the clock would be over before the other thread has had
a chance. Such a wait is therefore made of short ones, of which each counts for a moment at most, however long it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PIECE_S = 0.25
"""The length of a short wait. A process that runs wakes four times a second, which costs it nothing that can be
measured."""
MOST_S = 2 * PIECE_S
"""A short wait counts as no more than this. It is twice its length, so that the usual delays of a busy machine count,
and a wait is about as long as stated there too."""


def wait_while_running(wait: Callable[[float], object], happened: Callable[[], bool], within_s: float) -> bool:
    """Return whether something has happened within a time, s, without the time for which this process stood still.

    Args:
        wait: Waits for what is to happen, for at most the seconds that it is given.
        happened: Returns whether it has happened.
        within_s: The longest time to wait for, s. With 0 or less nothing is waited for.
    """
    left_s = within_s
    while left_s > 0 and not happened():
        began_s = time.monotonic()
        wait(min(left_s, PIECE_S))
        left_s -= min(time.monotonic() - began_s, MOST_S)
    return happened()
