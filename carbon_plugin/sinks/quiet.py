"""Keep signals away from threads of this package, so that they reach the thread of the training."""

from __future__ import annotations

import signal

# Some systems lack some of these.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
_QUIET = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}


def leave_signals_to_the_training() -> None:
    """Block, in the calling thread, the signals that a training may handle. Signal handlers stay as they are."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _QUIET)
