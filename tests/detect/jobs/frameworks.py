"""Runs the jobs of a framework that are named, in four ranks, and writes what is detected:
`frameworks.py FOUND.json FRAMEWORK JOB...`."""

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
    framework, names = sys.argv[2], sys.argv[3:]
    results: dict[str, object] = {"parameters": sum(p.numel() for p in Model().parameters())}
    store = dist.FileStore(f"{out}.store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(minutes=20))
    for name, job in import_module(f"frameworks_{framework}").jobs():
        if name in names:
            torch.manual_seed(0)
            results[name] = job()
            dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
