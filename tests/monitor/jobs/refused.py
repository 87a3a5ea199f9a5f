"""Trainings in each of which the system refuses to open one file: `refused.py FOLDER`.

It refuses the first file of each line of this package that opens one on a thread of ours, one line a training, until a
training is refused nothing. It prints the lines, what is off, the open files after each training, and whether a process
that was refused a file when it joined its launch has joined it later.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import threading
import time
from pathlib import Path

from carbon_plugin.monitor import thread
from carbon_plugin.monitor.measurement import USED_BY_THE_THREAD
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.processes.leader import HOST, Election
from carbon_plugin.monitor.processes.scratch import open_scratch

STEPS = 5
REFUSES = threading.Event()
REFUSED: list[str] = []


def place() -> str | None:
    """Return the lines of this package through which a file is being opened."""
    frame, lines = sys._getframe(2), []
    while frame is not None:
        if "carbon_plugin" in frame.f_code.co_filename:
            lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return " ".join(lines[:3]) or None


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    opens_one = event == "open" and not isinstance(arguments[0], int)  # a file object on an open file is none
    if opens_one and REFUSES.is_set() and threading.current_thread().name == "carbon-plugin":
        opens = place()
        if opens is not None and opens not in REFUSED:
            REFUSES.clear()
            REFUSED.append(opens)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), arguments[0])


def forget_what_was_read() -> None:
    for module in [module for name, module in sys.modules.items() if name.startswith("carbon_plugin")]:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


def train(folder: Path) -> tuple[bool, dict[str, str]]:
    """Train, and return whether a file was refused, and what is off."""
    forget_what_was_read()
    REFUSES.set()
    monitor = CarbonMonitor(site="FRA", run_dir=folder, quiet=True)
    monitor.start()
    while not any(folder.glob("*.jsonl")):  # the work has begun
        time.sleep(0.005)
    for _ in range(STEPS):
        monitor.step_end(tokens=10)
    monitor.close()
    refused = not REFUSES.is_set()
    REFUSES.clear()
    return refused, monitor._guard.failures


def join(results: list[tuple[bool, tuple[str, ...]]]) -> None:
    """Join launches as a process does, again where a file was refused."""
    refused = True
    while refused:
        REFUSES.set()
        election = None
        while election is None:
            try:
                election = Election(f"launch {len(results)}", open_scratch(), rank=0, ranks=2)
            except OSError:
                continue
        refused = not REFUSES.is_set()
        REFUSES.clear()
        results.append((election.alone, election.take([HOST], 0.0)))
        election.end()


def main(folder: Path) -> None:
    for name in USED_BY_THE_THREAD:
        __import__(name)
    sys.addaudithook(refuse)
    thread._FILES_AGAIN_S = 0.01
    off, files, refused = {}, [], True
    while refused:
        refused, failures = train(folder / f"run-{len(files)}")
        off |= failures
        files.append(len(os.listdir("/proc/self/fd")))
    of_trainings = [*REFUSED]
    joined: list[tuple[bool, tuple[str, ...]]] = []
    joining = threading.Thread(target=join, args=(joined,), name="carbon-plugin")
    REFUSED.clear()
    joining.start()
    joining.join()
    print(json.dumps({"refused": of_trainings, "off": off, "files": files, "joined": joined, "joins": REFUSED}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
