"""Where this process is: among the ranks of its group, and on which GPUs, as the driver knows them by UUID."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def computing_gpus(model: nn.Module) -> tuple[str, ...]:
    """UUIDs of the CUDA devices that hold a module's parameters; empty on a CPU. No device is initialised by this."""
    import torch

    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    return tuple(sorted(f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices))


def distributed_place() -> tuple[int, int] | None:
    """(world size, rank) of the default process group; None without one."""
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_world_size(), dist.get_rank()
