"""FLOPs of operations that PyTorch's counter passes over or counts too high, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from carbon_plugin.detect.shape.counting import Counts, count_forward

UNTIMED = float("inf")


class Runs(nn.Module):
    """A module that runs an operation on its weights, of these shapes, beside its input."""

    def __init__(self, operation: Callable[..., torch.Tensor], *shapes: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.operation = operation
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape, dtype=dtype)) for shape in shapes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.operation(batch, *self.weights)


def counted(module: nn.Module, *sizes: int, dtype: torch.dtype = torch.float32) -> Counts:
    batch = torch.empty(sizes, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)
    return count_forward(module, lambda copy: copy(batch), UNTIMED)


@pytest.mark.parametrize(
    ("operation", "sizes", "shapes", "by_hand"),
    [
        (torch.mv, (8, 16), [(16,)], 2 * 8 * 16),
        (torch.matmul, (4, 8, 16), [(16,)], 2 * 4 * 8 * 16),
        (torch.dot, (16,), [(16,)], 2 * 16),
        (lambda x, a, v: torch.addmv(a, x, v), (8, 16), [(8,), (16,)], 2 * 8 * 16),
        (lambda x, a, b: torch.addbmm(a, x, b), (4, 8, 16), [(8, 5), (4, 16, 5)], 2 * 4 * 8 * 16 * 5),
        (lambda x, w: nn.functional.bilinear(x, x, w), (4, 16), [(8, 16, 16)], 2 * 4 * 8 * 16 * 16),
        (lambda x, w: nn.functional.bilinear(x[:, :3], x, w), (4, 16), [(8, 3, 16)], 2 * 4 * 8 * 3 * 16),
        (torch.cdist, (3, 40, 16), [(3, 50, 16)], 2 * 3 * 40 * 50 * 16),
        (lambda x, w: torch.einsum("bhi,hij->bhj", x, w), (2, 4, 16), [(4, 16, 32)], 2 * 2 * 4 * 16 * 32),
    ],
)
def test_products_that_are_no_matrix_products_are_counted(operation, sizes, shapes, by_hand) -> None:
    assert counted(Runs(operation, *shapes, dtype=torch.float32), *sizes).flops == by_hand


def test_a_complex_product_has_four_times_the_work_of_a_real_one() -> None:
    by_dtype = {
        dtype: counted(Runs(torch.matmul, (16, 5), dtype=dtype), 8, 16, dtype=dtype).flops
        for dtype in (torch.float32, torch.complex64)
    }

    assert by_dtype == {torch.float32: 2 * 8 * 16 * 5, torch.complex64: 8 * 8 * 16 * 5}


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this release of PyTorch has no grouped products")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_experts_in_one_grouped_product_are_counted_with_their_gradients(dtype: torch.dtype) -> None:
    def experts(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ends = torch.empty(weight.shape[0], dtype=torch.int32, device="meta")
        return torch._grouped_mm(tokens, weight, offs=ends)

    found = counted(Runs(experts, (4, 16, 32), dtype=dtype), 64, 16, dtype=dtype)

    assert found.flops == 2 * 64 * 16 * 32  # every token meets one expert
    assert found.backward_flops == 2 * found.flops
    assert found.saved_bytes is not None


@pytest.mark.parametrize("groups", [1, 8, 32])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_in_groups_have_as_much_work_in_each_gradient_as_forward(kind, groups) -> None:
    class Tail(nn.Module):
        """A frozen layer that dominates, so that no bound on the whole hides what its convolution adds."""

        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(8, 4096).requires_grad_(False)
            self.convolution = kind(32, 64, 3, padding=1, groups=groups)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                shift = self.frozen(batch).mean()
            return self.convolution(batch + shift)

    found = counted(Tail(), 2, 32, 8, 8)

    by_hand = 2 * 2 * 8 * 8 * 64 * 32 * 9 // groups
    assert found.flops == by_hand + 2 * 2 * 32 * 8 * 8 * 4096
    assert found.backward_flops == 2 * by_hand


@torch.library.custom_op("carbon_plugin_tests::twice", mutates_args=())
def twice(batch: torch.Tensor) -> torch.Tensor:
    """Return what no formula is known for."""
    return batch * 2


@twice.register_fake
def _(batch: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(batch)


def test_an_operation_of_another_library_is_named_where_nobody_states_its_work() -> None:
    found = counted(Runs(lambda x, w: twice(x.detach() @ w), (16, 5), dtype=torch.float32), 8, 16)

    assert found.flops == 2 * 8 * 16 * 5
    assert found.uncounted == ("carbon_plugin_tests.twice",)
    assert found.reservation.startswith(", without the FLOPs of carbon_plugin_tests.twice, which are unknown")
    assert counted(Runs(torch.matmul, (16, 5), dtype=torch.float32), 8, 16).uncounted == ()
