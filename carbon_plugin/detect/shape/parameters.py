"""Count all parameters of a model under any sharding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def is_adapter(name: str) -> bool:
    """Return whether a parameter belongs to a low-rank adapter, by the name that peft and torchtune give it."""
    return "lora_" in name


def count_adapters(model: nn.Module) -> int:
    """Return the parameters of the low-rank adapters in a model."""
    return sum(int(parameter.numel()) for name, parameter in model.named_parameters() if is_adapter(name))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (all, trainable) parameters of the whole model as far as this rank holds it: in a pipeline, of its stage.

    A DTensor counts with its global size, a ZeRO-3 placeholder of DeepSpeed with the size of what it stands for, an
    FSDP1 flat parameter with its size before sharding and padding, and a weight that is packed in 4 bits, two to a
    byte, with its size before that.
    """
    total = trainable = 0
    flat = _flat_parameters(model)
    for parameter in model.parameters():
        size = 0 if id(parameter) in flat else _size(parameter)
        total += size
        trainable += size if parameter.requires_grad else 0
    for size, requires_grad in flat.values():
        total += size
        trainable += size if requires_grad else 0
    return total, trainable


def _size(parameter: Any) -> int:
    packed = getattr(getattr(parameter, "quant_state", None), "shape", None)  # the 4-bit parameters of bitsandbytes
    return int(getattr(parameter, "ds_numel", parameter.numel())) if packed is None else math.prod(packed)


def _flat_parameters(model: nn.Module) -> dict[int, tuple[int, bool]]:
    """Return the parameters that FSDP1 manages: the flat one by its full size, its views as 0."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[int, tuple[int, bool]] = {}
    for module in model.modules():
        handle: Any = getattr(module, "_handle", None)
        if isinstance(module, FullyShardedDataParallel) and handle is not None:
            flat = handle.flat_param
            found[id(flat)] = (int(flat._unpadded_unsharded_size.numel()), bool(flat.requires_grad))
            found |= {id(view): (0, False) for view in flat._params or ()}
    return found
