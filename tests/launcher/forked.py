"""A launcher like torchrun whose ranks share one import of torch: `forked.py PROCESSES MODULES SCRIPT ARGUMENT...`.

Importing torch and the frameworks costs a rank more than the short jobs of the tests do. This program imports the named
modules (MODULE,MODULE) once and then forks the ranks, which run the script as their main program, under torchrun's
variables and with a store that the launcher keeps, as torchrun does.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import uuid
from datetime import timedelta
from importlib import import_module
from pathlib import Path


def variables(rank: int, processes: int, run_id: str) -> dict[str, str]:
    """What torchrun sets for a rank of a job on one host, but for the port of the store."""
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
    """Exit code of the first rank that failed, after the others were ended; 0 if all went well."""
    for _ in range(len(ranks)):
        pid, status = os.wait()
        ranks.remove(pid)
        if code := os.waitstatus_to_exitcode(status):
            for other in ranks:
                os.kill(other, signal.SIGTERM)
            return abs(code)
    return 0


def main(processes: int, modules: str, script: str, arguments: list[str]) -> None:
    for name in filter(None, modules.split(",")):
        import_module(name)
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
            sys.argv = [script, *arguments]
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
            return
        ranks.append(pid)
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    os.write(writer, f"{store.port:05d}".encode() * processes)
    sys.exit(wait_for(ranks))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
