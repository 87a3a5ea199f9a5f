"""Define the few constants that are fitted to the published rows, and the rows for which each of them holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from carbon_plugin.calibrate.fit import FACTOR, FitParameter, Mask
from carbon_plugin.calibrate.rows.published import blind_sets
from carbon_plugin.calibrate.rows.rows import FIRST_COLLECTION
from carbon_plugin.calibrate.rows.table import RowArrays
from carbon_plugin.spec.stack import AttentionKernel

SMALLER_DIES = ("ampere-ga102", "blackwell-gb202", "blackwell-thor")
"""Dies that share the name of a calibrated family and not its memory or matrix units: its constants are not theirs."""
FAMILIES = ("volta", "ampere", "hopper", "blackwell")
CAPPED_H100 = "h100-sxm-96gb-hbm2e-500w"
ATTENTION_SIGMA: dict[AttentionKernel, float] = {
    "flash": 0.3,
    "flash2": 0.3,
    "flash3": 0.2,
    "cudnn": 0.25,
    "cudnn_fp8": 0.2,
}
"""Prior spread of the attention rate by kernel class. The rate of early flash kernels varies with the architecture they
were written for. Current kernels reach about the same share of peak on every architecture."""
OFFSET = "cluster"
OFFSET_SIGMA = 0.15
"""Prior spread of the offset of one cluster of ordinary software, which is about that between its sources. Its loss is
robust, because one program in ten is twice as slow as the others and says nothing of theirs."""
KERNELS = tuple(ATTENTION_SIGMA)
ANCHOR_FRAMEWORKS = (
    "megatron-deepspeed-2022",
    "megatron-lm-2021",
    "megatron-lm",
    "llm-foundry",
    "torchtitan",
    "compiled",
    "pytorch-compiled",
)
"""Frameworks whose factor is 1. The devices' constants are fitted on them."""
FACTOR_FRAMEWORKS = ("nemo", "megatron-bridge", "megatron-core", "maxtext")
VENDOR_FRAMEWORKS = (*FACTOR_FRAMEWORKS, "transformer-engine", "automodel", "hai-llm", "tuned")
"""Frameworks of vendors for their own hardware, and those that were tuned like them. They share one factor, and each
that has rows has a deviation from it."""
HELD_OUT_COLLECTIONS = ("second", *(one.collection for one in blind_sets()))
"""Collections to which the constants of ordinary software are fitted, and none of a device, link or tuned framework.

A collection that is neither the first nor named here is new: no constant is fitted to its rows before its blind
predictions are recorded.
"""
BLACKWELL_LEVEL = "gemm_share.blackwell.level"
"""What products of 16 bit on Blackwell sustain over what one node does, SimuMax's, which is the only one of the first
collection that trains in 16 bit there: 0.47 of the peak, and its own measured products reach 0.45 to 0.51. Those of
narrower types, which are calibrated on other nodes, keep their rate."""
ORDINARY_FRAMEWORKS = ("ordinary", "ordinary-megatron", "internevo", "deepspeed")
"""Shipped stacks of ordinary software. They share an overhead on the rates of bytes and one host cost, because the next
user's software is not among them. Their factor is 1: products and attention cores are the same kernels as in tuned
software."""
HOST_GROUPS = {
    "2021": ("megatron-deepspeed-2022", "megatron-lm-2021", "nemo-2023"),
    "llm-foundry": ("llm-foundry",),
    "torchtitan": ("torchtitan", "compiled", "pytorch-compiled"),
    "megatron-lm": ("megatron-lm",),
    "nvidia": (
        "nemo",
        "megatron-bridge",
        "megatron-core",
        "maxtext",
        "transformer-engine",
        "automodel",
        "hai-llm",
        "tuned",
    ),
}


EAGER_HOST = math.log(2.0)
"""Logarithm of the time that eager software on servers of its period takes to issue an operation, over the prior of
current tuned software. That time is 30 us (vTrain's study, and independently fine-tuning with one sample per
micro-batch)."""
HOST_CENTRES = {"2021": EAGER_HOST}


