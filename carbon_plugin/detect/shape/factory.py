"""Count a model that a user's code builds before any training, traced on the meta device without memory or data."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from carbon_plugin.detect.shape.counting import count_forward
from carbon_plugin.detect.tensors import batch_shape
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.run import inputs_at

DEADLINE_S = 300.0


def count_target(target: str, inputs: Sequence[str], *, seq_len: int | None = None) -> CountedModel:
    """Return what is counted in the module that `target` builds, on inputs of these shapes.

    `target` is "package.module:function", the name of a function or class without required arguments that gives an
    `nn.Module`. `inputs` has one "sizes" or "sizes:dtype" for each input of its forward pass, as in "8,3,224,224" or
    "4,2048:int64", samples first. `seq_len` is the number of tokens of a sample where the shapes do not tell it
    (`batch_shape` says when they do). Raises `SpecError` naming what is wrong; errors of the user's own code are
    quoted.
    """
    if importlib.util.find_spec("torch") is None:
        raise SpecError("count: tracing a model needs PyTorch; install it first (pip install torch)")
    import torch

    shapes = [_shape(text) for text in inputs]
    samples = shapes[0][0][0]
    build = _resolve(target)
    try:
        with torch.device("meta"):
            module = build()
    except Exception as error:  # the user's own code may raise anything
        raise SpecError(f"{target}: building the model failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise SpecError(f"{target}: gave a {type(module).__name__}, expected a torch.nn.Module")
    try:
        tensors = [torch.empty(sizes, dtype=dtype, device="meta") for sizes, dtype in shapes]
        counts = count_forward(module, lambda copy: copy(*tensors), time.thread_time() + DEADLINE_S)
    except Exception as error:  # data-dependent control flow, wrong shapes, custom kernels
        raise SpecError(
            f"{target}: its forward pass cannot be traced on {', '.join(inputs)}: {type(error).__name__}: {error}"
        ) from error
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    seen = batch_shape(tensors)
    return CountedModel(
        name=target.rpartition(":")[2],
        parameters=sum(p.numel() for p in module.parameters()),
        trainable_parameters=trainable,
        **counts.per_sample(samples),
        kernels=counts.kernels,
        source=f"counted in one forward pass of {target} on {', '.join(inputs)} on the meta device{counts.reservation}",
        seq_len=seq_len or (seen[0][1] if seen else None),
        samples=samples,
        target=target,
        inputs=tuple(inputs),
    )


def counted_at(model: CountedModel, seq_len: int) -> CountedModel:
    """Return the model as it is at `seq_len` tokens a sample.

    It is the same model where it was counted at this length, or where its count states no length; else it is counted
    anew from the code that it names. A model whose code cannot be imported stays as it is, and the prediction refuses
    it (`spec.run.check_input`).
    """
    if model.seq_len in (None, seq_len) or model.target is None or not model.inputs:
        return model
    try:
        again = count_target(model.target, inputs_at(model, seq_len), seq_len=seq_len)
    except (SpecError, ImportError):
        return model
    return again if again.parameters == model.parameters else model


def _resolve(target: str) -> Any:
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise SpecError(f"{target}: expected package.module:function")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the user's own module may raise anything
        raise SpecError(f"{target}: importing {name} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise SpecError(f"{target}: {name} has no function or class {attribute}")
    return found


def _shape(text: str) -> tuple[tuple[int, ...], Any]:
    import torch

    match = re.fullmatch(r"(\d+(?:,\d+)*)(?::(\w+))?", text)
    dtype = getattr(torch, match.group(2) or "float32", None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        raise SpecError(f"--input {text}: expected sizes and a torch dtype, as in 8,3,224,224 or 4,2048:int64")
    sizes = tuple(int(size) for size in match.group(1).split(","))
    if 0 in sizes:
        raise SpecError(f"--input {text}: a size is 0")
    return sizes, dtype
