"""Time the operations that the step-time equations name, on this process's device and beside the other ranks.

Torch is imported when a measurement runs, and not when this module is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from carbon_plugin.probe import counts, layer
from carbon_plugin.probe.result import GemmRate, Measurements
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.training import Precision

if TYPE_CHECKING:
    import torch

BATCHES = 12
"""The number of timed batches that a measurement aims at. Its result is their median."""
SEQUENCE = 256
"""The tokens per sequence in the elementwise chain. Its bytes are counted per token, so that the length does not
matter.
"""
TINY_SEQUENCE = 8
GRAPH_KERNELS = 200


@dataclass(frozen=True, slots=True)
class Bench:
    """Times work on one device. `wait` returns when the device is idle, `meet` when all ranks have arrived.

    `running_shares` collects, for each measurement, the share of its time in which this thread had a core.
    """

    device: torch.device
    wait: Callable[[], None]
    meet: Callable[[], None]
    running_shares: list[float] = field(default_factory=list)

    def seconds(self, work: layer.ProbeWork, budget_s: float) -> float:
        """Return the median seconds of one call, over at least three batches of calls that fill about `budget_s`."""
        work()
        self.meet()
        calls = max(1, int(budget_s / BATCHES / max(self._batch(work, 1), 1e-7)))
        start, ran = time.perf_counter(), time.thread_time()
        batches = [self._batch(work, calls) for _ in range(3)]
        while time.perf_counter() < start + budget_s:
            batches.append(self._batch(work, calls))
        self.running_shares.append((time.thread_time() - ran) / (time.perf_counter() - start))
        return median(batches)

    def _batch(self, work: layer.ProbeWork, calls: int) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        self.wait()
        return (time.perf_counter() - start) / calls


@dataclass(frozen=True, slots=True)
class Sizes:
    """Holds the sizes with which a kind of device is measured: large enough for its steady range, small enough for
    seconds.

    `gemms` are (dtype, tokens, widths). `triad_elements` of fp32 are far larger than any cache. `model` has a layer
    whose activations, for `sequences` of 256 tokens, have the size of a typical micro-batch. `tiny` has a layer whose
    time is all fixed cost. `attention_tokens` are split into sequences of each of `attention_lengths`.
    """

    gemms: tuple[tuple[str, int, tuple[int, ...]], ...]
    triad_elements: int
    model: TransformerModel
    tiny: TransformerModel
    sequences: int
    attention_lengths: tuple[int, ...]
    attention_tokens: int


def _one_layer(hidden: int, heads: int, ffn: int) -> TransformerModel:
    return TransformerModel(
        name="probe", layers=1, hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads, ffn=ffn, vocab=256
    )


CPU_SIZES = Sizes(
    gemms=(("fp32", 1024, (256, 384, 512, 1024)), ("bf16", 512, (256, 512))),
    triad_elements=1 << 24,
    model=_one_layer(384, 6, 1024),
    tiny=_one_layer(32, 2, 80),
    sequences=8,
    attention_lengths=(256, 512),
    attention_tokens=2048,
)
GPU_SIZES = Sizes(
    gemms=(
        *((dtype, 8192, (2048, 4096, 8192)) for dtype in ("bf16", "fp16", "tf32", "fp8")),
        ("fp32", 4096, (2048, 4096)),
    ),
    triad_elements=1 << 27,
    model=_one_layer(4096, 32, 11008),
    tiny=_one_layer(64, 2, 176),
    sequences=16,
    attention_lengths=(2048, 4096),
    attention_tokens=16384,
)


def measure_device(bench: Bench, seconds: float) -> Measurements:
    """Return all rates of one device, measured in about `seconds`."""
    gpu = bench.device.type == "cuda"
    sizes = GPU_SIZES if gpu else CPU_SIZES
    notes: list[str] = []
    gemms = _gemm_rates(bench, sizes, 0.5 * seconds, notes)
    memory = _memory_rate(bench, sizes, 0.1 * seconds)
    elementwise = _elementwise_rate(bench, sizes, 0.15 * seconds)
    attention = _attention_rates(bench, sizes, 0.15 * seconds, notes)
    fixed = bench.seconds(layer.whole_layer(bench.device, sizes.tiny, TINY_SEQUENCE), 0.08 * seconds)
    if gpu:
        kernel_time, host_op_time = _kernel_time(bench, 0.02 * seconds), fixed / counts.layer_host_operations()
    else:
        # Host and device are the same cores, and kernels run synchronously. The whole fixed cost of an operation,
        # including its Python, dispatch and autograd, therefore counts as the kernel's, and nothing is left for the
        # host.
        kernel_time, host_op_time = fixed / counts.layer_kernels(sizes.tiny), 0.0
    return Measurements(
        gemms=tuple(gemms),
        memory_bytes_per_s=memory,
        elementwise_bytes_per_s=elementwise,
        attention_flops=attention,
        kernel_time_s=kernel_time,
        host_op_time_s=host_op_time,
        running_share=None if gpu else median(bench.running_shares),
        notes=tuple(notes),
    )


def _gemm_rates(bench: Bench, sizes: Sizes, budget_s: float, notes: list[str]) -> list[GemmRate]:
    import torch

    each_s = budget_s / sum(len(widths) for _, _, widths in sizes.gemms)
    rates: list[GemmRate] = []
    for dtype, tokens, widths in sizes.gemms:
        reason = _unsupported(bench.device, dtype)
        if reason:
            notes.append(f"{dtype} products not measured: {reason}")
            continue
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        for width in widths:
            if dtype == "fp8":
                work, products = layer.fp8_product(bench.device, tokens, width), 1
            else:
                work, products = layer.linear_products(bench.device, _torch_dtype(dtype), tokens, width), 3
            rate = products * 2 * tokens * width**2 / bench.seconds(work, each_s)
            rates.append(GemmRate(dtype=dtype, tokens=tokens, width=width, flops_per_s=rate))
    return rates


def _unsupported(device: torch.device, dtype: str) -> str | None:
    """Return why this device has no units for a dtype, or None if it has them."""
    import torch

    if device.type == "cpu":
        return None
    if torch.version.hip is not None:
        return "measured on NVIDIA devices only" if dtype in ("tf32", "fp8") else None
    capability = torch.cuda.get_device_capability(device)
    needed = {"bf16": (8, 0), "tf32": (8, 0), "fp8": (8, 9), "fp16": (7, 0)}.get(dtype, (0, 0))
    if capability >= needed:
        return None
    return f"needs compute capability {needed[0]}.{needed[1]}, this device has {capability[0]}.{capability[1]}"


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)


def _training_precision(device: torch.device) -> Precision:
    """Return the precision that training would use here: fp32 on a CPU, 16 bit on a GPU."""
    if device.type == "cpu":
        return "fp32"
    return "fp16" if _unsupported(device, "bf16") else "bf16"


def _memory_rate(bench: Bench, sizes: Sizes, budget_s: float) -> float:
    """Return the bytes/s of c = a + b over arrays beyond the caches, of which two are read and one is written."""
    import torch

    a, b, c = (torch.ones(sizes.triad_elements, device=bench.device) for _ in range(3))
    return 3 * 4 * sizes.triad_elements / bench.seconds(lambda: torch.add(a, b, out=c), budget_s)


def _elementwise_rate(bench: Bench, sizes: Sizes, budget_s: float) -> float:
    precision = _training_precision(bench.device)
    case = (sizes.model, sizes.sequences, SEQUENCE)
    chain = layer.elementwise_chain(bench.device, _torch_dtype(precision), *case)
    return counts.elementwise_bytes(*case, precision) / bench.seconds(chain, budget_s)


def _attention_rates(bench: Bench, sizes: Sizes, budget_s: float, notes: list[str]) -> dict[str, float]:
    """Return the causal-counted FLOP/s by kernel class, forward and backward together, as the median over lengths."""
    precision = _training_precision(bench.device)
    kernels = _attention_kernels(bench.device)
    each_s = budget_s / len(kernels) / len(sizes.attention_lengths)
    rates: dict[str, float] = {}
    for name, only in kernels.items():
        found = []
        for length in sizes.attention_lengths:
            case = (sizes.model, max(1, sizes.attention_tokens // length), length)
            core = layer.attention_core(bench.device, _torch_dtype(precision), *case)
            try:
                with only():
                    found.append(counts.attention_flops(*case, precision) / bench.seconds(core, each_s))
            except RuntimeError as error:
                notes.append(f"attention kernel {name} not measured: {str(error).strip().splitlines()[0]}")
                break
        if found:
            rates[name] = median(found)
    return rates


def _attention_kernels(device: torch.device) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Return the kernel classes of `spec.stack` that torch offers here, each with the context that selects it alone."""
    if device.type == "cpu":
        return {"flash": nullcontext}
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if _unsupported(device, "bf16"):
        return {"flash": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)}
    return {
        "flash2": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        "cudnn": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    }


def _kernel_time(bench: Bench, budget_s: float) -> float:
    """Return the device seconds of a minimal kernel on a GPU. A replayed graph of many kernels avoids all launches."""
    import torch

    x = torch.zeros(1, device=bench.device)
    x.add_(1)
    bench.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_KERNELS):
            x.add_(1)
    return bench.seconds(graph.replay, budget_s) / GRAPH_KERNELS
