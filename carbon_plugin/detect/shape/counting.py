"""Count FLOPs, activation bytes and operations of any module in one forward and one backward pass without data or
memory.

A copy of the module on the meta device runs the shapes of a real batch. Nothing of the real module, of its
hooks or of the random state is touched.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.shape.autocast import as_autocast, as_on_gpu, narrow_copies
from carbon_plugin.detect.shape.flops import flop_counter, is_foreign, run_on_meta
from carbon_plugin.detect.shape.traffic import Traffic
from carbon_plugin.spec.models.passes import CountedPasses

if TYPE_CHECKING:
    import torch
    from torch import nn

Each = Callable[[Any, Callable[[], Any], tuple[Any, Any]], Any]
"""What runs an operation: given the operation, what runs it, and its arguments, it returns the result."""
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Counts(Struct, frozen=True):
    """One instance holds what was counted in one forward pass.

    `flops` are those of matrix operations, `activation_bytes` the bytes of all results, and `kernels` the operations
    that launch a kernel. `saved_bytes` are the bytes that autograd keeps for the backward pass, and `backward_flops`
    those of that pass without what it repeats of the forward pass (each None where the module cannot be run so on the
    meta device). `autocast_activation_bytes` and `autocast_saved_bytes` are the same bytes as autocast to 16 bit makes
    them, without the copies of parameters, which are made once for any batch (None also where no parameter has 32 bit,
    as autocast changes nothing then). `passes` and `autocast_passes` are what both passes do, for all samples, in the
    module's own types and under autocast. `uncounted` are the operations of other libraries whose FLOPs nobody states.
    """

    flops: float
    activation_bytes: float
    kernels: int
    saved_bytes: float | None
    backward_flops: float | None
    autocast_activation_bytes: float | None
    autocast_saved_bytes: float | None
    passes: tuple[Traffic, Traffic] | None = None
    autocast_passes: tuple[Traffic, Traffic] | None = None
    uncounted: tuple[str, ...] = ()

    def per_sample(self, samples: int) -> dict[str, Any]:
        """Return the fields of a `CountedModel` that are amounts of one of the `samples` that were counted."""
        amounts = {
            "forward_flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "saved_bytes": self.saved_bytes,
            "backward_flops": self.backward_flops,
            "autocast_activation_bytes": self.autocast_activation_bytes,
            "autocast_saved_bytes": self.autocast_saved_bytes,
        }
        passes = {"passes": self.passes, "autocast_passes": self.autocast_passes}
        return {
            **{f"{name}_per_sample": None if found is None else found / samples for name, found in amounts.items()},
            **{name: None if both is None else _per_sample(both, samples) for name, both in passes.items()},
        }

    @property
    def reservation(self) -> str:
        """Return what the source of a count adds where an operation's FLOPs are unknown, else an empty text."""
        if not self.uncounted:
            return ""
        return (
            f", without the FLOPs of {', '.join(self.uncounted)}, which are unknown "
            "(torch.utils.flop_counter.register_flop_formula states them)"
        )


def _per_sample(passes: tuple[Traffic, Traffic], samples: int) -> CountedPasses:
    forward, backward = (one.per_sample(samples) for one in passes)
    return CountedPasses(forward=forward, backward=backward)


def count_forward(module: nn.Module, call: Callable[[nn.Module], Any], deadline_s: float) -> Counts:
    """Count what `call(copy)` runs on a meta copy of a plain `module`, and the backward pass from all of its results
    or, where it names one, from its loss; `call` must pass meta tensors.

    `deadline_s` is the moment of `time.thread_time` at which counting is given up. Raises `TimeoutError` then,
    and whatever the module raises on meta tensors (data-dependent control flow, custom kernels).
    """
    import torch

    kernels, result_bytes = 0, 0.0

    def tally(func: Any, run: Callable[[], Any], operands: tuple[Any, Any]) -> Any:
        nonlocal kernels, result_bytes
        del operands
        before = flops.get_total_flops() if is_foreign(func) else None
        result = run()
        if before is not None and flops.get_total_flops() == before:
            uncounted.setdefault(str(func).removesuffix(".default"))
        if not _is_view(func):
            kernels += 1
            result_bytes += _bytes_of(result)
        return result

    replica = _meta_copy(module)
    flops, uncounted = flop_counter(), dict[str, None]()
    trained = [parameter for parameter in replica.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter looks for the gradient of what needs one, and there is none here
        parameter.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), flops, _traced(deadline_s, tally), as_on_gpu():
        call(replica)
    for parameter in trained:
        parameter.requires_grad_(True)
    forward_flops = float(flops.get_total_flops())
    saved = backward = passes = None
    there, back = Traffic(replica.parameters()), Traffic(replica.parameters())
    with suppress(Exception):  # the counts without gradients are still valid
        with torch.random.fork_rng(devices=[]):
            saved, results = _saved_bytes(replica, call, deadline_s, (), as_on_gpu(), _seen_by(there))
        with torch.random.fork_rng(devices=[]):
            backward = _backward_flops(results, deadline_s, _seen_by(back))
        passes = there, back
    # What a checkpoint runs again is no part of the model's own work, which is at most twice that of the forward pass.
    backward = None if backward is None else min(backward, 2 * forward_flops)
    moved, kept, narrow = _under_autocast(replica, call, deadline_s)
    return Counts(forward_flops, result_bytes, kernels, saved, backward, moved, kept, passes, narrow, tuple(uncounted))


