"""Read how the norms, gates, optimizer and mixed precision of a published row are written."""

from __future__ import annotations

import re
from typing import Any

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.conventions import OWN_KERNELS, is_pytorch
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.frameworks import MEGATRON_BRIDGE, Conventions
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel

APEX = re.compile(r"(?i)\bapex\b|DeepLearningExamples")
"""Software whose mixed precision and optimizers are apex's: the model is 16 bit (O2), and one kernel updates the states
(`amp.initialize`, `FusedLAMB` and `FusedAdam` of NVIDIA/DeepLearningExamples PyTorch/LanguageModeling/BERT)."""
FUSED_OPTIMIZER = re.compile(r"(?i)(?<!not )\bfused (adamw?|optimizer)\b|optimizer in one kernel")
NORMS_APART = re.compile(r"(?i)\bnorms (are )?not fused\b")
"""Words of a note for norms that run as single operations in software which else is read as having kernels of its
own."""
LIST_OPTIMIZER = re.compile(r"(?i)\boptimizer not fused\b")
"""Words of a note for an optimizer that updates in several operations over lists of parameters, in software whose usual
one is a single kernel."""
SINGLE_GATE = re.compile(r"(?i)\bqwen")
"""Dense models of Megatron-Bridge that do not ask for `bias_activation_fusion`, which Llama's and others do
(`Qwen3ModelProvider` of its models/qwen/qwen_provider.py at 07d0d14, `LlamaBridge`)."""
AUTOCAST = re.compile(r"(?i)\bamp\b|\bautocast\b")
NARROW_WEIGHTS = re.compile(r"\bO2\b")
"""The level of mixed precision at which the weights themselves are 16 bit and the optimizer keeps their masters, in
apex and in PaddlePaddle (`paddle.amp.decorate` at level O2); autocast is level O1."""
AUTOCAST_BY_DEFAULT = re.compile(r"PyTorch DDP \(nanoGPT")
"""A trainer whose 16-bit precision is autocast over 32-bit weights unless it says "true" (`ctx` of its train.py)."""
REDUCE_DTYPES = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "fp32": "fp32",
    "float32": "fp32",
}
"""Types in which gradients are reduced, as rows write them: what counts is how wide they are."""
CUDA_KERNELS = frozenset(("nvidia", "amd"))
"""Makers of devices on which Megatron's and apex's fused kernels compile, which are CUDA code. On others its relatives
run plain modules and switch fusions off (`--no-bias-gelu-fusion` and others of ALCF/helpers.sh in
argonne-lcf/Megatron-DeepSpeed)."""


def modules_of(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return whether norms and gates are single operations, where the row, its software or its device says so."""
    if "plain_modules" in conventions.fields:
        return {}
    if NORMS_APART.search(row.text("notes")):
        return {"plain_modules": True}
    if _has_kernels(conventions, row):
        return {"plain_modules": False}
    if conventions.reentrant and device.vendor not in CUDA_KERNELS:
        return {"plain_modules": True}
    return {}


def gate_of(conventions: Conventions, model: TransformerModel) -> dict[str, Any]:
    """Return whether the activation of a gate alone is an operation of its own, where the software says so by model."""
    by_bridge = conventions.name == MEGATRON_BRIDGE.name and model.moe is None
    return {"single_gate": True} if by_bridge and SINGLE_GATE.search(model.name) else {}


def _has_kernels(conventions: Conventions, row: Fields) -> bool:
    """Return whether norms and gates are kernels of their own: the row says so, or its software is not PyTorch's."""
    if not is_pytorch(conventions, row):
        return True
    said = f"{row.text('framework')} {row.text('overlap')} {row.text('notes')}"
    return OWN_KERNELS.search(said) is not None


def reduced(row: Fields) -> dict[str, Any]:
    """Return the type in which the row says that gradients are reduced. Raises `SpecError` for an unknown one."""
    said = row.text("reduce_dtype").lower() or ("bf16" if "PURE" in row.text("sharding") else "")
    if said and said not in REDUCE_DTYPES:
        raise SpecError(f"reduce_dtype is {said!r}, expected one of {', '.join(REDUCE_DTYPES)}")
    return {"grad_reduce_dtype": REDUCE_DTYPES[said]} if said else {}


def mixed_precision(conventions: Conventions, row: Fields) -> dict[str, Any]:
    """Return the fields of autocast and of the optimizer's kernels, where the row or its framework says them."""
    said = " ".join(row.text(name) for name in ("framework", "overlap", "notes"))
    if APEX.search(said):
        return {"autocast": False, "fused_optimizer": True}
    changes: dict[str, Any] = {}
    if FUSED_OPTIMIZER.search(said) or not (is_pytorch(conventions, row) or LIST_OPTIMIZER.search(said)):
        changes["fused_optimizer"] = True
    elif LIST_OPTIMIZER.search(said):
        changes["fused_optimizer"] = False
    if AUTOCAST.search(row.text("precision")) or AUTOCAST_BY_DEFAULT.match(row.text("framework")):
        changes["autocast"] = True
    if "true" in row.text("precision") or NARROW_WEIGHTS.search(row.text("precision")):
        changes["autocast"] = False
    return changes
