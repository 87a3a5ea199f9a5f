"""Let the other threads of the process run in the middle of background work, before they have to wait noticeably.

Python switches between threads only every 5 ms, so that a training thread that is ready would wait that long for a
background thread that computes. A thread that has called `take_turns` therefore sleeps for a moment in `give_way`
whenever it has worked for `TURN_S`. Long computations call `give_way` between their pieces, whoever runs them: on
every other thread it does nothing.
"""

from __future__ import annotations

import threading
import time

TURN_S = 0.1e-3
"""A thread that takes turns works for about this long at a time. The caches are cold after a step of the training, and
one more piece may follow, so that the longest wait is a few times as long."""
PAUSE_S = 0.2e-3
"""A pause must be long enough for a waiting thread to wake up and take the interpreter."""


class _Turn(threading.local):
    until_s = float("inf")


_turn = _Turn()


def take_turns() -> None:
    """Let this thread give way to others from now on."""
    _turn.until_s = time.monotonic() + TURN_S


def give_way() -> None:
    """Pause for a moment if this thread takes turns and its turn is over."""
    if time.monotonic() >= _turn.until_s:
        time.sleep(PAUSE_S)
        _turn.until_s = time.monotonic() + TURN_S
