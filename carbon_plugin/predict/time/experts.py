"""Compute the seconds that mixtures of experts take beside their products and their all-to-all.

Tokens are sorted by expert and added up again, the activation lies between two products, the busiest rank sets the
pace, and in plain software a loop on the host runs one expert after the other.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, maximum, minimum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.frozen import ADAPTED_MATRICES
from carbon_plugin.predict.time.host import HOST_OPS_ADAPTERS, hook_slots
from carbon_plugin.predict.time.operators import Cost, host_op_time
from carbon_plugin.predict.time.slowest import expected_maximum

EXPERT_BIAS_BYTES = ((28, 40), (48, 124), (4, 6))
"""Bytes per routed element in 16 bit that GPT-OSS's expert biases and clamped gate move, forward and backward, beside a
fused activation: first in Megatron, then in single PyTorch operations, then in kernels that a compiler writes.

In Megatron they are those of bias times probability, sum and concatenation in fp32, the cast, and the gradients
(`TEGroupedMLP._apply_bias`). Single operations write a row of biases for each routed row, add it, clamp both halves of
the gate and multiply (`GptOssGroupedExperts` of torchtitan); a test counts them. A compiler joins the first sum to the
gate, so that the second one (4) and the gradients that are added up to those of the biases (6) remain. What XLA makes
of them on a TPU is not known, where the bytes of Megatron stay.
"""
SAME_INDEX_S = 3.3e-6
"""Seconds of PyTorch's backward pass of indexing for a further row of the same index.

One warp for each 128 columns of an index adds up its rows one after the other, each behind three reads of memory
(`indexing_backward_kernel` of ATen/native/cuda/Indexing.cu). The value is from stock TRL's rows of GPT-OSS on B300: 180
to 32 ms a layer beyond what is predicted without it, for 32,768 to 4,096 rows of the fullest expert and two biases.
Older devices took 0.15 and 0.59 us with one column (pull requests 99441 and 100505 of pytorch/pytorch).
"""
KINDS_OF_ALIKE_TOKENS = 2
"""Kinds of tokens in text that is one word again and again: the word and the padding."""
PERMUTATION_BYTES = ((8, 24), (8, 28))
"""Bytes per routed element in 16 bit, forward and backward, that sorting rows by expert and adding them up moves: first
by fused kernels, then by single PyTorch operations.

