"""Let the other threads of the process run in the middle of background work, before they have to wait noticeably.

Python switches between threads only every 5 ms, so that a training thread that is ready would wait that long for a
background thread that computes. A thread that has called `take_turns` therefore sleeps for a moment in `give_way`
whenever it has worked for `TURN_S` and the training may wait for it. Long computations call `give_way` between their
pieces, whoever runs them: on every other thread it does nothing. `tests/monitor/test_turns.py` counts what one piece
does.

No pause divides a run of the garbage collector, which Python starts on the thread that makes the most new objects. The
values that a window makes by the dozen are therefore not followed by it (`gc=False`): they hold no cycle. What is young
when a measurement begins is collected before its thread starts (`monitor/measurement.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TURN_S = 0.1e-3
"""A thread that takes turns works for about this long at a time. One more piece may follow, so that the longest wait is
about twice as long. Both times of a turn, and that of a pause, were chosen by the monitor's own benchmark,
`benchmarks/beside_others.py`."""
LONGEST_TURN_S = 0.25e-3
"""A turn goes on for up to this long while the training thread computes without the interpreter, as in a product of
matrices: then nothing waits for this thread, and a pause would only cost the caches that it has filled. Another thread
may wait all the same, so that no turn is longer."""
LOOK_S = 0.025e-3
"""In a turn that goes on, the clock of the training thread is read once in this time."""
COMPUTING = 0.8
"""A training thread that has used this share of the time since the last look on a core does not wait for the
interpreter."""
PAUSE_S = 1e-3
"""A pause must be long enough for a waiting thread to wake up and take the interpreter, also where other processes keep
the cores busy. It is several times as long as a turn, so that a step of a few milliseconds meets few of them."""


class _Turn(threading.local):
    until_s = float("inf")
    latest_s = float("inf")
    training: int | None = None
    looked_s = 0.0
    used_s = 0.0
    paused_s = 0.0


_turn = _Turn()


def own_clock() -> int | None:
    """Return the number of the clock of the CPU time of the calling thread, which other threads of the process can
    read, or None on a system without such clocks."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())


def take_turns(training: int | None = None) -> None:
    """Let this thread give way to others from now on. `training` is the `own_clock` of the training thread, if it is
    known."""
    _turn.training = training
    _begin(time.monotonic())


def stop_taking_turns() -> None:
    """Let this thread work without pauses from now on, because the training waits for it."""
    _turn.until_s = float("inf")


def turn_of_this_thread() -> Callable[[], None]:
    """Return what another thread does first when it works for the calling one, which waits for it: it goes on with its
    turn, so that both together do not work for longer than one. It takes no turns where the calling one takes none."""
    mine = (_turn.until_s, _turn.latest_s, _turn.training, _turn.looked_s, _turn.used_s)

    def go_on() -> None:
        _turn.until_s, _turn.latest_s, _turn.training, _turn.looked_s, _turn.used_s = mine

    return go_on


def give_way() -> None:
    """Pause for a moment if this thread takes turns, its turn is over, and the training may wait for it."""
    now_s = time.monotonic()
    if now_s < _turn.until_s:
        return
    if now_s < _turn.latest_s and _training_computes(now_s):
        _turn.until_s = now_s + LOOK_S
        return
    time.sleep(PAUSE_S)
    resumed_s = time.monotonic()
    _turn.paused_s += resumed_s - now_s
    _begin(resumed_s)


def worked_s() -> float:
    """Return the time of a clock that stands still while this thread pauses, s. Budgets of work are counted by it."""
    return time.monotonic() - _turn.paused_s


def _begin(now_s: float) -> None:
    """Begin a turn."""
    _turn.until_s, _turn.latest_s = now_s + TURN_S, now_s + LONGEST_TURN_S
    _training_computes(now_s)


def _training_computes(now_s: float) -> bool:
    """Return whether the training thread has been on a core since the last look at its clock. A thread that waits, for
    the interpreter or for anything else, is not, and neither is one that the machine keeps from its core."""
    if _turn.training is None:
        return False
    try:
        used_s = time.clock_gettime(_turn.training)
    except OSError:  # the thread has ended
        return False
    computes = used_s - _turn.used_s >= COMPUTING * (now_s - _turn.looked_s)
    _turn.looked_s, _turn.used_s = now_s, used_s
    return computes
