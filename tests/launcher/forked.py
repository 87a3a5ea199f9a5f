"""A launcher like torchrun whose jobs share one import of torch and of the frameworks: `forked.py MODULE,MODULE FILE`.

Importing torch and a framework costs a process more than the short jobs of the tests do. This program imports the named
modules once. Then it forks a process for each worker of the tests that connects to the socket FILE. That process reads
jobs, one a line, and forks a process for each. It answers with a line `pid NUMBER PID` when a job has begun and
`code NUMBER EXIT_CODE` when it has ended. The process of a job imports what the job needs besides and runs the script
as its main program: by itself, or in ranks that it forks under torchrun's variables and with a store that it keeps, as
torchrun does.

A process here has hundreds of thousands of objects that it only inherited. `gc.freeze` keeps the collector from walking
through them, and `leave` keeps the interpreter from taking them apart at the end, which costs a rank seconds.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any


def variables(rank: int, processes: int, run_id: str) -> dict[str, str]:
    """Return what torchrun sets for a rank of a job on one host, except the port of the store."""
    ours = dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), str(rank))
    world = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), str(processes))
    elastic = {"RUN_ID": run_id, "RESTART_COUNT": "0", "MAX_RESTARTS": "0", "USE_AGENT_STORE": "True"}
    return {
        **ours,
        **world,
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "localhost",
        **{f"TORCHELASTIC_{name}": value for name, value in elastic.items()},
    }


def wait_for(ranks: list[int]) -> int:
    """Return the exit code of the first rank that failed, after the others were ended; 0 if all went well."""
    for _ in range(len(ranks)):
        pid, status = os.wait()
        ranks.remove(pid)
        if code := os.waitstatus_to_exitcode(status):
            for other in ranks:
                os.kill(other, signal.SIGTERM)
            return abs(code)
    return 0


def import_all(modules: Iterable[str]) -> None:
    for name in modules:
        import_module(name)


ended: list[int] = []
"""The exit code of the script that this process has run, unless it ended with an exception."""


def run_script(script: str, arguments: list[str]) -> None:
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        ended.append(end.code or 0)
    else:
        ended.append(0)


def leave() -> None:
    """Leave this process as the last of what it does at its exit."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def run_ranks(processes: int, script: str, arguments: list[str]) -> None:
    """Fork the ranks and wait for them. This function returns only in a rank, when its script has ended."""
    run_id = uuid.uuid4().hex
    ports, writer = os.pipe()
    gc.freeze()
    ranks: list[int] = []
    for rank in range(processes):  # all of them before the store, whose thread a fork would not take along
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            port = os.read(ports, 5).decode()
            os.close(ports)
            os.environ.update(variables(rank, processes, run_id), MASTER_PORT=port)
            run_script(script, arguments)
            return
        ranks.append(pid)
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=20))
    os.write(writer, f"{store.port:05d}".encode() * processes)
    ended.append(wait_for(ranks))
    sys.exit(ended[0])


def load_libraries() -> None:
    """Load what LD_LIBRARY_PATH holds: the loader reads that variable when a program begins, not when it is forked."""
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        for library in Path(folder).glob("*.so.1"):
            ctypes.CDLL(str(library))


def become(job: dict[str, Any]) -> None:
    """Take the output files, the folder and the variables of a job, and run it."""
    for number, path in enumerate((os.devnull, job["output"], job["errors"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):  # a line at a time, so that lines of two ranks never mix
        stream.reconfigure(line_buffering=True, write_through=False)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    tempfile.tempdir = None  # it was chosen by the variables of the launcher, if an import has asked
    load_libraries()
    import_all(job["modules"])
    if job["processes"] is None:
        run_script(job["script"], job["arguments"])
    else:
        run_ranks(job["processes"], job["script"], job["arguments"])


def answer(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def meet(listening: socket.socket) -> None:
    """Fork a process for each worker that connects, with the connection as its standard input and output. Return in
    such a process, and nowhere else: this one ends when all of them have gone.
    """
    workers: set[int] = set()
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select([listening, woken], [], [])
        if listening in readable:
            connection, _ = listening.accept()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for number in (0, 1):
                    os.dup2(connection.fileno(), number)
                for unused in (connection, listening):
                    unused.close()
                os.close(woken)
                os.close(waker)
                os.write(1, b"!")
                return
            connection.close()
            workers.add(pid)
        else:
            os.read(woken, 4096)
            workers -= {pid for pid in workers if os.waitpid(pid, os.WNOHANG)[0]}
            if not workers:
                os._exit(0)


def serve() -> dict[str, Any]:
    """Fork a process for every job that comes in. This function returns only in such a process, with its job."""
    heard, jobs = b"", {}
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            for pid in [*jobs]:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    answer(f"code {jobs.pop(pid)} {os.waitstatus_to_exitcode(status)}")
        if 0 not in readable:
            continue
        told = os.read(0, 65536)
        if not told:
            os._exit(0)
        *lines, heard = (heard + told).split(b"\n")
        for line in lines:
            job: dict[str, Any] = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(woken)
                os.close(waker)
                return job
            jobs[pid] = job["number"]
            answer(f"pid {job['number']} {pid}")


def main(modules: list[str], listening: int) -> None:
    atexit.register(leave)  # what is registered first is called last
    import_all(modules)
    gc.freeze()
    meet(socket.socket(fileno=listening))
    become(serve())


if __name__ == "__main__":
    main(list(filter(None, sys.argv[1].split(","))), int(sys.argv[2]))