def shipped_parameters() -> tuple[FitParameter, ...]:
    """Return all parameters of the shipped calibration."""
    found: list[FitParameter] = []
    for family in FAMILIES:
        found += _device(family, _family(family))
    found += _device("capped", _capped)
    for group in ("ampere", "hopper", "blackwell", "capped"):
        found += [
            FitParameter(
                f"attention_flops.{group}.{kernel}",
                "attention_flops",
                _attention(group, kernel),
                ATTENTION_SIGMA[kernel],
            )
            for kernel in KERNELS
        ]
    found += [
        FitParameter(f"fp8_gemm_share.{family}", "fp8_gemm_share", _narrow(family), 0.15)
        for family in ("hopper", "blackwell")
    ]
    found += [
        FitParameter(
            f"host_op_time_s.{name}", "host_op_time_s", _frameworks(*members), 0.4, HOST_CENTRES.get(name, 0.0)
        )
        for name, members in HOST_GROUPS.items()
    ]
    found += [
        FitParameter("overlap_contention", "overlap_contention", _everywhere, 0.15, ceiling=1.0),
        FitParameter("scaleup_latency_s", "scaleup_latency_s", _everywhere, 0.4),
        FitParameter("scaleout_latency_s", "scaleout_latency_s", _everywhere, 0.4),
        FitParameter("scaleout_share", "scaleout_share", _everywhere, 0.1, ceiling=1.0),
        FitParameter("all_to_all_share", "all_to_all_share", _everywhere, 0.2, ceiling=1.0),
    ]
    found.append(
        FitParameter(
            BLACKWELL_LEVEL, "gemm_share", _large_blackwell, 0.15, level_of=blackwell_rows, divides="fp8_gemm_share"
        )
    )
    found.append(FitParameter(f"{FACTOR}.vendor", FACTOR, _frameworks(*VENDOR_FRAMEWORKS), 0.3))
    found += [FitParameter(f"{FACTOR}.{name}", FACTOR, _frameworks(name), 0.1) for name in FACTOR_FRAMEWORKS]
    found.append(FitParameter("overhead.ordinary", "overhead", _ordinary, 0.3))
    found.append(FitParameter("host_op_time_s.ordinary", "host_op_time_s", _ordinary, 0.4, EAGER_HOST))
    return tuple(found)


def cluster_offsets(table: RowArrays) -> tuple[FitParameter, ...]:
    """Return an offset for each cluster of ordinary software, which applies to all of its rows alike.

    The offsets are fitted together with the two numbers of ordinary software, so that a source with many rows does
    not determine these alone. They are not shipped, because the next cluster's offset is unknown.
    """
    groups = zip(table.origin[table.ordinary], table.accelerator[table.ordinary], strict=True)
    return tuple(
        FitParameter(
            f"{OFFSET}.{origin}.{device}", FACTOR, _ordinary_cluster(origin, device), OFFSET_SIGMA, robust=True
        )
        for origin, device in dict.fromkeys(groups)
    )


def calibration_rows(table: RowArrays) -> Mask:
    """Return the rows that the shipped constants are fitted to.

    They ran on GPUs, trained all parameters, and did not use row-wise scaled fp8 (a slower recipe). Of a collection
    that was kept for blind prediction only ordinary software is included: the first collection has none, and two
    numbers can be fitted to such software only. Its mixtures are not: how their experts run differs from one program to
    the next, and would count as what PyTorch costs.
    """
    rowwise = np.array(["rowwise" in row.id for row in table.rows])
    first, held_out = table.collection == FIRST_COLLECTION, np.isin(table.collection, HELD_OUT_COLLECTIONS)
    return np.asarray(
        np.isin(table.family, FAMILIES)
        & ~rowwise
        & (first | (held_out & table.ordinary & ~table.sparse))
        & (table.shape.trainable == 1)
    )


def blackwell_rows(table: RowArrays) -> Mask:
    """Return the rows that tell `BLACKWELL_LEVEL`: dense models in 16 bit and tuned software, of all collections."""
    wide = np.array([row.spec.training.precision in ("bf16", "fp16") for row in table.rows])
    known = np.isin(table.collection, (FIRST_COLLECTION, *HELD_OUT_COLLECTIONS))
    trained = wide & known & (table.shape.trainable == 1) & ~table.sparse & ~table.ordinary
    return np.asarray(trained & _large_blackwell(table))


def fitted_rows(table: RowArrays) -> Mask:
    """Return all rows to which something shipped is fitted."""
    return calibration_rows(table) | blackwell_rows(table)


def _large_blackwell(table: RowArrays) -> Mask:
    large = np.array([row.spec.cluster.accelerator.architecture not in SMALLER_DIES for row in table.rows])
    return np.asarray((table.family == "blackwell") & large)


def _ordinary_cluster(origin: str, device: str) -> Callable[[RowArrays], Mask]:
    return lambda table: table.ordinary & (table.origin == origin) & (table.accelerator == device)


def _device(name: str, rows: Callable[[RowArrays], Mask]) -> list[FitParameter]:
    gemm = FitParameter(f"gemm_share.{name}", "gemm_share", rows, 0.15)
    return [gemm, FitParameter(f"memory_share.{name}", "memory_share", rows, 0.2)]


def _everywhere(table: RowArrays) -> Mask:
    return np.ones(table.measured_s.size, dtype=bool)


def _ordinary(table: RowArrays) -> Mask:
    return table.ordinary


def _family(family: str) -> Callable[[RowArrays], Mask]:
    return lambda table: (table.family == family) & (table.accelerator != CAPPED_H100)


def _capped(table: RowArrays) -> Mask:
    return np.asarray(table.accelerator == CAPPED_H100)


def _attention(group: str, kernel: str) -> Callable[[RowArrays], Mask]:
    rows = _capped if group == "capped" else _family(group)
    return lambda table: rows(table) & (table.kernel == kernel)


def _narrow(family: str) -> Callable[[RowArrays], Mask]:
    return lambda table: (table.family == family) & table.narrow


def _frameworks(*names: str) -> Callable[[RowArrays], Mask]:
    return lambda table: np.isin(table.framework, names)
