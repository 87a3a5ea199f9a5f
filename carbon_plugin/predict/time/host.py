"""Compute the seconds that the host needs to issue the operations of a layer, and those for which it waits."""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, maximum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import operators
from carbon_plugin.predict.time.frozen import adapted_share
from carbon_plugin.predict.time.operators import Cost

HOST_OPS_FORWARD = 22
HOST_OPS_BACKWARD = 55
HOST_OPS_EAGER = (17, 33)
HOST_OPS_WRITTEN_OUT = (51, 95)
"""Slots of a layer of plain PyTorch, forward and backward: first of one with `nn.LayerNorm` and GELU, then of one whose
norms, rotary positions and gate are written out. They are the kernels of a GPT-2 and a Llama layer of transformers and
a third of their views, which launch nothing (`tests/predict/time/test_written_out.py` counts both); the third is a
round number."""
HOST_OPS_FROZEN = (15, 22)
"""Slots fewer in the backward pass of such a layer whose weights are frozen, of GPT-2 and of Llama: those of the
gradients of weights, norms and biases, and a third of their views (the same test)."""
HOST_OPS_GELU = (7, 10)
"""Additional slots, forward and backward, where a GELU runs as separate operations (the same test)."""
HOST_OPS_SOFTMAX = (6, 15)
"""Additional slots, forward and backward, where the softmax runs as separate operations."""
HOST_OPS_ADAPTERS = (35, 50)
"""Additional slots, forward and backward, of a layer with low-rank adapters on its seven matrices, and fewer
in proportion to the matrices that have one. Each adapter takes a
dropout, two products, a scale and a sum."""
HOST_OPS_EXPERTS = (40, 60)
"""Additional slots of a sparse layer, forward and backward, for routing and permutation."""
HOST_OPS_GROUPED = (1, 2)
"""Additional slots, forward and backward, of each expert of a rank whose grouped products take their counts from the
host.

Transformer Engine launches one cuBLAS product after the other for them, two forward and four backward, each of half a
slot ("Per-expert GEMMs" of its documentation of grouped linear layers; `multi_stream_cublas_gemm`). A layer of AWS's
Qwen3 30B at micro-batch 1 takes 0.3 ms more with eight experts a rank than with four (RESULTS.md @209e394 of
awslabs/awsome-distributed-ai), which is 3.5 slots each.
"""
HOST_OPS_WAIT = 200
"""Slots for which the device waits in the forward pass of a sparse layer, and in its repetition.

Dropless dispatch sizes its buffers by token counts that the host must read back, which drains the queue (Megatron-LM
pull request 2368 explains it). Rows of one model at micro-batch 1, 4 and 8 (Megatron-Bridge, Qwen3 30B) differ by such
a constant. The constant is absent where the iteration is one CUDA graph. Autograd keeps the counts that an exchange was
given (`all_to_all_single_autograd` of PyTorch, `_AllToAll` of Megatron-core), so that the backward pass reads none.
"""
HOST_SCOPED_GRAPHS = 0.25
"""Share of a sparse layer's additional slots and wait that remains where graphs hold attention and routing.

The exchange is still issued operation by operation, as are the products (`HOST_OPS_GROUPED`), and the queue fills again
from a graph. The value is a round number that was chosen in sight of the rows of Megatron-Bridge, its pull requests and
two guides, whose errors it lowers alike; each of them is predicted without its own rows.
"""
HOST_FUSED = 0.8
"""Share of the slots of a layer that remains where a compiler fuses chains of operations, as the study has it that this
predictor began with."""


def host_floor(shape: Shape, layout: Layout, work: StepWork, rates: Rates, *, sparse: bool) -> Cost:
    """Return the seconds that the host needs to issue a layer: the number of slots times the cost of one."""
    issued = [operations * shape.parts for operations in _operations(shape, work, rates)]
    tp, cp = layout.tp > 1, layout.cp > 1
    forward = issued[0] + 4 * tp + 8 * cp + (HOST_OPS_EXPERTS[0] if sparse else 0)
    backward = issued[1] + 6 * tp + 8 * cp + (HOST_OPS_EXPERTS[1] if sparse else 0)
    adapters = adapted_share(shape)
    hooked = hook_slots(layout, rates)
    forward = forward + hooked + HOST_OPS_ADAPTERS[0] * adapters
    backward = backward + hooked + HOST_OPS_ADAPTERS[1] * adapters
    separate = operators.separate_softmax(shape.heads, work.seq_len, layout, rates)
    forward = forward + HOST_OPS_SOFTMAX[0] * separate
    backward = backward + HOST_OPS_SOFTMAX[1] * separate
    if sparse:
        replayed = rates.scoped_graphs > 0
        launched = maximum(shape.experts / layout.ep, 1) * ((rates.counts_on_host > 0) & (rates.expert_loop == 0))
        forward = where(replayed, HOST_SCOPED_GRAPHS * HOST_OPS_EXPERTS[0], forward) + HOST_OPS_GROUPED[0] * launched
        backward = where(replayed, HOST_SCOPED_GRAPHS * HOST_OPS_EXPERTS[1], backward) + HOST_OPS_GROUPED[1] * launched
    each = operators.host_op_time(layout, rates)
    return Cost(each * forward, each * backward)


def hook_slots(layout: Layout, rates: Rates) -> Values:
    """Return the slots that hooks of parameter sharding add to a pass through a layer.

    Where nothing is shared out over several devices there are none. One device alone does not tell whether its software
    was asked to shard, and has them as its stack has.
    """
    devices = layout.dp_replicate * layout.dp_shard * layout.cp * layout.tp * layout.pp
    copies = (layout.zero_stage == 0) & (devices > 1)
    return where(copies, 0.0, rates.shard_host_ops)


def _operations(shape: Shape, work: StepWork, rates: Rates) -> tuple[Values, Values]:
    """Return the slots of a layer without any extras, forward and backward, by how its chains are written."""
    usual = where(rates.fused > 0, HOST_FUSED, 1.0)
    forward, backward = HOST_OPS_FORWARD * usual, HOST_OPS_BACKWARD * usual
    if not any_of(work.eager):
        return forward, backward
    apart = operators.is_written_out(shape, work)
    eager = [
        where(apart, written, plain + shape.written_gelu * more)
        for written, plain, more in zip(HOST_OPS_WRITTEN_OUT, HOST_OPS_EAGER, HOST_OPS_GELU, strict=True)
    ]
    spared = (1 - shape.trainable) * where(apart, HOST_OPS_FROZEN[1], HOST_OPS_FROZEN[0])
    return where(work.eager > 0, eager[0], forward), where(work.eager > 0, eager[1] - spared, backward)


def host_wait(layout: Layout, rates: Rates) -> Values:
    """Return the seconds that the device stands still in the forward pass of a sparse layer until the host, which read
    token counts from it, issues operations again.

    The host reads them where grouped products, or a loop over experts, take them from it, and where only an exchange
    between the ranks of expert parallelism does. The backward pass has the counts of the forward pass. Where every
    expert takes a fixed number of rows there is no count to read (`MoEAlltoAllTokenDispatcher` of Megatron-core has no
    point of synchronisation with `drop_and_pad`).
    """
    read = (rates.counts_on_host > 0) | ((rates.counts_to_exchange > 0) & ((layout.ep > 1) | (rates.expert_loop > 0)))
    share = where(rates.scoped_graphs > 0, HOST_SCOPED_GRAPHS, 1.0)
    waits = where(read & (rates.static_dispatch == 0), share, 0.0)
    return HOST_OPS_WAIT * operators.host_op_time(layout, rates) * waits
