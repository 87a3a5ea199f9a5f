"""How a step runs, from live objects: precision of the matrix products, recomputation, kind of optimizer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers import Job, Reading
from carbon_plugin.detect.structure import repeated_blocks
from carbon_plugin.detect.wrappers import data_parallel, dtype_name

if TYPE_CHECKING:
    from torch import nn

PRECISION_OF_DTYPE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_OPTIMIZERS = ("adamw", "adafactor", "muon", "adam", "sgd")
_FP8_MODULES = ("transformer_engine", "torchao.float8")


def read(job: Job) -> Reading:
    """Precision, recomputation, optimizer, and what the calls of the first step showed."""
    wrapper = data_parallel(job.model)
    cast, autocast = wrapper.param_dtype if wrapper else None, job.batch.autocast_dtype if job.batch else None
    recompute, remark = detect_recompute(job.model)
    seen = {
        "training.precision": detect_precision(job.model, cast, autocast),
        "training.optimizer": None if job.optimizer is None else detect_optimizer(job.optimizer),
        "layout.recompute": recompute,
    }
    fields = {name: value for name, value in seen.items() if value is not None}
    problems = [("recompute", remark)] if remark else []
    if job.batch is not None:
        fields |= job.batch.observed()
        problems += [("batch_not_seen", job.batch.reason)] if job.batch.reason else []
    return Reading(fields=fields, problems=tuple(problems))


def detect_precision(model: nn.Module, wrapper_dtype: str | None, autocast_dtype: str | None) -> Observed | None:
    """Dtype of the matrix products: fp8 modules, else the wrapper's cast, else autocast, else the parameters'."""
    import torch

    for module in model.modules():
        if type(module).__module__.startswith(_FP8_MODULES):
            return Observed("fp8", f"{type(module).__name__} of {type(module).__module__}")
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[dtype_name(parameter.dtype)] += parameter.numel()
    stored = sizes.most_common(1)[0][0] if sizes else None
    for dtype, source in (
        (wrapper_dtype, "mixed precision of FSDP"),
        (autocast_dtype, "autocast in the forward pass"),
        (stored, "dtype of most parameters"),
    ):
        if dtype in PRECISION_OF_DTYPE:
            on_gpu = any(parameter.is_cuda for parameter in model.parameters())
            if dtype == "float32" and on_gpu and torch.get_float32_matmul_precision() != "highest":
                return Observed("tf32", f"{source}, with float32 matmul precision below highest")
            return Observed(PRECISION_OF_DTYPE[str(dtype)], source)
    return None


def detect_recompute(model: nn.Module) -> tuple[Observed | None, str | None]:
    """Activation checkpointing by wrapper, by the composable call, or by a Hugging Face flag; with a remark.

    The functional form inside a forward pass leaves no trace, so that nothing found is nothing known.
    """
    from torch.distributed._composable.contract import _get_registry
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

    wrapped = [module for module in model.modules() if isinstance(module, CheckpointWrapper)]
    composable = [module for module in model.modules() if "checkpoint" in (_get_registry(module) or {})]
    flagged = [module for module in model.modules() if getattr(module, "gradient_checkpointing", None) is True]
    for modules, source in (
        (wrapped, "CheckpointWrapper"),
        (composable, "composable checkpoint"),
        (flagged, "gradient_checkpointing flag"),
    ):
        if not modules:
            continue
        selective = any("context_fn" in getattr(getattr(m, "checkpoint_fn", None), "keywords", {}) for m in modules)
        blocks = repeated_blocks(model)
        count = blocks[2] if blocks else len(modules)
        observed = Observed("operators" if selective else "full", f"{source} on {len(modules)} modules")
        partial = len(modules) < count and modules is not flagged
        return observed, f"only {len(modules)} of {count} blocks recompute; predicted as all" if partial else None
    return None, None


def detect_optimizer(optimizer: Any) -> Observed | None:
    """Kind of an optimizer by its class or the classes below it."""
    inner = getattr(optimizer, "optim", optimizer)
    for kind in type(inner).__mro__:
        for name in _OPTIMIZERS:
            if name in kind.__name__.lower():
                return Observed(name, f"class {type(inner).__name__}")
    return None
