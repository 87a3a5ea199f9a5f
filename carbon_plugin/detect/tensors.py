"""Read samples, tokens, padding and packed documents from a batch: from shapes where they tell, else from data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    import torch

_TOKEN_KEYS = ("input_ids", "tokens", "inputs", "idx")
_MASK_KEYS = ("attention_mask", "padding_mask")
_DECODER_KEYS = ("decoder_input_ids", "labels")
_BESIDE_KEYS = ("pixel_values", "input_features", "images")
IMAGES_DIMS = 4
"""The dimensions of a tensor of images: their number, channels, height and width. More say how many a sample has."""
_BOUNDARY_KEYS = ("cu_seqlens", "cu_seq_lens", "cu_seqlens_q", "cu_seq_lens_q")


class Example(Struct, frozen=True):
    """One instance holds a call of a model as shapes only, with meta tensors in place of real ones."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: int

    def call(self, module: Any) -> Any:
        """Call a module on the meta device with these arguments."""
        return module(*self.args, **self.kwargs)


class Arriving:
    """One instance holds a number that is being copied from a device. The training thread never waits for it."""

    def __init__(self, value: torch.Tensor) -> None:
        import torch

        self._event: torch.cuda.Event | None = None
        self._value = value
        if value.is_cuda:
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> int | None:
        """Return the number, or None while it is still being copied."""
        if self._event is not None and not self._event.query():  # type: ignore[no-untyped-call]
            return None
        return int(self._value)


def batch_shape(batch: Any) -> tuple[tuple[int, int | None], tuple[int, ...]] | None:
    """Return ((samples, tokens a sample), shape of the tensor that shows it), or None if a batch holds no tensor.

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


def encoder_and_decoder(batch: Any) -> tuple[int | None, int] | None:
    """Return (tokens an input of the encoder, tokens of the decoder) of a batch for a model that has both, or None
    where it does not show what the decoder reads. An input that is no text has None in place of tokens.
    """
    named = {name: tensor for name, tensor in _named(batch) if tensor.ndim >= 2}
    decoder = next((named[name] for name in _DECODER_KEYS if name in named), None)
    if decoder is None:
        return None
    text = next((named[name] for name in _TOKEN_KEYS if name in named), None)
    return None if text is None else int(text.shape[1]), int(decoder.shape[1])


def inputs_beside_text(batch: Any) -> int:
    """Return the number of images or sounds in a batch. Where patches of several images are joined it is 1."""
    beside = [tensor for name, tensor in _named(batch) if name in _BESIDE_KEYS]
    if not beside:
        return 0
    shape = beside[0].shape
    return int(shape[0]) * (int(shape[1]) if len(shape) > IMAGES_DIMS else 1) if len(shape) >= IMAGES_DIMS else 1


def real_tokens(batch: Any) -> tuple[str, Arriving] | None:
    """Return the name of a batch's padding mask and its number of tokens without padding, or None without a mask."""
    for name, mask in _named(batch):
        if name in _MASK_KEYS and mask.ndim == 2 and not mask.is_floating_point() and _readable(mask):
            return name, Arriving((mask != 0).sum())
    return None


class BatchTokens(NamedTuple):
    """Holds the tokens of a batch. Where it does not say which of them are padding, they are all its places."""

    tokens: int
    without_padding: bool


def tokens_in_host_memory(batch: Any) -> BatchTokens | None:
    """Return the tokens of a batch, or None where they are not known without a device, or there are none.

    A batch says by a mask which tokens are padding, or by positions or boundaries that it is packed and has none.
    Without either it may be padded, unless its sequences are labelled throughout.
    """
    shape = batch_shape(batch)
    if shape is None or shape[0][1] is None:
        return None
    named = dict(_named(batch))
    mask = next((named[name] for name in _MASK_KEYS if name in named and named[name].ndim == 2), None)
    if mask is not None:
        readable = _readable(mask) and mask.device.type == "cpu"
        return BatchTokens(int((mask != 0).sum()), without_padding=True) if readable else None
    places = shape[0][0] * shape[0][1]
    if named.keys() & {"position_ids", *_BOUNDARY_KEYS}:
        return BatchTokens(places, without_padding=True)
    labels = named.get("labels")
    if labels is None or labels.device.type != "cpu" or labels.ndim != 2 or not _readable(labels):
        return BatchTokens(places, without_padding=False)
    return BatchTokens(places, without_padding=bool((labels >= 0).all()))


def packed_documents(batch: Any) -> tuple[str, Arriving | int] | None:
    """Return the name of the tensor that says where packed documents begin, and their number, or None.

    The shape of cumulative lengths tells the number. Positions begin again at 0 with each document; where there is a
    padding mask they may be 0 in the padding too, and are not used.
    """
    named = dict(_named(batch))
    for name in _BOUNDARY_KEYS:
        if name in named and named[name].ndim == 1:
            return name, int(named[name].shape[0]) - 1
    positions = named.get("position_ids")
    if positions is None or positions.ndim != 2 or named.keys() & set(_MASK_KEYS) or not _readable(positions):
        return None
    return "position_ids", Arriving((positions == 0).sum())


def meta(value: Any) -> Any:
    """Return the same nest with meta tensors. Values that are neither tensors nor containers stay."""
    import torch

    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="meta", requires_grad=False)
    if isinstance(value, Mapping):
        return {key: meta(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(meta(item) for item in value) if type(value) in (tuple, list) else value
    return value


def _readable(tensor: torch.Tensor) -> bool:
    """Return whether data can be counted without waiting: it is in host memory or on a GPU, and not in the capture of a
    CUDA graph.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor) or tensor.device.type not in ("cpu", "cuda"):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _named(batch: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the tensors of a batch that have a name."""
    import torch

    if isinstance(batch, Mapping):
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                yield str(name), value
            else:
                yield from _named(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _named(value)


def _tensors(batch: Any) -> Iterator[Any]:
    """Return the tensors in a batch, those under the usual names of token ids first."""
    import torch

    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for key in sorted(batch, key=lambda key: key not in _TOKEN_KEYS):
            yield from _tensors(batch[key])
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from _tensors(item)