The single operations are, forward, a gather (4), the product with the probability, which becomes fp32 (6), the sum into
fp32 (12) and its cast (2), and backward their gradients (`permute` and `unpermute` of Megatron-core's `moe_utils`).
"""
CHUNK_SORT_BYTES = 8
"""Bytes per routed element in 16 bit and direction by which single operations sort by expert what a rank with several
experts got from the others, and sort it back (`permute` and `unpermute` around torchtitan's grouped products). Fused
kernels do so too; with these bytes the rows of Megatron get worse, so that they are counted with single operations
alone."""
ONE_HOT_BYTES = ((18, 58), (20, 24))
"""Further bytes per place of a one-hot matrix over a micro-batch, forward and backward: first where a token takes one
expert, then where it takes several.

DeepSpeed builds such a matrix in fp32 by single operations, casts it twice and copies it, and its gradient is widened
again and multiplied (`top1gating` and `topkgating` of its moe/sharded_moe.py). A test counts them.
"""
EXPERT_TILE_ROWS = 128
"""Rows of one tile of a grouped product. Two experts never share a tile (CUTLASS's grouped kernels for 16 bit)."""
HOST_OPS_LOOPED = (20, 30)
"""Slots, forward and backward, of one expert that runs by itself.

They are the search for its tokens, for which the host waits, the gather of these tokens, three products and an
activation, the weights and the sum (`Qwen3MoeSparseMoeBlock` of transformers 4).
"""
HOST_OPS_SORTED = (6, 16)
"""Slots, forward and backward, of one expert of a loop over rows that are sorted by expert.

Each of two products takes a slice of the weight of all experts, transposes it and multiplies. Backward come two
products with their transposes, and the gradient of the slice: zeros, a copy and a sum (`GraniteMoeParallelExperts` of
transformers 4).
"""
SLICE_GRADIENT_PASSES = 4
"""Passes over the weights of all experts for the gradient of the slice of one: autograd fills a tensor with zeros, and
reads, adds and writes their sum (`select_backward` of PyTorch)."""
LOOP_SPREAD = 0.3
"""Standard deviation over ranks of the host's time for one expert of a loop, divided by its mean. It is a round number
that was chosen in sight of the one published loop over 16 ranks."""
HOOKED_MODULES, LOOPED_MODULES = 9, 3
"""Modules of a layer that share the slots of `shard_host_ops`, and modules of one expert of a loop."""
MODULES_OF_ADAPTER = 2
"""Modules that a low-rank adapter adds to the one of its matrix (`lora_A` and `lora_B` of PEFT)."""


def fullest_rank(shape: Shape, layout: Layout, rates: Rates) -> Values:
    """Return the load of the fullest expert-parallel rank divided by the mean load.

    It is what the model states. Where it states nothing and tokens are routed as the router wants, it is the expected
    maximum over the ranks, whose loads differ by `rates.routing_spread`. Experts with a capacity drop what exceeds it,
    and where they are padded too each computes its whole capacity (GShard, arXiv 2006.16668 section 2.2).
    """
    load: Values = shape.imbalance
    if any_of(rates.routing_spread > 0):
        load = maximum(load, 1 + rates.routing_spread * expected_maximum(layout.ep))
    if any_of(rates.capacity_factor > 0):
        most = where(rates.static_dispatch > 0, rates.capacity_factor, minimum(load, rates.capacity_factor))
        load = where(rates.capacity_factor > 0, most, load)
    return load


def one_hot_products(tokens: Values, shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> tuple[Cost, Cost]:
    """Return the seconds of the product with a one-hot matrix that sends `tokens` to their experts, and of that which
    sends them back.

    Such a matrix has a row for each token of a sequence and a column for each place of all experts, which are top-k
    times the capacity factor as many as there are tokens. Either product takes 2 s k c h FLOPs a token: they grow with
    the length of the sequence, or with the tokens of the micro-batch where one matrix spans it (`MOELayer.forward` of
    DeepSpeed's moe/sharded_moe.py). The way there needs the gradient of the tokens alone, and the way back also that of
    the weights (GShard, arXiv 2006.16668 algorithm 2; `dense_matmul` of MaxText's layers/moe.py). Each product writes
    and reads its matrix once forward and reads it once backward. Where one matrix spans a micro-batch, single
    operations build it and its gradient besides (`ONE_HOT_BYTES`).
    """
    flag = rates.one_hot_dispatch > 0
    span = work.seq_len / layout.cp * where(rates.one_hot_batch > 0, layout.micro_batch_size, 1.0)
    places = flag * tokens * span * shape.top_k * maximum(rates.capacity_factor, 1)
    one = 2 * places * shape.expert_hidden / rates.wide_gemm_flops
    moved = work.activation_bytes * places / rates.memory
    built = (rates.one_hot_batch > 0) * places / rates.streaming
    more = [built * where(shape.top_k > 1, several, single) for single, several in ONE_HOT_BYTES]
    return Cost(one + 2 * moved + more[0], one + moved), Cost(one + 2 * moved, 2 * one + moved + more[1])


def room_for_rows(layout: Layout, rates: Rates) -> Values:
    """Return how many times its routed rows the buffer of a rank holds after the exchange.

    Where nobody drops tokens and no host reads counts, shapes are fixed for the worst case, in which all rows of all
    expert-parallel ranks come to one of them (`ragged_buffer_factor` of MaxText, whose default is -1). Grouped products
    and fused kernels skip what is empty, and single operations over the buffer do not.
    """
    counted = (rates.counts_on_host > 0) | (rates.counts_to_exchange > 0)
    bounded = (rates.capacity_factor > 0) | (rates.static_dispatch > 0) | (rates.one_hot_dispatch > 0)
    return where(counted | bounded | (rates.plain_dispatch == 0), 1.0, layout.ep)


def permutation(rows: Values, tokens: Values, shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds to sort `rows` routed rows by expert and to add them up again, with the router's scores.

    Single operations move the bytes of each row several times, and some devices need a while for each row beside them.
    """
    scores = 16 * tokens * shape.experts
    again = CHUNK_SORT_BYTES * ((layout.ep > 1) & (shape.experts > layout.ep) & (rates.deduplicated == 0))
    again = again * room_for_rows(layout, rates)
    fused, plain = (
        [(size + more) * rows * shape.expert_hidden for size in sizes]
        for sizes, more in zip(zip(*PERMUTATION_BYTES, strict=True), (0.0, again), strict=True)
    )
    sorts = rates.one_hot_dispatch == 0
    forward, backward = (
        sorts * (where(rates.plain_dispatch > 0, apart, one) + scores) * work.activation_bytes / 2 / rates.memory
        + sorts * (rates.plain_dispatch > 0) * rates.routed_row_time * rows
        for one, apart in zip(fused, plain, strict=True)
    )
    return Cost(forward, backward)


def between_products(rows: Values, shape: Shape, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds of activation and biases of `rows` routed rows.

    Where they are fused into the products they cost nothing, and they save the casts of the values between the
    products, which `linear` counts. Software without kernels of its own for experts has single operations, unless they
    are compiled. Biases by index are single operations whatever else is fused.
    """
    inner, wide = rows * shape.expert_ffn, rows * shape.expert_ffn * (1 + shape.gated)
    activation = 3 * wide * work.activation_bytes / 2 / rates.memory
    single = (rates.fused == 0) | (rates.indexed_biases > 0)
    own = (rates.plain_dispatch == 0) | (rates.laid_out > 0)
    forward, backward = (
        where(own, megatron, where(single, apart, compiled))
        * (shape.expert_bias * rows * shape.expert_hidden / rates.memory)
        for megatron, apart, compiled in zip(*EXPERT_BIAS_BYTES, strict=True)
    )
    saved = rates.cast_bytes / rates.memory
    fused = rates.fused_experts > 0
    return Cost(where(fused, -saved * inner, activation + forward), where(fused, -saved * wide, activation + backward))


def indexed_biases(rows: Values, shape: Shape, layout: Layout, rates: Rates) -> Values:
    """Return the seconds of the backward pass in which the gradients of both biases of the fullest expert are added up
    row by row, for `rows` routed rows a rank.

    The load of the fullest expert is that of the fullest of so many ranks. Tokens that are alike all go to the same
    experts.
    """
    hit = minimum(shape.experts, KINDS_OF_ALIKE_TOKENS * shape.top_k)
    natural = (1 + rates.routing_spread * expected_maximum(shape.experts)) / maximum(shape.experts, 1)
    fullest = rows * layout.ep * where(rates.one_kind_of_token > 0, 1 / maximum(hit, 1), natural)
    trained = shape.expert_bias * (shape.trainable >= 1)
    return (rates.indexed_biases > 0) * trained * 2 * fullest * SAME_INDEX_S


def sorted_loop(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> tuple[Cost, Cost]:
    """Return the seconds of the device and of the host for a loop over experts whose rows were sorted before.

    Nothing waits inside this loop, and all experts are gathered with their layer. The device has more to do only where
    the weights of an expert are a slice of one tensor, whose gradient is then as large as the tensor.
    """
    local = maximum(shape.experts / layout.ep, 1)
    weights = local * (2 + shape.gated) * shape.expert_hidden * shape.expert_ffn / layout.expert_tp
    slices = SLICE_GRADIENT_PASSES * work.parameter_bytes * local * weights * shape.trainable / rates.streaming
    forward, backward = (local * host_op_time(layout, rates) * slots for slots in HOST_OPS_SORTED)
    flag = rates.sorted_loop > 0
    sliced = where(flag & (rates.sliced_weights > 0), slices, 0.0)
    return Cost(0.0, sliced), Cost(where(flag, forward, 0.0), where(flag, backward, 0.0))


def expert_loop(shape: Shape, layout: Layout, rates: Rates) -> Cost:
    """Return the seconds of a loop over the experts that a rank holds.

    Its host slots overlap with nothing, because the host waits for the tokens of each expert. Where hooks gather the
    parameters of each module by itself (DeepSpeed's ZeRO-3; FSDP gathers a layer), each module of an expert adds the
    latency of a gather forward, and of a gather and a scatter backward. These let all ranks go on with the slowest one,
    because the hosts take different times for the same expert. Adapters on the matrices of an expert have operations
    and modules of their own.
    """
    local = maximum(shape.experts / layout.ep, 1)
    modules = LOOPED_MODULES * (1 + MODULES_OF_ADAPTER * shape.adapted_ffn)
    hooks = hook_slots(layout, rates) / HOOKED_MODULES * modules
    share = LOOPED_MODULES / ADAPTED_MATRICES * shape.adapted_ffn
    forward, backward = (
        local * host_op_time(layout, rates) * (slots + adapters * share + hooks)
        for slots, adapters in zip(HOST_OPS_LOOPED, HOST_OPS_ADAPTERS, strict=True)
    )
    ranks = layout.dp_shard * layout.cp
    latency = local * modules * network.group_of(ranks, layout.tp, rates).gather_time(0.0)
    slowest = 1 + LOOP_SPREAD * expected_maximum(ranks)
    latency = where(rates.shard_host_ops > 0, latency, 0.0)
    sharded = layout.zero_stage >= 3
    return Cost(
        where(sharded, forward * slowest + latency, forward), where(sharded, backward * slowest + 2 * latency, backward)
    )
