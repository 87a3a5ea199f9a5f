"""Tell what the constants of a device rest on: its own calibration, and the user's own runs."""

from __future__ import annotations

from carbon_plugin.spec.hardware.cluster import Accelerator, OwnSoftware
from carbon_plugin.spec.stack import Stack, factor_of, host_op_time_of


def is_calibrated(accelerator: Accelerator) -> bool:
    """Return whether the matrix-product share of exactly this device was fitted or measured, and not carried over."""
    share = accelerator.efficiency.gemm_share
    return share is not None and share.confidence in ("fitted", "measured")


def own_software(accelerator: Accelerator, stack: Stack) -> OwnSoftware | None:
    """Return what the user's own runs of this software on this device told, or None without any.

    Runs tell nothing of other software. They tell nothing of a device that nobody calibrated either, because a few step
    times do not determine its constants.
    """
    return runs_of(accelerator, stack) if is_calibrated(accelerator) else None


def runs_of(accelerator: Accelerator, stack: Stack) -> OwnSoftware | None:
    """Return what is kept of the user's own runs of this software, whether the device is calibrated or not."""
    constants = (host_op_time_of(stack), factor_of(stack))
    same = (one for one in accelerator.own_software if (one.host_op_time_s, one.framework_factor) == constants)
    return next(same, None)
