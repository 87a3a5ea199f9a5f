"""Read a transformer's shape from its module: repeated blocks, embeddings and the shapes of weight matrices.

Only shapes are read, never values. The caller compares the parameter count of what is found with the real one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.shape.experts import read_mixture
from carbon_plugin.detect.shape.matrices import attention_widths, feed_forward, matrices_of
from carbon_plugin.detect.wrappers import class_name, unwrapped
from carbon_plugin.spec.numbers.figure import Assumption

if TYPE_CHECKING:
    from torch import nn

HEAD_COUNTS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")
HEAD_WIDTHS = ("head_dim", "d_head", "head_size", "dim_head")
_MIN_BLOCKS = 2


class Structure(Struct, frozen=True, kw_only=True):
    """One instance holds the fields of a `TransformerModel` that the structure shows, and what it leaves open."""

    fields: dict[str, Any]
    assumed: tuple[Assumption, ...]
    source: str


def read_structure(model: nn.Module) -> Structure | str:
    """Return the shape of a decoder-only transformer, or one phrase on what does not look like one."""
    from torch import nn

    blocks = repeated_blocks(model)
    if blocks is None:
        return "no list of equal blocks"
    tables = [tuple(weight.shape) for weight in _embeddings(model)]
    if not tables:
        return "no token embedding"
    vocab, hidden = max(tables)
    mixture = read_mixture(blocks.modules, hidden)
    if isinstance(mixture, str):
        return f"{mixture} in {blocks.path}"
    path, layers, block = blocks.path, len(blocks.modules), blocks.modules[mixture.block if mixture else 0]
    matrices = Counter(matrices_of(block))
    if mixture is not None:
        matrices -= mixture.matrices
        width, gated = mixture.dense_width, mixture.gated
    else:
        dense = feed_forward(matrices, hidden)
        if dense is None:
            return f"no feed-forward pair of width {hidden} in {path}"
        matrices -= dense.matrices
        width, gated = dense.width, dense.gated
    attention = attention_widths(matrices, hidden)
    if attention is None:
        return f"no attention projections of width {hidden} in {path}"
    queries, keys = attention
    stated = _stated_head_dim(block, queries)
    head_dim = stated or _usual_head_dim(queries, keys)
    fields: dict[str, Any] = {
        "layers": layers,
        "hidden": hidden,
        "vocab": vocab,
        "ffn": width,
        "gated": gated,
        "heads": queries // head_dim,
        "kv_heads": keys // head_dim or 1,
        "head_dim": head_dim,
        "tied_embeddings": _tied(model, block, vocab, hidden),
        "learned_positions": sum(rows for rows, width in tables if width == hidden) - vocab,
    }
    if mixture is not None:
        fields["moe"] = mixture.spec
    fields["dropout"] = max((m.p for m in block.modules() if isinstance(m, nn.Dropout)), default=0.0)
    assumed = () if stated else tuple(_assumption(name, fields[name]) for name in ("head_dim", "heads", "kv_heads"))
    return Structure(fields=fields, assumed=assumed, source=f"{layers} blocks {class_name(block)} in {path}")


class Blocks(Struct, frozen=True):
    """One instance holds equal modules that are run one after the other, without their wrappers, and their container's
    name.
    """

    path: str
    modules: tuple[Any, ...]


def repeated_blocks(model: nn.Module) -> Blocks | None:
    """Return the container whose equal children hold most of the parameters."""
    from torch import nn

    best: Blocks | None = None
    most = 0
    for name, container in model.named_modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            continue
        children = tuple(unwrapped(child) for child in container.children())
        if len(children) < _MIN_BLOCKS or len({type(child) for child in children}) != 1:
            continue
        size = sum(parameter.numel() for parameter in container.parameters())
        if size > most:
            best, most = Blocks(name or class_name(model), children), size
    return best


def _stated_head_dim(block: nn.Module, queries: int) -> int | None:
    """Return the width of a head from an attribute of the block's modules, or None if there is none."""
    for module in block.modules():
        for names, is_count in ((HEAD_COUNTS, True), (HEAD_WIDTHS, False)):
            values = (getattr(module, name, None) for name in names)
            value = next((value for value in values if type(value) is int and value > 0), None)
            if value and queries % value == 0:
                return queries // value if is_count else value
    return None


def _usual_head_dim(queries: int, keys: int) -> int:
    """Return the usual width of a head: 128 in wide models and 64 in others, where that divides both widths.

    Where neither does, it is the greatest common divisor of both widths and 64.
    """
    both = math.gcd(queries, keys)
    return next((width for width in (128, 64) if both % width == 0 and queries >= 16 * width), math.gcd(both, 64))


def _assumption(name: str, value: int) -> Assumption:
    source = "no attribute of the block tells its heads; a head is usually 128 wide in wide models and 64 in others"
    return Assumption(f"model.{name}", str(value), source)


def _embeddings(model: nn.Module) -> Iterator[Any]:
    from torch import nn

    tables = (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    return (weight for weight in tables if weight.ndim == 2)  # FSDP1 flattens the parameters that it shards


def _tied(model: nn.Module, block: nn.Module, vocab: int, hidden: int) -> bool:
    """Return whether the head has no matrix of its own beside the embedding; a shared matrix is listed once."""
    tables = {id(weight) for weight in _embeddings(model)}
    own = {id(parameter) for parameter in block.parameters()}
    return not any(
        tuple(parameter.shape) == (vocab, hidden) and id(parameter) not in tables | own
        for parameter in model.parameters()
    )
