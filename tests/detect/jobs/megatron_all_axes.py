"""All axes of Megatron-core at once: 16 ranks, forked from one process that has paid for the imports."""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from frameworks_megatron import parallel

RANKS = 16
DEGREES = {
    "tensor_model_parallel_size": 2,
    "pipeline_model_parallel_size": 2,
    "context_parallel_size": 2,
    "expert_model_parallel_size": 2,
    "expert_tensor_parallel_size": 2,
}


def rank_of(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(meeting, RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(minutes=20))
    torch.manual_seed(0)
    found = parallel(experts=True, num_layers=4, told={"sequence_parallel": True}, **DEGREES)
    dist.barrier()
    if rank == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> int:
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/store", sys.argv[1])
        ranks = [fork.Process(target=rank_of, args=(rank, *arguments)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


if __name__ == "__main__":
    sys.exit(main())
