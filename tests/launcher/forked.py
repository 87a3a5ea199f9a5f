"""A launcher like torchrun whose jobs share one import of torch and of the frameworks: `forked.py MODULE,MODULE`.

Importing torch and a framework costs a process more than the short jobs of the tests do. This program imports the named
modules once. Then it reads jobs, one a line of its standard input, forks a process for each, and answers with a line
that has the exit code. The process imports what the job needs besides and runs the script as its main program: by
itself, or in ranks that it forks under torchrun's variables and with a store that it keeps, as torchrun does.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
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


def run_script(script: str, arguments: list[str]) -> None:
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def run_ranks(processes: int, script: str, arguments: list[str]) -> None:
    """Fork the ranks and wait for them; returns in a rank, when its script has ended, and nowhere else."""
    run_id = uuid.uuid4().hex
    ports, writer = os.pipe()
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

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    os.write(writer, f"{store.port:05d}".encode() * processes)
    sys.exit(wait_for(ranks))


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
    load_libraries()
    import_all(job["modules"])
    if job["processes"] is None:
        run_script(job["script"], job["arguments"])
    else:
        run_ranks(job["processes"], job["script"], job["arguments"])


def main(modules: list[str]) -> None:
    import_all(modules)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
            return
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(list(filter(None, sys.argv[1].split(","))))
