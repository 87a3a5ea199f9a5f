"""Runs the jobs that are named, each framework in a world of its own, and writes what is detected:
`frameworks_all.py FOUND.json FRAMEWORK=JOB,JOB...`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import Model

from carbon_plugin.detect.live import detect


def main() -> None:
    warnings.filterwarnings("ignore")
    detect.__kwdefaults__["budget_s"] = 60.0  # a busy machine must not cut a look short
    rank, world_size, out = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(sys.argv[1])
    results: dict[str, object] = {"parameters": sum(p.numel() for p in Model().parameters())}
    for argument in sys.argv[2:]:
        framework, _, names = argument.partition("=")
        store = dist.FileStore(f"{out}.{framework}", world_size)
        timeout = timedelta(seconds=60)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
        for name, job in import_module(f"frameworks_{framework}").jobs():
            if name not in names.split(","):
                continue
            torch.manual_seed(0)
            results[name] = job()
            dist.barrier()
        dist.destroy_process_group()
    if rank == 0:
        out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
