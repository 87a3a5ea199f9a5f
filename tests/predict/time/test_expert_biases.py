"""What biases of experts and a clamped gate move in PyTorch, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carbon_plugin.predict.time.experts import EXPERT_BIAS_BYTES
from tests.predict.time.test_written_out import VIEWS

ROWS, WIDTH, EXPERTS = 512, 64, 4
FUSED_ACTIVATION = 6
"""Bytes per element and direction that `between_products` counts of an activation without biases."""


def moved(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `run` returns, and the bytes per routed element that its operations move of routed rows."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Bytes(TorchDispatchMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._schema.name.split("::")[1] not in VIEWS:
                tensors = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)]
                self.total += sum(one.nbytes for one in tensors if one.numel() >= ROWS * WIDTH)
            return out

    with Bytes() as counter:
        found = run()
    return found, counter.total / (ROWS * WIDTH)


def test_single_operations_of_biases_and_a_clamped_gate_move_as_many_bytes_as_are_counted() -> None:
    torch = pytest.importorskip("torch")

    def leaf(*shape: int) -> Any:
        return torch.randn(*shape, dtype=torch.bfloat16, requires_grad=True)

    first, second = leaf(ROWS, 2 * WIDTH), leaf(ROWS, WIDTH)
    biases = leaf(EXPERTS, 2 * WIDTH), leaf(EXPERTS, WIDTH)
    share = torch.full((EXPERTS,), ROWS // EXPERTS)

    def biased(product: Any, bias: Any) -> Any:
        return product + bias.repeat_interleave(share, dim=0, output_size=ROWS)

    def gated() -> Any:
        both = biased(first, biases[0])
        gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(min=-7.0, max=7.0)
        passed = gate * torch.sigmoid(1.702 * gate)
        return torch.addcmul(passed, passed, up)

    forward, backward = 0.0, 0.0
    for run in (gated, lambda: biased(second, biases[1])):
        out, more = moved(run)
        seed = torch.ones_like(out)
        forward += more
        backward += moved(lambda out=out, seed=seed: out.backward(seed))[1]

    assert (forward - FUSED_ACTIVATION, backward - FUSED_ACTIVATION) == EXPERT_BIAS_BYTES[1]
