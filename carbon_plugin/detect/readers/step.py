"""Read how a step runs from live objects: precision of products, optimizer and its states, compiler and adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.optimizers import innermost
from carbon_plugin.detect.shape.experts import experts_in_a_loop
from carbon_plugin.detect.shape.parameters import is_adapter
from carbon_plugin.detect.wrappers import DataParallel, data_parallel, dtype_name, is_compiled
from carbon_plugin.spec.numbers.amounts import percent

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISION_OF_DTYPE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_OPTIMIZERS = ("adamw", "adafactor", "muon", "adam", "sgd")
_LOW_PRECISION_LINEAR = {"Float8Linear": "fp8", "MXLinear": "mxfp8"}
"""The linear layers of torchao that quantise in every forward pass."""
_LOW_PRECISION_RECIPES = {"MXFP8BlockScaling": "mxfp8", "NVFP4BlockScaling": "nvfp4"}
_STATES_LOOKED_AT = 64


def read(job: Job) -> Findings:
    """Return precision, optimizer, compiler, adapters, how experts run, and what the calls of the first step showed."""
    wrapper = data_parallel(job.model)
    cast, autocast = wrapper.param_dtype if wrapper else None, job.batch.autocast_dtype if job.batch else None
    seen = {
        "training.precision": detect_precision(job.model, cast, autocast),
        "training.optimizer": None if job.optimizer is None else detect_optimizer(job.optimizer),
        "training.optimizer_state": None if job.optimizer is None else detect_optimizer_state(job.optimizer),
        "training.adapters": detect_adapters(job.model),
        "stack.fused": detect_compiled(job.model),
        "stack.expert_loop": experts_in_a_loop(job.model),
        "stack.grad_reduce_dtype": _reduced_in(job.model, wrapper),
        "stack.shard_unit": _gathered_by(wrapper),
    }
    fields = {name: value for name, value in seen.items() if value is not None}
    if job.batch is None:
        return Findings(fields=fields)
    problems = (("batch_not_seen", job.batch.reason),) if job.batch.reason else ()
    fields |= job.batch.observed()
    if "layout.pipeline_schedule" in job.known:
        fields.pop("training.micro_batches", None)  # a stage is called more often than it has micro-batches
    if job.degree("cp") > 1 and job.batch.context_parallel is None:
        fields.pop("training.seq_len", None)  # a rank may get only its part of the sequence
    return Findings(fields=fields, problems=problems)


def detect_precision(model: nn.Module, wrapper_dtype: str | None, autocast_dtype: str | None) -> Observed | None:
    """Return the dtype of matrix products: from fp8 modules, the wrapper's cast, autocast, or the parameters."""
    import torch

    for module in model.modules():
        precision = _low_precision(module)
        if precision is not None:
            return Observed(precision, f"{type(module).__name__} of {type(module).__module__}")
    for dtype, source in (
        (wrapper_dtype, "mixed precision of FSDP"),
        (autocast_dtype, "autocast in the forward pass"),
        (_stored_in(model), "dtype of most parameters"),
    ):
        if dtype in PRECISION_OF_DTYPE:
            on_gpu = dtype == "float32" and any(parameter.is_cuda for parameter in model.parameters())
            if on_gpu and torch.get_float32_matmul_precision() != "highest":
                return Observed("tf32", f"{source}, with float32 matmul precision below highest")
            return Observed(PRECISION_OF_DTYPE[str(dtype)], source)
    return None


def detect_optimizer(optimizer: Any) -> Observed | None:
    """Return the kind of an optimizer by its class or the classes below it."""
    inner = innermost(optimizer)
    source = f"class {type(inner).__name__}"
    for kind in type(inner).__mro__:
        for name in _OPTIMIZERS:
            if name in kind.__name__.lower():
                if name == "adam" and _decays_weights_apart(inner):
                    return Observed("adamw", f"{source} with decoupled weight decay")
                return Observed(name, source)
    return None


