"""The few constants that are fitted to the published rows, and for which rows each holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carbon_plugin.calibrate.fit import FACTOR, Mask, Parameter
from carbon_plugin.calibrate.table import Table
from carbon_plugin.spec.stack import AttentionKernel

FAMILIES = ("volta", "ampere", "hopper", "blackwell")
CAPPED_H100 = "h100-sxm-96gb-hbm2e-500w"
ATTENTION_SIGMA: dict[AttentionKernel, float] = {"flash": 0.3, "flash2": 0.3, "cudnn": 0.12, "cudnn_fp8": 0.12}
"""Prior spread of the attention rate by kernel class: early flash kernels vary with the architecture they were
written for; current ones reach about the same share of peak everywhere."""
KERNELS = tuple(ATTENTION_SIGMA)
ANCHOR_FRAMEWORKS = ("megatron-deepspeed", "megatron-lm-2021", "megatron-lm", "llm-foundry", "torchtitan")
"""Frameworks whose factor is 1: the devices' constants are fitted on them."""
FACTOR_FRAMEWORKS = ("nemo", "megatron-bridge", "megatron-core", "maxtext")
BLIND_COLLECTIONS = ("second",)
"""Collections that nothing is fitted to."""
HOST_GROUPS = {
    "2021": ("megatron-deepspeed", "megatron-lm-2021"),
    "llm-foundry": ("llm-foundry",),
    "torchtitan": ("torchtitan",),
    "megatron-lm": ("megatron-lm",),
    "nvidia": ("nemo", "megatron-bridge", "megatron-core", "maxtext"),
}


def shipped_parameters() -> tuple[Parameter, ...]:
    """All parameters of the shipped calibration."""
    found: list[Parameter] = []
    for family in FAMILIES:
        found += _device(family, _family(family))
    found += _device("capped", lambda table: table.accelerator == CAPPED_H100)
    for family in FAMILIES[1:]:
        found += [
            Parameter(
                f"attention_flops.{family}.{kernel}",
                "attention_flops",
                _attention(family, kernel),
                ATTENTION_SIGMA[kernel],
            )
            for kernel in KERNELS
        ]
    found += [
        Parameter(f"fp8_gemm_share.{family}", "fp8_gemm_share", _narrow(family), 0.15)
        for family in ("hopper", "blackwell")
    ]
    found += [
        Parameter(f"overlap_contention.{family}", "overlap_contention", _family_all(family), 0.25)
        for family in ("ampere", "hopper")
    ]
    found += [
        Parameter(f"host_op_time_s.{name}", "host_op_time_s", _frameworks(*members), 0.4)
        for name, members in HOST_GROUPS.items()
    ]
    found += [
        Parameter("scaleup_latency_s", "scaleup_latency_s", _everywhere, 0.4),
        Parameter("scaleout_latency_s", "scaleout_latency_s", _everywhere, 0.4),
        Parameter("scaleout_share", "scaleout_share", _everywhere, 0.1),
        Parameter("all_to_all_share", "all_to_all_share", _everywhere, 0.5),
    ]
    found += [Parameter(f"{FACTOR}.{name}", FACTOR, _frameworks(name), 0.3) for name in FACTOR_FRAMEWORKS]
    return tuple(found)


def calibration_rows(table: Table) -> Mask:
    """Rows that the shipped constants are fitted to: GPUs only, all parameters trained, no row-wise scaled fp8 (a
    slower recipe), and none of a collection that is kept for blind prediction."""
    rowwise = np.array(["rowwise" in row.id for row in table.rows])
    blind = np.isin(table.collection, BLIND_COLLECTIONS)
    return np.asarray(np.isin(table.family, FAMILIES) & ~rowwise & ~blind & (table.shape.trainable == 1))


def _device(name: str, rows: Callable[[Table], Mask]) -> list[Parameter]:
    return [
        Parameter(f"gemm_share.{name}", "gemm_share", rows, 0.15),
        Parameter(f"memory_share.{name}", "memory_share", rows, 0.2),
    ]


def _everywhere(table: Table) -> Mask:
    return np.ones(table.measured_s.size, dtype=bool)


def _family_all(family: str) -> Callable[[Table], Mask]:
    return lambda table: table.family == family


def _family(family: str) -> Callable[[Table], Mask]:
    return lambda table: (table.family == family) & (table.accelerator != CAPPED_H100)


def _attention(family: str, kernel: str) -> Callable[[Table], Mask]:
    return lambda table: (table.family == family) & (table.kernel == kernel)


def _narrow(family: str) -> Callable[[Table], Mask]:
    return lambda table: (table.family == family) & table.narrow


def _frameworks(*names: str) -> Callable[[Table], Mask]:
    return lambda table: np.isin(table.framework, names)
