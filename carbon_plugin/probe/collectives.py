"""Time the collectives of data-parallel training over all ranks, and fit the two constants of their equations.

`measure_collectives` needs an initialised process group; `fit_link` needs only numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from carbon_plugin.predict.time.network import REDUCE_LATENCY_SHARE
from carbon_plugin.probe.result import CollectiveTime

if TYPE_CHECKING:
    import torch

CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter"]
KINDS: tuple[CollectiveKind, ...] = ("all_reduce", "all_gather", "reduce_scatter")
CPU_SIZES_BYTES = (1 << 14, 1 << 20, 1 << 23)
GPU_SIZES_BYTES = (1 << 14, 1 << 23, 1 << 28)
MAX_CALLS = 200


class Link(NamedTuple):
    """Holds the bytes/s of a rank on the wire, and the seconds that an empty all-reduce takes per doubling of ranks."""

    bandwidth_bytes_per_s: float
    latency_s: float


def measure_collectives(
    device: torch.device, wait: Callable[[], None], ranks: int, budget_s: float
) -> tuple[CollectiveTime, ...]:
    """Return the median seconds of each collective at a small, a middle and a large size.

    All ranks make the same calls.
    """
    sizes = GPU_SIZES_BYTES if device.type == "cuda" else CPU_SIZES_BYTES
    each_s = budget_s / len(KINDS) / len(sizes)
    return tuple(
        CollectiveTime(
            kind=kind, size_bytes=size, time_s=_seconds(_collective(kind, device, size, ranks), wait, device, each_s)
        )
        for kind in KINDS
        for size in sizes
    )


def _collective(kind: CollectiveKind, device: torch.device, size_bytes: int, ranks: int) -> Callable[[], object]:
    """Return a function that runs the collective on an fp32 tensor.

    The full size of the tensor is `size_bytes`, rounded down to a multiple of the ranks.
    """
    import torch
    import torch.distributed as dist

    shard = torch.ones(size_bytes // 4 // ranks, device=device)
    full = torch.ones(shard.numel() * ranks, device=device)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(full, op=dist.ReduceOp.MAX)
    # torch 2.13 warns about the older names of these two; earlier versions have only those.
    if kind == "all_gather":
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return lambda: gather(full, shard)
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return lambda: scatter(shard, full)


def _seconds(work: Callable[[], object], wait: Callable[[], None], device: torch.device, budget_s: float) -> float:
    """Return the median seconds of single calls.

    Rank 0 decides how many there are: ranks whose numbers differ by one call would wait for ever.
    """
    import torch
    import torch.distributed as dist

    def once() -> float:
        wait()
        start = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - start

    once()
    calls = torch.tensor(min(MAX_CALLS, max(3, budget_s / max(once(), once(), 1e-7))), device=device).long()
    dist.broadcast(calls, src=0)
    return median(once() for _ in range(int(calls)))


def fit_link(collectives: Sequence[CollectiveTime], ranks: int) -> Link:
    """Return bandwidth and latency with the least squared relative error over the traffic of sharded training.

    The equations are those of `predict.time.network` inside one island: a gather or scatter moves (n-1)/n of the tensor
    and takes `REDUCE_LATENCY_SHARE` of log2(n) latencies. They have one bandwidth for all collectives, but gloo
    scatters several times slower than it gathers. The fit is therefore made to the sum that a sharded layer pays, two
    gathers and one scatter. All-reduces are measured only to be shown beside it.
    """
    times = {(one.kind, one.size_bytes): one.time_s for one in collectives}
    sizes = np.array(sorted({one.size_bytes for one in collectives}))
    measured = np.array([2 * times["all_gather", size] + times["reduce_scatter", size] for size in sizes])
    wire = 3 * (ranks - 1) / ranks * sizes
    steps = np.full_like(wire, 3 * REDUCE_LATENCY_SHARE * np.log2(ranks))
    columns = np.column_stack((wire, steps)) / measured[:, None]
    (seconds_a_byte, latency), *_ = np.linalg.lstsq(columns, np.ones_like(measured), rcond=None)
    # Noise can push one of the two below zero. It is then computed from the largest or the smallest transfer alone.
    if seconds_a_byte <= 0:
        seconds_a_byte = measured[-1] / wire[-1]
    if latency <= 0:
        latency = measured[0] / steps[0]
    return Link(1 / float(seconds_a_byte), float(latency))


def all_reduce_bandwidth(collectives: Sequence[CollectiveTime], ranks: int) -> float:
    """Return the bytes/s on the wire in the largest measured all-reduce."""
    largest = max((one for one in collectives if one.kind == "all_reduce"), key=lambda one: one.size_bytes)
    return 2 * (ranks - 1) / ranks * largest.size_bytes / largest.time_s
