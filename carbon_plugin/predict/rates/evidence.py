"""Tell what the constants of a device rest on: its own calibration, and how many measured step times of the user."""

from __future__ import annotations

import msgspec

from carbon_plugin.spec.hardware.cluster import OWN_ROWS, OWN_RUNS, Accelerator
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.stack import GRAPH_STACK, STACKS, Stack


def is_calibrated(accelerator: Accelerator) -> bool:
    """Return whether the matrix-product share of exactly this device was fitted or measured, and not carried over."""
    share = accelerator.efficiency.gemm_share
    return share is not None and share.confidence in ("fitted", "measured")


def own_rows(accelerator: Accelerator, stack: Stack) -> int:
    """Return how many of the user's measured step times the constants of device or software were fitted to, or 0.

    A device that nobody calibrated returns 0, because a few step times do not determine its constants.
    """
    if OWN_RUNS not in accelerator.sources or not is_calibrated(accelerator):
        return 0
    named = {**msgspec.structs.asdict(accelerator.efficiency), **accelerator.efficiency.attention_flops}
    told = any(
        isinstance(value, Sourced) and value.source == OWN_RUNS
        for name, value in named.items()
        if name != "sustained_power_w"
    )
    if not told and stack in (Stack(), GRAPH_STACK, *STACKS.values()):
        return 0
    count = accelerator.sources.get(OWN_ROWS, "1")
    return max(1, int(count)) if count.isdecimal() else 1
