"""Read run directories into rows, in as many processes as their number is worth, and give them in their order.

The result does not depend on the number of processes: each run is read by itself, and the caller gets them in the order
in which it named them.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Container, Generator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError, FleetError
from carbon_plugin.fleet.rows.run_rows import RunRows, rows_of
from carbon_plugin.fleet.rows.scan import FoundRun, content_of, on_disk
from carbon_plugin.fleet.store.places import AccessError

PROCESS_RUNS = 200
PROCESS_BYTES = 64 << 20
"""A process is worth so many runs, or so many bytes of ledgers: it takes about half a second to start."""
MAX_PROCESSES = 8
CHUNK_RUNS = 16
"""A process is given so many runs at a time."""

_log = logging.getLogger(__name__)

_Process = subprocess.Popen[bytes]


class RunToRead(Struct, frozen=True):
    """A run to read, and the digest of the content that the store has seen at its place, empty for none."""

    run: FoundRun
    before: str


class ReadRun(Struct, frozen=True, kw_only=True):
    """One instance holds the result of reading a run.

    `content` is the digest of its files, or empty where they could not be reached. `rows` is None where the store has
    the content already, where `problem` says why the run cannot be ingested, or where `unreached` says why its files
    could not be reached. `refused` says that the place refuses access to everybody, so that no other run there can be
    reached either.
    """

    run: FoundRun
    content: str = ""
    rows: RunRows | None = None
    problem: str = ""
    unreached: str = ""
    refused: bool = False


def read_runs(
    runs: Sequence[FoundRun], before: Mapping[str, str], known: frozenset[str], processes: int | None = None
) -> Generator[ReadRun, None, None]:
    """Yield the result of reading each run, in the order of the runs.

    `before` maps places to the content that the store has seen there, and `known` is the content whose rows it holds. A
    run with either content is not read. `processes` is the number of processes; by default it follows from the number
    of runs.
    """
    tasks = [RunToRead(run, before.get(run.place.url, "")) for run in runs]
    count = _worth(runs) if processes is None else processes
    if count < 2:
        for task in tasks:
            yield read_run(task, known)
        return
    chunks = [tasks[start : start + CHUNK_RUNS] for start in range(0, len(tasks), CHUNK_RUNS)]
    workers = [_Worker(known) for _ in range(min(count, len(chunks)))]
    try:
        for worker, chunk in zip(workers, chunks, strict=False):
            worker.give(chunk)
        for number, chunk in enumerate(chunks):
            worker = workers[number % len(workers)]
            found = worker.result()
            if number + len(workers) < len(chunks):
                worker.give(chunks[number + len(workers)])
            yield from found or (read_run(task, known, processes=1) for task in chunk)
    finally:
        for worker in workers:
            worker.end()


def read_run(task: RunToRead, known: Container[str], processes: int | None = None) -> ReadRun:
    """Return the result of reading one run. `processes` share the work of a large run."""
    run, content = task.run, ""
    try:
        with on_disk(run) as directory:
            content = content_of(directory, run)
            if content == task.before or content in known:
                return ReadRun(run=run, content=content)
            found = _rows(directory, run, content, processes)
    except AccessError as error:
        return ReadRun(run=run, unreached=str(error), refused=True)
    except FleetError as error:
        return ReadRun(run=run, unreached=str(error))
    if isinstance(found, str):
        return ReadRun(run=run, content=content, problem=found)
    return ReadRun(run=run, content=content, rows=found)


def _rows(directory: Path, run: FoundRun, content: str, processes: int | None) -> RunRows | str:
    """Return the rows of a run, or the reason why there are none."""
    try:
        return rows_of(directory, run.place.url, content, processes)
    except FleetError:
        raise
    except CarbonPluginError as error:
        return str(error).replace(str(directory), run.place.url)
    except Exception as error:  # a foreign file must not stop the thousands of others
        return f"it cannot be read: {type(error).__name__}: {error}"


def _worth(runs: Sequence[FoundRun]) -> int:
    """Return how many processes reading these runs is worth on this machine."""
    if any(run.place.is_of_this_process for run in runs):
        return 1
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    size = sum(file.size for run in runs for file in run.files)
    return min(here, MAX_PROCESSES, len(runs), max(len(runs) // PROCESS_RUNS, size // PROCESS_BYTES))


class _Worker:
    """A process that reads runs. It holds one chunk at a time, so that neither side waits for the other to read."""

    def __init__(self, known: frozenset[str]) -> None:
        self._process = _started()
        self._send(known)

    def give(self, chunk: Sequence[RunToRead]) -> None:
        """Let the process read some runs. The result of an earlier chunk must have been taken."""
        self._send(chunk)

    def result(self) -> list[ReadRun] | None:
        """Return what the process has read, or None where it has ended."""
        if self._process is None or self._process.stdout is None:
            return None
        try:
            found: list[ReadRun] = pickle.load(self._process.stdout)
        except (pickle.UnpicklingError, EOFError, OSError) as error:
            status = self._process.wait()
            _log.warning("fleet: a process ended with status %d (%s); its runs are read again here", status, error)
            self._process = None
            return None
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _send(self, what: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()
        except OSError:  # it has ended: `result` says so
            return


def _started() -> _Process | None:
    """Start a process that reads runs, and return it, or None where no process can be started.

    It is a plain process and not a pool of `multiprocessing`, which would run the caller's script again.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "carbon_plugin.fleet.rows.worker"]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
    except OSError as error:
        _log.warning("fleet: no other process can be started (%s), so it takes longer", error)
        return None
