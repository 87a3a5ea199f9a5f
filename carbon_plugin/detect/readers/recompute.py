"""Detect activation checkpointing by what runs again in the first backward pass, else by wrappers and flags.

The same calls tell whether the blocks are a stack that each token passes once, which their structure cannot.

What runs again is the only sign of `torch.utils.checkpoint` inside a forward pass. An attention core that is only a
function leaves no sign, because no module of it is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from math import prod
from statistics import median_low
from typing import TYPE_CHECKING, Any, Literal

from carbon_plugin.detect.hooks import Hooks
from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.shape.structure import repeated_blocks
from carbon_plugin.detect.wrappers import is_compiled
from carbon_plugin.spec.layout import SHARED_OUT

if TYPE_CHECKING:
    from torch import nn

MAX_HOOKS = 4096
"""The most modules that are watched for one step: each of their calls then takes some microseconds more."""

LENGTH_TOLERANCE = 1.05
"""How much longer a sequence may be in some blocks: by a few tokens that a model adds of its own."""

RecomputeKind = Literal["none", "selective", "operators", "full"]


def read(job: Job) -> Findings | None:
    """Return the recomputation by what ran again, else by what the module's wrappers and flags say."""
    if job.batch is not None and job.batch.recompute is not None:
        reading: Findings | None = job.batch.recompute.reading()
        if reading is not None:
            return reading
    return _stated(job.model)


class RecomputeWatch:
    """The watch sees which leaf modules of the repeated blocks are called, and on how many rows, in the forward and the
    backward passes of one step.

    Nothing is watched where any module is compiled: what runs inside compiled code is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._calls = 0
        self._noting = False
        self._rows: dict[int, int] = {}
        self._forward: list[Counter[int]] = []
        self._again: list[set[int]] = []
        self._cached = self._reentrant = False
        self._hooks = Hooks()
        if any(is_compiled(module) for module in model.modules()):
            return
        self._hooks.put(model, partial(self._see_safely, self._see_call))
        blocks = repeated_blocks(model)
        for number, block in enumerate(blocks.modules if blocks else (model,)):
            self._watch(number, block)

    def reading(self) -> Findings | None:
        """Return what was recomputed in how many blocks, or None if no complete forward pass was seen."""
        if self._hooks.compiled_meanwhile:
            return None
        seen = [(forward, again) for forward, again in zip(self._forward, self._again, strict=True) if forward]
        if not seen:
            return None
        kinds = Counter(self._kind(set(forward), again) for forward, again in seen)
        rerun = [(kind, number) for kind, number in kinds.most_common() if kind != "none"]
        if not rerun:
            source = f"no module of {len(seen)} blocks was called in the backward pass"
            return Findings(fields={"layout.recompute": Observed("none", source)})
        kind, number = rerun[0]
        again = sum(n for _, n in rerun)
        source = f"modules of {again} of {len(seen)} blocks were called again in the backward pass"
        fields = _of_blocks(kind, again, len(seen), source)
        if self._reentrant:
            fields["layout.recompute_reentrant"] = Observed(True, "their forward pass ran without gradients")
        return Findings(fields=fields, problems=_unlike(kind, number, again, len(seen)))

    def irregular(self, tokens: int) -> str:
        """Return why the blocks are not a stack that each of the `tokens` of the last call passes once, in one phrase.
        It is empty where they are, and where too little was seen.
        """
        seen = [median_low(forward.values()) for forward in self._forward if forward]
        if not self._calls or not seen or self._hooks.compiled_meanwhile:
            return ""
        if (passes := min(seen) // self._calls) > 1:
            return f"its blocks are run {passes} times in each call"
        rows = sorted(self._rows.values()) or [tokens]
        if rows[-1] > LENGTH_TOLERANCE * rows[0]:
            return f"its blocks work on sequences of different lengths, {rows[0]:,} to {rows[-1]:,} tokens of a batch"
        if tokens and rows[-1] > LENGTH_TOLERANCE * tokens:
            return f"its blocks work on {rows[-1]:,} tokens of a batch in which {tokens:,} are seen"
        return ""

    def remove(self) -> None:
        """Stop watching. It is safe to call this twice."""
        self._hooks.remove()

    def _see_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        import torch

        if module.training and not _in_backward_pass():
            self._calls += 1
            self._noting = torch.is_grad_enabled()
            if self._noting:
                self._rows = {}

    def _watch(self, number: int, block: nn.Module) -> None:
        self._forward.append(Counter())
        self._again.append(set())
        for leaf in block.modules():
            if not leaf._modules and len(self._hooks) < MAX_HOOKS:
                self._hooks.put(leaf, partial(self._see_safely, partial(self._see, number)))

    def _see_safely(
        self,
        see: Callable[[nn.Module, tuple[Any, ...]], None],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            see(module, args)
        except Exception:  # no error may reach the user here, and what was seen is incomplete
            self.remove()
            self._forward, self._again = [], []

    def _see(self, number: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        import torch

        if not module.training:
            return
        if not _in_backward_pass():
            self._forward[number][id(module)] += 1
            self._reentrant |= not torch.is_grad_enabled()
            if self._noting and number not in self._rows and args and isinstance(args[0], torch.Tensor):
                self._rows[number] = prod(args[0].shape[:-1])
        else:
            self._again[number].add(id(module))
            self._cached |= _cached_mode()

    def _kind(self, forward: set[int], again: set[int]) -> RecomputeKind:
        if not again & forward:
            return "none"
        if self._cached:
            return "operators"
        # A recomputation stops at the last result that the backward pass needs, so that a leaf may be missing.
        return "full" if len(again & forward) >= len(forward) - 1 else "selective"


def _in_backward_pass() -> bool:
    import torch

    return torch._C._current_graph_task_id() != -1  # this is private to torch, whose checkpointing uses it


def _cached_mode() -> bool:
    """Return whether a policy of selective checkpointing provides kept results of some operators."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return any("CachedTorchDispatchMode" in type(mode).__name__ for mode in _get_current_dispatch_mode_stack())


def _stated(model: nn.Module) -> Findings | None:
    """Return checkpointing as stated by a wrapper, by the composable call, or by a Hugging Face flag."""
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
        blocks = repeated_blocks(model)
        number = len(modules) if modules is flagged or not blocks else max(len(blocks.modules), len(modules))
        kind: RecomputeKind = "operators" if any(_has_policy(module) for module in modules) else "full"
        return Findings(fields=_of_blocks(kind, len(modules), number, f"{source} on {len(modules)} modules"))
    return None


def _has_policy(module: nn.Module) -> bool:
    return "context_fn" in getattr(getattr(module, "checkpoint_fn", None), "keywords", {})


def _of_blocks(kind: RecomputeKind, number: int, blocks: int, source: str) -> dict[str, Observed]:
    """Return the kind of recomputation, and the share of the blocks that recompute where this kind has one."""
    fields = {"layout.recompute": Observed(kind, source)}
    if kind in SHARED_OUT:
        fields["layout.recompute_share"] = Observed(number / blocks, source)
    return fields


def _unlike(kind: RecomputeKind, number: int, again: int, blocks: int) -> tuple[tuple[str, str], ...]:
    """Return what the prediction leaves out: blocks that recompute in another way, or not at all where the kind has no
    share."""
    if number < again:
        return (("recompute", f"only {number} of {again} blocks that recompute do so by {kind}; predicted as all"),)
    if again < blocks and kind not in SHARED_OUT:
        return (("recompute", f"only {again} of {blocks} blocks recompute ({kind}); predicted as all"),)
    return ()
