"""What autograd keeps of a forward pass, counted without data, against what it keeps of a real one."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from carbon_plugin.detect.shape.counting import count_forward


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def attention(dropout: float = 0.0) -> nn.Module:
    """Return a layer that runs the same operations on a CPU as on a GPU where it drops nothing."""
    return nn.TransformerEncoderLayer(64, 4, 256, dropout, batch_first=True, activation="gelu")


def kept_of(module: nn.Module, batch: torch.Tensor) -> int:
    """Return the bytes of the storages that a real forward pass keeps, without those of the parameters."""
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(batch)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    return sum(size for place, size in kept.items() if place not in own)


ORDERED = 2 * 24 * 64 * 4
"""Bytes of the copy that puts the output of attention on a GPU in the order of its input; a CPU's has it already."""


@pytest.mark.parametrize(
    ("build", "sizes", "more"), [(convolutions, (2, 3, 32, 32), 0), (attention, (2, 24, 64), ORDERED)]
)
def test_the_activations_of_a_count_are_what_autograd_keeps(build, sizes, more) -> None:
    module = build()

    found = count_forward(module, lambda copy: copy(torch.empty(sizes, device="meta")), time.thread_time() + 60)

    assert found.saved_bytes == pytest.approx(kept_of(module, torch.randn(sizes)) + more, rel=0.05)
    assert 0 < found.saved_bytes < found.activation_bytes + 4 * torch.Size(sizes).numel()


def test_a_dropout_keeps_a_mask_of_bytes_and_no_scores_as_on_a_gpu() -> None:
    def kept(dropout: float) -> float:
        found = count_forward(
            attention(dropout), lambda copy: copy(torch.empty(2, 24, 64, device="meta")), time.thread_time() + 60
        )
        assert found.saved_bytes is not None
        return found.saved_bytes

    masks = 2 * 24 * (64 + 256 + 64)
    dropped_input = 2 * 24 * 256 * 4  # of the second product, which was kept as the result of the activation before
    assert kept(0.1) - kept(0.0) in (masks, masks + dropped_input)


def test_counting_what_is_kept_leaves_nothing_on_the_module() -> None:
    module = convolutions()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.random.get_rng_state()

    count_forward(module, lambda copy: copy(torch.empty(2, 3, 32, 32, device="meta")), time.thread_time() + 60)

    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks or part._backward_hooks for part in module.modules())


def test_a_module_that_needs_no_gradient_keeps_nothing() -> None:
    module = convolutions().requires_grad_(False)

    found = count_forward(module, lambda copy: copy(torch.empty(2, 3, 32, 32, device="meta")), time.thread_time() + 60)

    assert found.saved_bytes == 0


class Distilled(nn.Module):
    """A student that learns from a frozen teacher, which is run without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = nn.Linear(64, 64), nn.Linear(64, 64)
        self.teacher.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.teacher(x)
        return self.student(x) - wanted


def frozen_first() -> nn.Module:
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    module[:2].requires_grad_(False)
    return module


def frozen_last() -> nn.Module:
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    module[2].requires_grad_(False)
    return module


class Checkpointed(nn.Module):
    """Three layers of which the last two run again in the backward pass, as far as it needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.rest, self.first(x), use_reentrant=False)


ONE = 2 * 8 * 64 * 64
"""The FLOPs of eight rows through one layer, and of either half of its backward pass."""


@pytest.mark.parametrize(
    ("build", "forward", "backward"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), 2, 3),  # the batch needs no gradient
        (Distilled, 2, 1),
        (frozen_first, 3, 1),
        (frozen_last, 3, 4),
        (Checkpointed, 3, 6),  # 5 and a layer that runs again, which may fill twice the forward pass and no more
        (lambda: nn.Linear(64, 64).requires_grad_(False), 1, 0),
    ],
    ids=["all trained", "a teacher", "first layers frozen", "last layer frozen", "recomputed", "nothing trained"],
)
def test_the_work_of_a_backward_pass_is_that_of_the_parts_that_gradients_reach(build, forward, backward) -> None:
    module = build()

    found = count_forward(module, lambda copy: copy(torch.empty(8, 64, device="meta")), time.thread_time() + 60)

    assert found.flops == forward * ONE
    assert found.backward_flops == backward * ONE
    assert all(parameter.grad is None for parameter in module.parameters())


def test_gradients_come_from_the_loss_where_a_model_returns_one() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.probe = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.body(x).sum(), "probed": self.probe(x)}

    found = count_forward(WithLoss(), lambda copy: copy(torch.empty(8, 64, device="meta")), time.thread_time() + 60)

    assert found.backward_flops == ONE
