"""Show one line to the user through `logging`, even where nobody has configured it."""

from __future__ import annotations

import logging
import sys
import threading

PACKAGE = logging.getLogger("carbon_plugin")
_LOCK = threading.Lock()


def say(sentence: str) -> None:
    """Log one line at INFO. Where nobody has configured logging, a temporary handler writes it to standard error.
    Levels that a user has set are respected.
    """
    with _LOCK:
        alone = not PACKAGE.hasHandlers() and logging.lastResort is not None
        level = PACKAGE.level
        handler = logging.StreamHandler(sys.stderr)
        if alone:
            PACKAGE.addHandler(handler)
            PACKAGE.setLevel(level or logging.INFO)
        try:
            PACKAGE.info("carbon_plugin: %s", sentence)
        finally:
            if alone:
                PACKAGE.removeHandler(handler)
                PACKAGE.setLevel(level)
