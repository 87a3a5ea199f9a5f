"""Read runs of a fleet in a process of its own: chunks come by standard input, and results go to standard output."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys

from carbon_plugin.fleet.rows.reading import read_run


def main() -> None:
    """Answer each chunk of runs with the list of their results, until the input ends."""
    # Looking for reference cycles among the modules over and over takes a twentieth of the time.
    gc.freeze()
    gc.disable()
    with os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)  # whatever a library prints must not stand among the results
        known = pickle.load(sys.stdin.buffer)
        while True:
            try:
                chunk = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump([read_run(task, known, processes=1) for task in chunk], results)
            results.flush()
            gc.collect()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