def _under_autocast(
    replica: nn.Module, call: Callable[[nn.Module], Any], deadline_s: float
) -> tuple[float | None, float | None, tuple[Traffic, Traffic] | None]:
    """Return the bytes of all results, and of those that autograd keeps, of one forward pass under autocast, and what
    this pass and its backward pass do.
    """
    import torch

    moved = 0.0
    copies = narrow_copies(replica.parameters())
    weights = (*replica.parameters(), *copies.values())
    there, back = Traffic(weights), Traffic(weights)
    see = _seen_by(there)

    def tally(func: Any, run: Callable[[], Any], operands: tuple[Any, Any]) -> Any:
        nonlocal moved
        result = see(func, run, operands)
        moved += 0.0 if _is_view(func) else _bytes_of(result)
        return result

    kept = passes = None
    if not copies:
        return None, None, None
    with suppress(Exception):  # the counts without autocast are still valid
        with torch.random.fork_rng(devices=[]):
            saved, results = _saved_bytes(replica, call, deadline_s, tuple(copies.values()), as_autocast(copies), tally)
        kept = saved
        with torch.random.fork_rng(devices=[]):
            _backward_flops(results, deadline_s, _seen_by(back))
        passes = there, back
    return None if kept is None else moved, kept, passes


def _seen_by(traffic: Traffic) -> Each:
    """Return what runs each operation and adds it to the traffic where it is no view."""

    def see(func: Any, run: Callable[[], Any], operands: tuple[Any, Any]) -> Any:
        result = run()
        if not _is_view(func):
            traffic.see(func, *operands, result)
        return result

    return see


def _saved_bytes(
    replica: nn.Module,
    call: Callable[[nn.Module], Any],
    deadline_s: float,
    copies: tuple[torch.Tensor, ...] = (),
    types: AbstractContextManager[Any] | None = None,
    each: Each | None = None,
) -> tuple[float, Any]:
    """Return the bytes that autograd keeps of one forward pass, each storage once, without parameters, their `copies`
    and buffers, and what the pass returns. The pass runs in the context `types`, and `each` sees its operations.
    """
    import torch

    own = {tensor.untyped_storage()._cdata for tensor in (*replica.parameters(), *replica.buffers(), *copies)}
    # The storages are held, so that none is freed and its address given to another one.
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if time.thread_time() > deadline_s:
            raise TimeoutError("counting took too long")
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage
        return tensor.detach()  # an output held by its own node would never be freed

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    traced = _traced(deadline_s) if each is None else _traced(deadline_s, each)
    with torch.enable_grad(), hooks, traced, types or nullcontext():
        results = call(replica)
    return float(sum(storage.nbytes() for storage in held.values())), results


def _backward_flops(results: Any, deadline_s: float, each: Each) -> float:
    """Return the FLOPs of the backward pass from the loss among `results`, else from all of them. `each` sees its
    operations.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    loss = results.get("loss") if isinstance(results, Mapping) else getattr(results, "loss", None)
    found = tree_leaves(results if loss is None else loss)
    ends = [end for end in found if isinstance(end, torch.Tensor) and end.requires_grad]
    if not ends:
        return 0.0
    flops = flop_counter()
    with flops, _traced(deadline_s, each):
        torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])
    return float(flops.get_total_flops())


def _traced(deadline_s: float, each: Each = lambda func, run, operands: run()) -> AbstractContextManager[Any]:
    """Return a context in which `each` runs every operation until the deadline, also those of the backward pass.

    `each` is given the operation, what runs it, and its arguments.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if time.thread_time() > deadline_s:
                raise TimeoutError("counting took too long")
            return each(func, lambda: run_on_meta(func, args, kwargs or {}), (args, kwargs or {}))

    return _Trace()  # type: ignore[no-untyped-call]


def _meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy that shares no tensor with the module and has no hooks."""
    import torch

    # deepcopy takes a tensor's copy from here instead of making one: no real memory is allocated.
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    replica = copy.deepcopy(module, memo)
    for part in replica.modules():
        for hooks in _HOOKS:
            getattr(part, hooks).clear()
    return replica


def _is_view(func: Any) -> bool:
    """Return whether an operation gives its tensor another shape and writes nothing.

    PyTorch's own answer leaves out the view that a product of many dimensions ends with, because it hides it from
    autograd.
    """
    return bool(func.is_view) or func.overloadpacket.__name__ == "_unsafe_view"


def _bytes_of(result: Any) -> float:
    """Return the bytes of the tensors in the result of an operation."""
    import torch

    results = result if isinstance(result, tuple | list) else (result,)
    return float(sum(r.numel() * r.element_size() for r in results if isinstance(r, torch.Tensor)))
