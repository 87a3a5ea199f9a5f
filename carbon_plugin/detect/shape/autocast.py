"""Run a module on the meta device in the types that autocast would give its operations on a GPU.

PyTorch casts by the device of a tensor, and leaves those of the meta device as they are. The lists below are those of
its documentation ("Autocast Op Reference", CUDA) and of `ATen/autocast_mode.h`. What casts by itself, and operations in
no list, behave as they do there, because the tensors really have these types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LISTS = {
    "narrow": """
        conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d _convolution
        convolution prelu addmm addmv addr matmul __matmul__ __rmatmul__ einsum mm mv vecdot linear addbmm
        baddbmm bmm chain_matmul multi_dot scaled_dot_product_attention lstm gru rnn_tanh rnn_relu lstm_cell
        gru_cell rnn_tanh_cell rnn_relu_cell
    """,
    "wide": """
        __pow__ __rdiv__ __rpow__ __rtruediv__ acos asin cosh erfinv exp expm1 log log10 log2 log1p
        reciprocal rsqrt sinh tan pow softplus layer_norm native_layer_norm rms_norm group_norm norm
        vector_norm matrix_norm cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss
        cross_entropy hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss
        margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
        binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa
        upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa prod softmax softmin log_softmax
        cumprod cumsum sum
    """,
    "widest": """
        addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add
    """,
}
NARROW, WIDE, WIDEST = (frozenset(names.split()) for names in _LISTS.values())
"""Operations that run in 16 bit, in fp32, and in the widest type of their tensors."""


def narrow_copies(parameters: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return a 16-bit copy of each fp32 parameter by its id, as autocast makes one for a whole step."""
    import torch

    return {
        id(parameter): parameter.detach().to(torch.bfloat16).requires_grad_(parameter.requires_grad)
        for parameter in parameters
        if parameter.dtype == torch.float32
    }


def as_on_gpu() -> AbstractContextManager[Any]:
    """Return a context in which attention and dropout are the fused operations that PyTorch takes on GPUs."""
    return _casts(None)


@contextmanager
def as_autocast(copies: dict[int, torch.Tensor]) -> Iterator[None]:
    """Let operations take their tensors in the types that autocast gives them.

    `copies` are those of the parameters, from `narrow_copies`. Modules that ask whether autocast is on hear that it is.
    """
    import torch

    before = torch.is_autocast_enabled()
    torch.set_autocast_enabled(True)  # of this thread, and of no tensor on the meta device
    try:
        with _casts(copies):
            yield
    finally:
        torch.set_autocast_enabled(before)


def _casts(copies: dict[int, torch.Tensor] | None) -> AbstractContextManager[Any]:
    """Return a context in which operations are those of a GPU, and take the types of autocast where there are `copies`
    of the parameters.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves, tree_map

    def cast(value: Any, dtype: torch.dtype) -> Any:
        if not _eligible(value) or value.dtype == dtype:
            return value
        if dtype == torch.bfloat16 and copies is not None and id(value) in copies:
            return copies[id(value)]
        return value.to(dtype)

    def wanted(name: str, operands: Any) -> torch.dtype | None:
        if copies is None:
            return None
        if name in NARROW:
            return torch.bfloat16
        if name in WIDE:
            return torch.float32
        if name not in WIDEST:
            return None
        wide = any(_eligible(value) and value.dtype == torch.float32 for value in tree_leaves(operands))
        return torch.float32 if wide else None

    class _Autocast(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "").partition(".")[0].removeprefix("linalg_")
            dtype = wanted(name, (args, kwargs))
            if any(kwargs.get(stated) is not None for stated in ("dtype", "out")):
                dtype = None  # such calls are not eligible
            if dtype is not None:
                args, kwargs = tree_map(lambda value: cast(value, dtype), (args, kwargs))
            fused = _FUSED[name](*args, **kwargs) if name in _FUSED and not isinstance(func, FunctionType) else None
            if fused is not None:
                return fused
            if dtype is not None:
                return func(*args, **kwargs)
            inner = _reopened(func)
            if inner is None:
                return func(*args, **kwargs)
            with self:
                return inner(*args, **kwargs)

    return _Autocast()


def _fused_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Any:
    """Return what a fused kernel makes of an attention, or None where only single operations can.

    PyTorch takes such a kernel on GPUs, which neither writes nor keeps the scores, and single operations on the meta
    device. A mask is the caller's own, and changes no size.
    """
    import torch

    del attn_mask, dropout_p, options
    if query.dim() != 4 or key.shape[1] != query.shape[1] or value.shape[1] != query.shape[1]:
        return None
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, is_causal)[0]


def _fused_dropout(value: Any, share: float, train: bool) -> Any:
    """Return what the one kernel of a dropout on a GPU gives, where PyTorch has several operations on other devices."""
    import torch

    return torch.native_dropout(value, share, train)[0] if train and 0 < share < 1 else None


_FUSED: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": _fused_attention,
    "dropout": _fused_dropout,
}
"""Operations of PyTorch that are one kernel on a GPU and several operations on the meta device."""


def _eligible(value: Any) -> bool:
    """Return whether autocast may cast a value: it leaves fp64 and what has no fraction as they are."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64


def _reopened(func: Any) -> Callable[..., Any] | None:
    """Return a function of PyTorch that is written in Python so that a mode sees what it calls, else None.

    Such a function first asks whether a mode wants the whole call. The copy of it takes the answer to be no. Methods
    of tensors, and functions that leave the question to others, are left alone: what they call comes back under their
    own name.
    """
    asked = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    if not isinstance(func, FunctionType) or func.__module__ not in ("torch.functional", "torch.nn.functional"):
        return None
    if not set(asked) & set(func.__code__.co_names):
        return None
    unasked = func.__globals__ | dict.fromkeys(asked, lambda *operands: False)
    inner = FunctionType(func.__code__, unasked, func.__name__, func.__defaults__, func.__closure__)
    inner.__kwdefaults__ = func.__kwdefaults__
    return inner
