"""Read a mixture of experts from the blocks of a model: experts in tensors of three dimensions, or in a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.shape.matrices import attention_widths, feed_forward, matrices_of
from carbon_plugin.detect.wrappers import class_name
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.model import MixtureOfExperts

if TYPE_CHECKING:
    from torch import nn

TOP_K = ("top_k", "topk", "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "n_activated_experts")
ROUTED = re.compile(r"(?i)(?<!shared_)(?<!shared)(expert|moe|mixture)")
"""Names of modules, or of their classes, that hold routed experts."""
FORM = "_experts_implementation"
"""The attribute of a configuration of transformers, since its version 5, that says how experts run: "eager", which is a
loop as None is, or the name of a grouped kernel (`use_experts_implementation` of its integrations/moe.py)."""


class Mixture(Struct, frozen=True, kw_only=True):
    """One instance describes the sparse layers of a model.

    `block` is the number of the first one; `matrices` are those of its feed-forward part: router, shared experts, and
    experts that are modules. `dense_width` is that of layers that are not sparse.
    """

    spec: MixtureOfExperts
    gated: bool
    dense_width: int
    block: int
    matrices: Counter[tuple[int, int]]


class _Experts(Struct, frozen=True):
    number: int
    width: int
    gated: bool
    matrices: Counter[tuple[int, int]] = Counter()


def read_mixture(blocks: Sequence[nn.Module], hidden: int) -> Mixture | str | None:
    """Return the mixture of experts of these blocks, or None if they have none, or a phrase on what is not
    understood.
    """
    found = [_experts(block, hidden) for block in blocks]
    sparse = [number for number, experts in enumerate(found) if experts is not None]
    if not sparse:
        return None
    first, block = sparse[0], blocks[sparse[0]]
    experts = found[first]
    assert experts is not None  # `sparse` holds only blocks with experts
    top_k = _top_k(block)
    if top_k is None:
        return "no attribute that tells how many experts a token takes"
    router: Counter[tuple[int, int]] = Counter({(experts.number, hidden): 1})
    rest = Counter(matrices_of(block)) - experts.matrices - router
    shared = None if attention_widths(rest, hidden) else feed_forward(rest, hidden)
    dense = feed_forward(Counter(matrices_of(blocks[0])), hidden) if first > 0 else None
    gaps = {later - earlier for earlier, later in pairwise(sparse)} or {1}
    every = min(gaps)
    try:
        spec = MixtureOfExperts(
            experts=experts.number,
            top_k=top_k,
            expert_ffn=experts.width,
            shared_ffn=shared.width if shared else 0,
            every=every,
            first_dense_layers=max(0, first - (every - 1)),
        )
    except SpecError as error:
        return str(error)
    if len(gaps) > 1 or (len(blocks) - spec.first_dense_layers) // every != len(sparse):
        return f"sparse layers without a rule: {', '.join(map(str, sparse))}"
    return Mixture(
        spec=spec,
        gated=experts.gated,
        dense_width=dense.width if dense else experts.width,
        block=first,
        matrices=experts.matrices + router + (shared.matrices if shared else Counter()),
    )


def experts_in_a_loop(model: nn.Module) -> Observed | None:
    """Return whether a loop runs the routed experts of a model, or None where it has none or does not show it.

    A list of modules can only be run one after the other, and a tensor of all experts is one grouped product, unless
    its configuration says otherwise. Two libraries do not show it: transformers before its version 5 loops over tensors
    too, and DeepSpeed's own layer loops without the waits of other loops.
    """
    from torch import nn

    for name, module in model.named_modules():
        named = ROUTED.search(name.rpartition(".")[2]) or ROUTED.search(class_name(module))
        if named is None or type(module).__module__.startswith("deepspeed."):
            continue
        if isinstance(module, nn.ModuleList):
            kinds = {type(child) for child in module}
            if len(module) > 1 and len(kinds) == 1 and "deepspeed" not in name:
                return Observed(True, f"{len(module)} modules in the list {name}")
            continue
        if not any(len(_shape(parameter)) == 3 for parameter in module.parameters(recurse=False)):
            continue
        config = getattr(module, "config", None)
        if hasattr(config, FORM):
            form = getattr(config, FORM)
            return Observed(form in (None, "eager"), f"config.{FORM} {form}")
        if type(module).__module__.startswith("transformers."):
            return None
        return Observed(False, f"tensors of all experts in {name or class_name(module)}")
    return None


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of a parameter, which DeepSpeed's ZeRO-3 keeps beside the empty tensor that it leaves."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _experts(block: nn.Module, hidden: int) -> _Experts | None:
    return _experts_in_tensors(block, hidden) or _experts_in_list(block, hidden)


def _experts_in_tensors(block: nn.Module, hidden: int) -> _Experts | None:
    """Return the experts of a block that are tensors (experts, in, out) or (experts, out, in), or None if it has none.

    Their gate may be a tensor of its own, fused with the up matrix, or absent.
    """
    shapes = [tuple(parameter.shape) for parameter in block.parameters() if parameter.ndim == 3]
    numbers = {shape[0] for shape in shapes}
    if len(numbers) != 1 or any(hidden not in shape[1:] for shape in shapes):
        return None
    widths = sorted(a if b == hidden else b for _, a, b in shapes)
    (number,) = numbers
    if len(widths) == 3 and len(set(widths)) == 1:
        return _Experts(number, widths[0], True)
    if len(widths) == 2 and widths[1] in (widths[0], 2 * widths[0]):
        return _Experts(number, widths[0], widths[1] == 2 * widths[0])
    return None


def _experts_in_list(block: nn.Module, hidden: int) -> _Experts | None:
    from torch import nn

    for container in block.modules():
        children = list(container.children()) if isinstance(container, nn.ModuleList) else []
        if len(children) < 2 or len({type(child) for child in children}) != 1:
            continue
        one = feed_forward(Counter(matrices_of(children[0])), hidden)
        if one is not None:
            return _Experts(len(children), one.width, one.gated, Counter(matrices_of(container)))
    return None


def _top_k(block: nn.Module) -> int | None:
    return next((value for value in _stated(block) if type(value) is int and value > 0), None)


def _stated(block: nn.Module) -> Iterator[Any]:
    return (getattr(module, name, None) for module in block.modules() for name in TOP_K)
