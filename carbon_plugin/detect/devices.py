"""Which GPUs a module computes on, as the driver knows them: by UUID, whatever CUDA_VISIBLE_DEVICES does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def computing_gpus(model: nn.Module) -> tuple[str, ...]:
    """UUIDs of the CUDA devices that hold a module's parameters; empty on a CPU. No device is initialised by this."""
    import torch

    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    return tuple(sorted(f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices))
