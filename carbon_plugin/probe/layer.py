"""Build the operations of a transformer layer as eager PyTorch runs them, for timing. They are not a model to train.

Torch is imported when work is built, and not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from carbon_plugin.spec.models.model import TransformerModel

if TYPE_CHECKING:
    import torch

ProbeWork = Callable[[], object]


def linear_products(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> ProbeWork:
    """Return work that runs the three products of a linear layer, forward and both gradients.

    Its tensors have the memory layouts of training.
    """
    import torch

    x, grad = (torch.randn(tokens, width, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(width, width, device=device, dtype=dtype)

    def products() -> None:
        torch.mm(x, weight.t())
        torch.mm(grad, weight)
        torch.mm(grad.t(), x)

    return products


def fp8_product(device: torch.device, tokens: int, width: int) -> ProbeWork:
    """Return work that runs one fp8 product with one scale per tensor.

    Casts and transposes for the gradients are bytes, which are counted elsewhere.
    """
    import torch

    x, weight = (torch.randn(rows, width, device=device).to(torch.float8_e4m3fn) for rows in (tokens, width))
    scale = torch.ones((), device=device)
    return lambda: torch._scaled_mm(x, weight.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)


def elementwise_chain(
    device: torch.device, dtype: torch.dtype, model: TransformerModel, sequences: int, length: int
) -> ProbeWork:
    """Return work that runs forward and backward pass of a layer's norms, residuals, rotary positions and gated
    activation.

    The products between them are left out.
    """
    import torch

    def tensor(*dims: int) -> torch.Tensor:
        return torch.randn(sequences, length, *dims, device=device, dtype=dtype, requires_grad=True)

    x, attended, fed = (tensor(model.hidden) for _ in range(3))
    q, k = (tensor(model.heads, model.head_dim) for _ in range(2))
    gate, up = (tensor(model.ffn) for _ in range(2))
    norms = _ones(device, dtype, model.hidden), _ones(device, dtype, model.hidden)
    angles = _rotary_angles(device, dtype, length, model.head_dim)
    leaves = (x, attended, fed, q, k, gate, up, *norms)

    def forward() -> tuple[torch.Tensor, ...]:
        middle = x + attended
        positions = rotate(q, angles), rotate(k, angles)
        return norm(x, norms[0]), *positions, norm(middle, norms[1]), gated(gate, up), middle + fed

    gradients = [torch.ones_like(out) for out in forward()]
    return lambda: torch.autograd.grad(forward(), leaves, gradients)


def attention_core(
    device: torch.device, dtype: torch.dtype, model: TransformerModel, sequences: int, length: int
) -> ProbeWork:
    """Return work that runs forward and backward pass of causal attention."""
    import torch

    dims = (sequences, model.heads, length, model.head_dim)
    q, k, v = (torch.randn(dims, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    gradient = torch.ones(dims, device=device, dtype=dtype)

    def step() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, (q, k, v), gradient)

    return step


def whole_layer(device: torch.device, model: TransformerModel, length: int) -> ProbeWork:
    """Return work that runs forward and backward pass of one whole layer on one sequence, in fp32."""
    import torch

    linear, heads = torch.nn.functional.linear, (1, length, model.heads, model.head_dim)

    def weight(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=device, requires_grad=True)

    h, f = model.hidden, model.ffn
    qkv_weight, out_weight, up_weight, down_weight = weight(3 * h, h), weight(h, h), weight(2 * f, h), weight(h, f)
    norms = _ones(device, torch.float32, h), _ones(device, torch.float32, h)
    angles = _rotary_angles(device, torch.float32, length, model.head_dim)
    x = torch.randn(1, length, h, device=device, requires_grad=True)
    gradient = torch.ones_like(x)
    leaves = (x, qkv_weight, out_weight, up_weight, down_weight, *norms)

    def step() -> None:
        q, k, v = (part.view(heads) for part in linear(norm(x, norms[0]), qkv_weight).chunk(3, dim=-1))
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, angles), rotate(k, angles), v))
        core = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        middle = x + linear(core.transpose(1, 2).reshape(1, length, h), out_weight)
        gate, up = linear(norm(middle, norms[1]), up_weight).chunk(2, dim=-1)
        torch.autograd.grad(middle + linear(gated(gate, up), down_weight), leaves, gradient)

    return step


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the RMS norm over the last dimension."""
    import torch

    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)


def rotate(x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return a tensor of shape (..., sequence, heads, head_dim) with rotary positions, by halves.

    `angles` are cosine and sine.
    """
    import torch

    cosine, sine = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return the activation of SwiGLU without its products."""
    import torch

    return torch.nn.functional.silu(gate) * up


def _rotary_angles(
    device: torch.device, dtype: torch.dtype, length: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine, each of shape (sequence, 1, head_dim / 2)."""
    import torch

    half = head_dim // 2
    frequencies = torch.pow(10000.0, -torch.arange(half, device=device) / half)
    angle = torch.arange(length, device=device)[:, None, None] * frequencies
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _ones(device: torch.device, dtype: torch.dtype, width: int) -> torch.Tensor:
    import torch

    return torch.ones(width, device=device, dtype=dtype, requires_grad=True)
