"""Wait for another thread of this process, and count only time in which that thread could have worked.

A process can stand still: SIGSTOP, a scheduler that suspends jobs, a paused container, a machine without a free core.
None of its threads does anything meanwhile, so that a wait by the clock would be over before the other thread has had
a chance. Such a wait is therefore made of short ones, and a short one that lasts longer than it should still counts as
a short one.
"""

from __future__ import annotations

from collections.abc import Callable

PIECE_S = 0.1
"""The longest time that one short wait counts as. A process that stands still while it waits loses at most this much of
its patience, and a process that runs wakes ten times a second, which costs it nothing that can be measured."""


def wait_while_running(wait: Callable[[float], object], happened: Callable[[], bool], within_s: float) -> bool:
    """Return whether something has happened within a time, s, without the time for which this process stood still.

    Args:
        wait: Waits for what is to happen, for at most the seconds that it is given.
        happened: Returns whether it has happened.
        within_s: The longest time to wait for, s. With 0 or less nothing is waited for.
    """
    left_s = within_s
    while left_s > 0 and not happened():
        wait(min(left_s, PIECE_S))
        left_s -= PIECE_S
    return happened()