def detect_optimizer_state(optimizer: Any) -> Observed | None:
    """Return the dtype in which the optimizer keeps its states, or None if it has none of size.

    It is "8-bit" where the states are quantised.
    """
    sizes: Counter[str] = Counter()
    for state in islice(_states(innermost(optimizer)), _STATES_LOOKED_AT):
        quantised = state.dtype.itemsize == 1 or "8bit" in type(state).__name__.lower()
        sizes["8-bit" if quantised else PRECISION_OF_DTYPE.get(dtype_name(state.dtype), dtype_name(state.dtype))] += (
            state.numel()
        )
    return Observed(sizes.most_common(1)[0][0], f"states of {type(innermost(optimizer)).__name__}") if sizes else None


def detect_adapters(model: nn.Module) -> Observed | None:
    """Return low-rank adapters beside frozen weights as a phrase with their rank, or None without any."""
    adapters = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    ranks = {int(min(parameter.shape)) for parameter in adapters if parameter.ndim == 2}
    if not ranks:
        return None
    return Observed(f"LoRA of rank {', '.join(map(str, sorted(ranks)))}", f"{len(adapters)} parameters named lora_*")


def detect_compiled(model: nn.Module) -> Observed | None:
    """Return True where a compiler that fuses operations runs most of the parameters, or None if none is seen.

    A function that was compiled around the model leaves no trace on it.
    """
    compiled: set[int] = set()
    names = set()
    for module in model.modules():
        if is_compiled(module) and _fuses(module):
            names.add("torch.compile(module)" if "_orig_mod" in module._modules else "module.compile()")
            compiled |= {id(parameter) for parameter in module.parameters()}
    if not names:
        return None
    inside = sum(parameter.numel() for parameter in model.parameters() if id(parameter) in compiled)
    total = sum(parameter.numel() for parameter in model.parameters())
    if 2 * inside < total:
        return None
    return Observed(
        True, f"{' and '.join(sorted(names))} with inductor around {percent(inside / total, 0)} of the parameters"
    )


def _low_precision(module: nn.Module) -> str | None:
    name = type(module).__name__
    if type(module).__module__.startswith("torchao."):
        return _LOW_PRECISION_LINEAR.get(name)
    # A module of Transformer Engine knows after its forward pass whether it ran in low precision, and by which recipe.
    if type(module).__module__.startswith("transformer_engine.") and getattr(module, "fp8", False) is True:
        recipe = type(getattr(module, "fp8_meta", {}).get("recipe")).__name__
        return _LOW_PRECISION_RECIPES.get(recipe, "fp8")
    return None


def _reduced_in(model: nn.Module, wrapper: DataParallel | None) -> Observed | None:
    """Return the dtype in which FSDP reduces gradients: that of its policy, else that of the parameters, which autocast
    leaves as they are."""
    if wrapper is None:
        return None
    dtype, source = wrapper.reduce_dtype or wrapper.param_dtype, "mixed precision of FSDP"
    if dtype is None and wrapper.zero_stage:
        dtype, source = _stored_in(model), "dtype of most parameters, which FSDP does not cast"
    precision = PRECISION_OF_DTYPE.get(dtype or "")
    return Observed(precision, source) if precision in ("fp32", "bf16") else None


def _stored_in(model: nn.Module) -> str | None:
    """Return the name of the dtype of most parameters, or None without any."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel()
    return dtype_name(sizes.most_common(1)[0][0]) if sizes else None


def _gathered_by(wrapper: DataParallel | None) -> Observed | None:
    if wrapper is None or wrapper.shard_unit is None:
        return None
    return Observed(wrapper.shard_unit, wrapper.source)


def _decays_weights_apart(optimizer: Any) -> bool:
    """Return whether Adam decays weights as AdamW does.

    A flag in the groups of torch's optimizers says so, and an attribute of fused implementations.
    """
    groups = getattr(optimizer, "param_groups", ())
    flagged = any(group.get("decoupled_weight_decay") for group in groups)
    return flagged or bool(getattr(optimizer, "adam_w_mode", False))


def _states(optimizer: Any) -> Iterator[Any]:
    import torch

    for states in getattr(optimizer, "state", {}).values():
        for state in states.values() if isinstance(states, dict) else ():
            if isinstance(state, torch.Tensor) and state.ndim > 0:
                yield state


def _fuses(module: nn.Module) -> bool:
    """Return whether a compiled module has the settings of inductor; other backends have none."""
    settings = getattr(module, "get_compiler_config", None) or getattr(
        getattr(module, "_compiled_call_impl", None), "get_compiler_config", None
    )
    return settings is not None and settings() is not None
