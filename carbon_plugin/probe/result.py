"""Define what a probe of this machine found, as plain values: the machine, and the rates that its device sustained.

Torch is not needed here: the values are read, combined over ranks and turned into profiles where it is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.hardware.cluster import Accelerator, Node

QUIET_SHARE = 0.9
"""The share of the time with a core below which a CPU's rates are not its own. A quiet 2-core machine gave 0.995 to
1.
"""


class Machine(Struct, frozen=True, kw_only=True):
    """Describes the machine and the software that measured it.

    `device` is what the driver or the kernel calls the measured device, and `device_memory_bytes` is its own memory
    (for a CPU: the machine's). `ranks` processes measured at the same time, with `threads` torch threads each.
    `backend` is the backend of their process group ("gloo", "nccl"), None for a single process. `devices` are the GPUs
    of the machine, or for a CPU the ranks that share it. Power limits are those that firmware and driver state for all
    CPU packages and for one GPU, None if they state none.
    """

    kind: Literal["cpu", "gpu"]
    device: str
    device_memory_bytes: float
    devices: int
    cpu: str
    cpu_architecture: str
    sockets: int
    cores: int
    cpu_power_limit_w: float | None
    gpu_power_limit_w: float | None = None
    dram_bytes: float
    disk_bytes: float
    torch_version: str
    threads: int
    ranks: int
    backend: str | None
    date: str


class GemmRate(Struct, frozen=True, kw_only=True):
    """Holds the FLOP/s of the products of a linear layer with `tokens` rows, `width` inputs and `width` outputs."""

    dtype: str
    tokens: int
    width: int
    flops_per_s: float


class CollectiveTime(Struct, frozen=True, kw_only=True):
    """Holds the seconds of one collective over all ranks. `size_bytes` is the full tensor, after a gather or before a
    scatter.
    """

    kind: Literal["all_reduce", "all_gather", "reduce_scatter"]
    size_bytes: float
    time_s: float


class Measurements(Struct, frozen=True, kw_only=True):
    """Holds what one rank measured, or all ranks together after `combine`. The names of the fields state their units.

    `elementwise_bytes_per_s` is the rate of a transformer layer's chain of small operations, with bytes counted as
    `predict` counts them. `attention_flops` is causal-counted, by kernel class. `kernel_time_s` and `host_op_time_s`
    are None where they could not be separated from the rest. `running_share` is the share of the time in which a
    measuring CPU process had a core, None on a GPU. `notes` say what was left out.
    """

    gemms: tuple[GemmRate, ...]
    memory_bytes_per_s: float
    elementwise_bytes_per_s: float
    attention_flops: dict[str, float]
    kernel_time_s: float | None
    host_op_time_s: float | None
    running_share: float | None = None
    collectives: tuple[CollectiveTime, ...] = ()
    notes: tuple[str, ...] = ()


class Probe(Struct, frozen=True, kw_only=True):
    """Holds the profiles of this machine and the measurements that they come from.

    `elapsed_s` is the time that measuring took.
    """

    machine: Machine
    measurements: Measurements
    accelerator: Accelerator
    node: Node
    elapsed_s: float


def combine(ranks: Sequence[Measurements]) -> Measurements:
    """Return one set of measurements, the median of each, for ranks that measured the same things at the same time."""
    first = ranks[0]
    return Measurements(
        gemms=tuple(
            GemmRate(dtype=gemm.dtype, tokens=gemm.tokens, width=gemm.width, flops_per_s=median(rates))
            for gemm, rates in zip(
                first.gemms, zip(*([g.flops_per_s for g in rank.gemms] for rank in ranks), strict=True), strict=True
            )
        ),
        memory_bytes_per_s=median(rank.memory_bytes_per_s for rank in ranks),
        elementwise_bytes_per_s=median(rank.elementwise_bytes_per_s for rank in ranks),
        attention_flops={
            kernel: median(rank.attention_flops[kernel] for rank in ranks) for kernel in first.attention_flops
        },
        kernel_time_s=_median_known([rank.kernel_time_s for rank in ranks]),
        host_op_time_s=_median_known([rank.host_op_time_s for rank in ranks]),
        collectives=tuple(
            CollectiveTime(kind=one.kind, size_bytes=one.size_bytes, time_s=median(times))
            for one, times in zip(
                first.collectives,
                zip(*([c.time_s for c in rank.collectives] for rank in ranks), strict=True),
                strict=True,
            )
        ),
        running_share=_median_known([rank.running_share for rank in ranks]),
        notes=tuple(dict.fromkeys(note for rank in ranks for note in rank.notes)),
    )


def contention(measurements: Measurements) -> str | None:
    """Return a warning about a probe that had to share its cores, so that its rates are not the machine's, or None.

    Steady contention slows every batch by the same factor, so that no spread of times can show it.
    """
    share = measurements.running_share
    if share is None or share >= QUIET_SHARE:
        return None
    return (
        f"measured on a busy machine: a process had its core for only {100 * share:.0f} % of the time; the rates are "
        "what was left by other processes or a CPU limit, measure again when training will have the cores for itself"
    )


def _median_known(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return median(known) if known else None
