"""Let the other threads of the process run in the middle of background work, before they have to wait noticeably.

Python switches between threads only every 5 ms, so that a training thread that is ready would wait that long for a
background thread that computes. A thread that has called `take_turns` therefore sleeps for a moment in `give_way`
whenever it has worked for `TURN_S`. Long computations call `give_way` between their pieces, whoever runs them: on
every other thread it does nothing. `tests/monitor/test_turns.py` counts what one piece does.

No pause divides a run of the garbage collector, which Python starts on the thread that makes the most new objects. The
values that a window makes by the dozen are therefore not followed by it (`gc=False`): they hold no cycle. What is young
when a measurement begins is collected before its thread starts (`monitor/measurement.py`).
"""

from __future__ import annotations

import threading
import time

TURN_S = 0.1e-3
"""A thread that takes turns works for about this long at a time. One more piece may follow, so that the longest wait is
about twice as long. Shorter turns cost more, because each begins with cold caches. Both times were chosen by the
monitor's own benchmark, `benchmarks/beside_others.py`."""
PAUSE_S = 1e-3
"""A pause must be long enough for a waiting thread to wake up and take the interpreter, also where other processes keep
the cores busy. It is several times as long as a turn, so that a step of a few milliseconds meets few of them."""


class _Turn(threading.local):
    until_s = float("inf")
    paused_s = 0.0


_turn = _Turn()


def take_turns() -> None:
    """Let this thread give way to others from now on."""
    _turn.until_s = time.monotonic() + TURN_S


def stop_taking_turns() -> None:
    """Let this thread work without pauses from now on, because the training waits for it."""
    _turn.until_s = float("inf")


def give_way() -> None:
    """Pause for a moment if this thread takes turns and its turn is over."""
    now_s = time.monotonic()
    if now_s >= _turn.until_s:
        time.sleep(PAUSE_S)
        resumed_s = time.monotonic()
        _turn.paused_s += resumed_s - now_s
        _turn.until_s = resumed_s + TURN_S


def worked_s() -> float:
    """Return the time of a clock that stands still while this thread pauses, s. Budgets of work are counted by it."""
    return time.monotonic() - _turn.paused_s
