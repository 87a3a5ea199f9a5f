"""Watch the first step's calls of a model: batch, length, accumulation, autocast, and what runs again in backward
passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.hooks import Hooks
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers.context_parallel import ActiveContextParallel, active_context_parallel
from carbon_plugin.detect.readers.recompute import RecomputeWatch
from carbon_plugin.detect.shape.structure import repeated_blocks
from carbon_plugin.detect.tensors import (
    Arriving,
    Example,
    batch_shape,
    encoder_and_decoder,
    inputs_beside_text,
    meta,
    packed_documents,
    real_tokens,
)
from carbon_plugin.detect.wrappers import dtype_name, gradients_sync, is_compiled, unwrapped

if TYPE_CHECKING:
    from torch import nn


class BatchWatch:
    """The watch sees the calls of a model until `remove`, without leaving anything on the model itself.

    It counts calls in training mode and keeps the shapes of the last one. Of the data it keeps only two numbers of the
    first call: the tokens that are no padding, and the packed documents. A compiled model gets no hook, because a hook
    would change the graph; `reason` then says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self.reason: str | None = None
        self.example: Example | None = None
        self.autocast_dtype: str | None = None
        self.context_parallel: ActiveContextParallel | None = None
        self.recompute: RecomputeWatch | None = None
        self._begins: list[bool] = []
        self._syncs: list[bool] = []
        self._shape: tuple[tuple[int, int | None], tuple[int, ...]] | None = None
        self._real: tuple[str, Arriving] | None = None
        self._packed: tuple[str, Arriving | int] | None = None
        self._first_tokens = 0
        self._sides: tuple[int | None, int] | None = None
        self._beside: int | None = None
        self._leaf: Any = None
        self._hooks = Hooks()
        if is_compiled(model):
            self.reason = "the model is compiled; what it is called with cannot be seen"
        else:
            self._attempt("recomputation could not be watched", lambda: self._watch_recompute(model))
            self._attempt("batches could not be watched", lambda: self._watch(model))

    @property
    def calls(self) -> int:
        """Return the number of calls in training mode so far."""
        return len(self._syncs)

    def observed(self) -> dict[str, Observed]:
        """Return what was seen so far, by field name. This is nothing before the first call."""
        if self._shape is None:
            return {}
        (micro_batch_size, seq_len), shape = self._shape
        source = f"model called with a tensor of shape {shape}"
        found = {
            "layout.micro_batch_size": Observed(micro_batch_size, source),
            "training.micro_batches": self._accumulation(),
        }
        if seq_len is not None:
            cp = self.context_parallel
            whole, whose = (1, source) if cp is None else (cp.degree, f"{source}, a part of 1/{cp.degree}: {cp.source}")
            found["training.seq_len"] = Observed(seq_len * whole, whose)
        if self._beside is not None:
            found["training.inputs_per_sequence"] = Observed(self._beside, "images or sounds in the batch")
        if self._sides is not None:
            read, written = self._sides
            found["training.seq_len"] = Observed(written, "what the decoder was called with")
            if read is not None:
                found["training.input_len"] = Observed(read, "what the encoder was called with")
        return found | self._counted()

    def irregular(self) -> str:
        """Return why the repeated blocks are not a stack that each token of a batch passes once, empty where they
        are.
        """
        if self.recompute is None or self._shape is None:
            return ""
        micro_batch_size, seq_len = self._shape[0]
        return self.recompute.irregular(micro_batch_size * (seq_len or 0))

    def remove(self) -> None:
        """Stop watching. It is safe to call this twice."""
        if self._hooks.compiled_meanwhile and not self.calls:
            self.reason = "the model runs in a compiled function; what it is called with cannot be seen"
        self._hooks.remove()
        if self.recompute is not None:
            self.recompute.remove()

    def _watch(self, model: nn.Module) -> None:
        self._hooks.put(model, self._see_safely)
        if any(is_compiled(module) for module in model.modules()):
            return  # the dtype of the products shows only inside compiled code
        product = largest_product(model)
        if product is not None:
            self._hooks.put(product, self._see_product)

    def _watch_recompute(self, model: nn.Module) -> None:
        self.recompute = RecomputeWatch(model)

    def _see_safely(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._attempt("a batch could not be read", lambda: self._see(module, args, kwargs))

    def _see_product(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the autocast at the call of a matrix product.

        Accelerate and many models enter autocast only inside the forward pass, so that it does not show at the call of
        the model.
        """
        if module.training:
            self._attempt("autocast could not be read", lambda: self._see_autocast(args))

    def _see_autocast(self, args: tuple[Any, ...]) -> None:
        import torch

        kind = next((value.device.type for value in args if isinstance(value, torch.Tensor)), "cpu")
        on = torch.is_autocast_enabled(kind)
        self.autocast_dtype = dtype_name(torch.get_autocast_dtype(kind)) if on else None

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # no error of ours may reach the user's forward pass
            self.reason = f"{what}: {type(error).__name__}: {error}"

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        if not (module.training and torch.is_grad_enabled()):
            return
        if self._leaf is None:
            self._leaf = next((p for p in module.parameters() if p.requires_grad), None)
        # There are no gradients after `zero_grad`, and none yet while a wrapper keeps them back for the next calls.
        fresh = self._leaf is not None and self._leaf.grad is None
        self._begins.append(fresh and (not self._syncs or self._syncs[-1]))
        self._syncs.append(gradients_sync(module))
        self._shape = batch_shape((args, kwargs)) or self._shape
        if self._shape is not None and hasattr(getattr(unwrapped(module), "config", None), "vision_config"):
            images = inputs_beside_text(kwargs)
            self._beside = max(1, round(images / self._shape[0][0])) if images else 0
        if getattr(getattr(unwrapped(module), "config", None), "is_encoder_decoder", False) is True:
            self._sides = encoder_and_decoder(kwargs) or self._sides
        if self._shape is not None:
            self.example = Example(meta(args), meta(kwargs), self._shape[0][0])
        kind = next((parameter.device.type for parameter in module.parameters()), "cpu")
        if torch.is_autocast_enabled(kind):
            self.autocast_dtype = dtype_name(torch.get_autocast_dtype(kind))
        self.context_parallel = self.context_parallel or active_context_parallel()
        if self.calls == 1 and self._shape is not None:
            self._first_tokens = self._shape[0][0] * (self._shape[0][1] or 0)
            self._real, self._packed = real_tokens((args, kwargs)), packed_documents((args, kwargs))

    def _accumulation(self) -> Observed:
        """Return the number of micro-batches of the step.

        Only a scaler of fp16 gradients skips steps, and then gradients are dropped between calls. The calls before the
        last time when that happened belong to steps that were not taken.
        """
        count, source = self.calls, "calls in training mode before the first optimizer step"
        held = self.calls - sum(self._syncs)
        if self.autocast_dtype == "float16":
            taken = next((i for i in range(self.calls, 0, -1) if self._begins[i - 1]), 1)
            skipped = taken - 1
            count -= skipped
            source += f", {skipped} more in steps that were skipped" if skipped else ""
        return Observed(count, f"{source}, {held} without gradient synchronisation" if held else source)

    def _counted(self) -> dict[str, Observed]:
        """Return the values that need data, without those that the device has not sent yet."""
        found: dict[str, Observed] = {}
        if self._real is not None and self._first_tokens:
            name, arriving = self._real
            real = arriving.read()
            if real is not None and 0 < real <= self._first_tokens:
                found["training.padding_fraction"] = Observed(
                    1 - real / self._first_tokens, f"{name} of the first call"
                )
        if self._packed is not None and self._shape is not None:
            name, number = self._packed
            documents = number if isinstance(number, int) else number.read()
            if documents is not None and documents > self._shape[0][0]:
                mean = self._first_tokens / documents
                found["training.mean_document_tokens"] = Observed(
                    mean, f"{name} of the first call: {documents} documents"
                )
        return found


def largest_product(model: nn.Module) -> nn.Module | None:
    """Return the layer that multiplies by the largest matrix, in the repeated blocks or else in the whole model."""
    from torch import nn

    blocks = repeated_blocks(model)
    inside = blocks.modules[0] if blocks else model
    sizes = [
        (max(parameter.numel() for parameter in matrices), number, module)
        for number, module in enumerate(inside.modules())
        if not module._modules and not isinstance(module, nn.Embedding)
        if (matrices := [parameter for parameter in module.parameters(recurse=False) if parameter.ndim > 1])
    ]
    linear = next((module for module in inside.modules() if isinstance(module, nn.Linear)), None)
    return max(sizes)[2] if sizes else linear  # FSDP1 has only one flat parameter


def called_module(module: nn.Module) -> nn.Module:
    """Return the module whose call gets a batch where `module` only wraps it, as a LightningModule often does."""
    from torch import nn

    children = [child for child in module.children() if not isinstance(child, nn.ModuleList | nn.ModuleDict)]
    sizes = [(sum(parameter.numel() for parameter in child.parameters()), child) for child in children]
    size, largest = max(sizes, key=lambda pair: pair[0], default=(0, module))
    return largest if 2 * size > sum(parameter.numel() for parameter in module.parameters()) else module
