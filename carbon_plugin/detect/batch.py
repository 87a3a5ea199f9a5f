"""Micro-batch size, sequence length and accumulation, from the calls that a model really gets in its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.wrappers import dtype_name, is_compiled

if TYPE_CHECKING:
    from torch import nn

_TOKEN_KEYS = ("input_ids", "tokens", "inputs", "idx")


class Example(Struct, frozen=True):
    """A call of a model as shapes only: meta tensors where there were real ones."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: int

    def call(self, module: Any) -> Any:
        """Call a module on the meta device in this way."""
        return module(*self.args, **self.kwargs)


class BatchWatch:
    """Sees a model's calls through one temporary forward hook, until `remove`.

    It counts calls in training mode and keeps the shapes of the last one, never data. On a compiled model there is no
    hook, because it would change the graph: `reason` says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self.reason: str | None = None
        self.calls = 0
        self.example: Example | None = None
        self.autocast_dtype: str | None = None
        self._shape: tuple[tuple[int, int | None], tuple[int, ...]] | None = None
        self._handle: Any = None
        if is_compiled(model):
            self.reason = "the model is compiled; a hook on it would change the graph"
        else:
            self._handle = model.register_forward_pre_hook(self._see_safely, with_kwargs=True)

    def observed(self) -> dict[str, Observed]:
        """What was seen so far, by field name; nothing before the first call."""
        if self._shape is None:
            return {}
        (micro_batch_size, seq_len), shape = self._shape
        source = f"model called with a tensor of shape {shape}"
        found = {
            "layout.micro_batch_size": Observed(micro_batch_size, source),
            "training.micro_batches": Observed(self.calls, "calls in training mode before the first optimizer step"),
        }
        if seq_len is not None:
            found["training.seq_len"] = Observed(seq_len, source)
        return found

    def remove(self) -> None:
        """Take the hook away. Safe to call twice."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _see_safely(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self._see(module, args, kwargs)
        except Exception as error:  # inside the user's forward pass nothing of ours may surface
            self.reason = f"a batch could not be read: {type(error).__name__}: {error}"

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        if not (module.training and torch.is_grad_enabled()):
            return
        self.calls += 1
        self._shape = batch_shape((args, kwargs)) or self._shape
        if self._shape is not None:
            self.example = Example(_meta(args), _meta(kwargs), self._shape[0][0])
        kind = next((parameter.device.type for parameter in module.parameters()), "cpu")
        if torch.is_autocast_enabled(kind):
            self.autocast_dtype = dtype_name(torch.get_autocast_dtype(kind))


def called_module(module: nn.Module) -> nn.Module:
    """The module whose call gets a batch where `module` is only a frame around it, as a LightningModule often is."""
    from torch import nn

    children = [child for child in module.children() if not isinstance(child, nn.ModuleList | nn.ModuleDict)]
    sizes = [(sum(parameter.numel() for parameter in child.parameters()), child) for child in children]
    size, largest = max(sizes, key=lambda pair: pair[0], default=(0, module))
    return largest if 2 * size > sum(parameter.numel() for parameter in module.parameters()) else module


def batch_shape(batch: Any) -> tuple[tuple[int, int | None], tuple[int, ...]] | None:
    """((samples, tokens a sample), shape of the tensor that says so) of a batch, None if it holds no tensor.

    Token ids are integers of (batch, sequence), hidden states floats of (batch, sequence, width); anything else has
    samples only.
    """
    tensors = list(_tensors(batch))
    ids = next((t for t in tensors if t.ndim == 2 and not t.is_floating_point() and t.dtype.itemsize > 1), None)
    if ids is not None:
        return (int(ids.shape[0]), int(ids.shape[1])), tuple(ids.shape)
    first = next((t for t in tensors if t.ndim >= 2), None)
    if first is None:
        return None
    tokens = int(first.shape[1]) if first.ndim == 3 else None
    return (int(first.shape[0]), tokens), tuple(first.shape)


def _tensors(batch: Any) -> Iterator[Any]:
    """Tensors in a batch, those under the usual names of token ids first."""
    import torch

    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for key in sorted(batch, key=lambda key: key not in _TOKEN_KEYS):
            yield from _tensors(batch[key])
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from _tensors(item)


def _meta(value: Any) -> Any:
    """The same nest with meta tensors; a value that is no tensor and no container stays."""
    import torch

    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="meta", requires_grad=False)
    if isinstance(value, Mapping):
        return {key: _meta(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_meta(item) for item in value) if type(value) in (tuple, list) else value
    return value
