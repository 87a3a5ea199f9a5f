"""Find the rank of this process in its group, and the GPUs that it uses by their UUIDs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def computing_gpus(parameters: Iterable[Tensor]) -> tuple[str, ...]:
    """Return the UUIDs of the CUDA devices that hold some parameters, none on a CPU. No device is initialised."""
    import torch

    devices = {parameter.device for parameter in parameters if parameter.is_cuda}
    return tuple(sorted(f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices))


def distributed_place() -> tuple[int, int] | None:
    """Return (world size, rank) of the default process group, or None without one."""
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_world_size(), dist.get_rank()
