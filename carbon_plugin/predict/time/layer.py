"""Compute the seconds of one transformer layer for one micro-batch on one device, forward and backward, by term.

The terms add up: `matmul`, `attention`, `scan` (layers with a state), `elementwise`, `tp`, `cp`, `ep`, `host` (what the
host's issue rate adds where the device is faster than the host), `recompute` and `dp_shard` (exposed FSDP traffic).
"""

from __future__ import annotations

from dataclasses import dataclass

from carbon_plugin.predict.arrays import Values, any_of, maximum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.parameters import layer_parameters
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network, operators
from carbon_plugin.predict.time.experts import (
    EXPERT_TILE_ROWS,
    between_products,
    expert_loop,
    fullest_rank,
    indexed_biases,
    one_hot_products,
    permutation,
    room_for_rows,
    sorted_loop,
)
from carbon_plugin.predict.time.frozen import adapter_traffic, widening
from carbon_plugin.predict.time.host import host_floor, host_wait
from carbon_plugin.predict.time.indexer import indexer
from carbon_plugin.predict.time.operators import NO_COST, Cost, linear
from carbon_plugin.predict.time.overlap import exposed_experts, smooth_max
from carbon_plugin.predict.time.recompute import ForwardPass, recompute_time
from carbon_plugin.predict.time.scan import scan
from carbon_plugin.predict.time.sharding import fsdp_exposed


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Terms of one layer, or of several, in seconds, which add up to `total`. `forward` are those of the forward pass
    in all of them."""

    terms: dict[str, Values]
    forward: Values

    @property
    def total(self) -> Values:
        """Return the seconds of forward and backward pass with all terms."""
        return sum_of(self.terms.values())

    def __add__(self, other: LayerTime) -> LayerTime:
        names = self.terms | other.terms
        terms = {name: self.terms.get(name, 0.0) + other.terms.get(name, 0.0) for name in names}
        return LayerTime(terms, self.forward + other.forward)

    def __mul__(self, layers: Values) -> LayerTime:
        return LayerTime({name: layers * time for name, time in self.terms.items()}, layers * self.forward)


@dataclass(frozen=True, slots=True)
class LayerOnDevice:
    """One dense layer, or one mixture-of-experts layer (`sparse`), of a case, and the seconds that a device needs for
    each of its parts when it waits for nothing.

    `up` and `down` are the first and the second product of the feed-forward part, and `chain` are the elementwise
    operations. Nothing here depends on how the software runs the experts, one by one or all at once.
    """

    shape: Shape
    layout: Layout
    work: StepWork
    micro_batches: Values
    sparse: bool
    projections: Cost
    up: Cost
    down: Cost
    core: Cost
    chain: Cost
    scanned: Cost | None
    tp: Cost
    cp: Cost
    ep: Cost
    total: Cost

    @property
    def matmul(self) -> Cost:
        """Return the seconds of all matrix products."""
        return self.projections + self.up + self.down


def layer_on_device(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, micro_batches: Values, *, sparse: bool
) -> LayerOnDevice:
    """Return what the parts of one dense layer (`sparse=False`) or one mixture-of-experts layer cost a device."""
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    projections = attention_projections(shape, layout, work, tokens, micro_batches, rates)
    if sparse:
        up, down, exchange, width = _experts(shape, layout, work, tokens, micro_batches, rates)
    else:
        up, down = _mlp(shape.ffn, shape, layout, work, tokens, micro_batches, rates)
        exchange, width = NO_COST, shape.ffn
    core = operators.attention_core(shape, layout, work, rates)
    if any_of(shape.index_heads > 0):
        projected, scored = indexer(shape, layout, work, micro_batches, rates)
        projections, core = projections + projected, core + scored
    chain = operators.elementwise(shape, layout, work, tokens, width, rates)
    if any_of(shape.trainable < 1) or any_of(work.autocast > 0):
        weights = sum_of(layer_parameters(shape, layout, sparse=sparse))
        chain = chain + adapter_traffic(shape, layout, work, tokens, width, rates) + widening(shape, weights, rates)
        chain = chain + operators.weight_casts(shape, layout, work, weights, rates)
    tp = _tensor_parallel(shape, layout, work, tokens, rates, sparse=sparse)
    cp = _context_parallel(shape, layout, work, tokens, rates)
    scanned = scan(shape, layout, work, rates) if any_of(shape.scan_heads > 0) else None
    alone = projections + up + down + core + chain + tp + cp
    alone = alone if scanned is None else alone + scanned
    ep = exposed_experts(exchange, alone, layout, rates) if sparse else exchange
    return LayerOnDevice(
        shape=shape,
        layout=layout,
        work=work,
        micro_batches=micro_batches,
        sparse=sparse,
        projections=projections,
        up=up,
        down=down,
        core=core,
        chain=chain,
        scanned=scanned,
        tp=tp,
        cp=cp,
        ep=ep,
        total=alone + ep,
    )


def layer_time(layer: LayerOnDevice, rates: Rates) -> LayerTime:
    """Return the time of a layer whose operations the host issues, with what is computed again and what sharding adds.

    `rates` are those with which the device's part was computed, or others of software that runs experts differently.
    """
    shape, layout, work, sparse = layer.shape, layer.layout, layer.work, layer.sparse
    matmul, device = layer.matmul, layer.total
    host = host_floor(shape, layout, work, rates, sparse=sparse)
    if sparse and any_of(rates.sorted_loop > 0):
        sliced, issued = sorted_loop(shape, layout, work, rates)
        matmul, device, host = matmul + sliced, device + sliced, host + issued
    passes = _passes(shape, layout, device, host, rates, sparse=sparse)
    up, down, core, ep = layer.up, layer.down, layer.core, layer.ep
    passed = ForwardPass(
        total=passes.forward,
        device=device.forward,
        host=host.forward,
        products=matmul.forward,
        projections=layer.projections.forward,
        core=core.forward,
        grouped=(up.forward + down.forward) * (rates.expert_loop == 0) if sparse else 0.0,
        exchange=ep.forward,
        # The weights of experts, or the rows that their results are added to, need all of a sparse layer.
        last=0.0 if sparse else down.forward,
    )
    again = layout.again_moe if sparse else layout.again_mlp
    recompute = recompute_time(layout, work, passed) + again * (up.forward + down.forward + ep.forward)
    if any_of(layout.again_latent * shape.mla):
        tokens = layout.micro_batch_size * work.seq_len / layout.cp
        latent = _latent_expansion(shape, layout, work, tokens, layer.micro_batches, rates)
        recompute = recompute + layout.again_latent * latent.forward
    busy = Cost(passes.forward, passes.backward + recompute)
    exposed = fsdp_exposed(shape, layout, work, rates, layer.micro_batches, busy, sparse=sparse)
    return LayerTime(
        forward=passes.forward + exposed.forward,
        terms={
            "matmul": matmul.both,
            "attention": core.both,
            **({} if layer.scanned is None else {"scan": layer.scanned.both}),
            "elementwise": layer.chain.both,
            "tp": layer.tp.both,
            "cp": layer.cp.both,
            "ep": ep.both,
            "host": passes.forward - device.forward + passes.backward - device.backward,
            "recompute": recompute,
            "dp_shard": exposed.both,
        },
    )


def _passes(shape: Shape, layout: Layout, device: Cost, host: Cost, rates: Rates, *, sparse: bool) -> Cost:
    """Return the seconds of the passes of a layer whose operations keep the device and the host busy so long."""
    # Where the host is the slower of the two, the device has nothing left to do when the host reads counts from it.
    wait = host_wait(layout, rates) if sparse else 0.0
    forward = _issued(device.forward + wait, host.forward, rates)
    backward = _issued(device.backward, host.backward, rates)
    if not sparse or not any_of(rates.expert_loop > 0):
        return Cost(forward, backward)
    looped = (rates.expert_loop > 0) & (rates.sorted_loop == 0)
    loop = expert_loop(shape, layout, rates)
    return Cost(where(looped, forward + loop.forward, forward), where(looped, backward + loop.backward, backward))


def _issued(device: Values, host: Values, rates: Rates) -> Values:
    """Return the seconds of a pass whose operations the host issues beside the device, or one by one where it waits for
    each of them.
    """
    beside = smooth_max(device, host)
    return where(rates.launch_blocking > 0, device + host, beside) if any_of(rates.launch_blocking > 0) else beside


def attention_projections(
    shape: Shape, layout: Layout, work: StepWork, tokens: Values, micro_batches: Values, rates: Rates
) -> Cost:
    """Return the seconds of the projections to Q, K and V and of the output projection.

    Multi-latent attention has a chain of low-rank projections instead (arXiv 2405.04434 eq. 9-13).
    """
    h, tp = shape.hidden, layout.tp
    plain = 1 - shape.mla
    kv = maximum(shape.kv_heads / tp, 1)
    qkv = (shape.heads * shape.qk_dim / tp + 2 * kv * shape.qk_dim) * plain + shape.more_columns / tp
    cost = linear(tokens, qkv, h, shape.trainable, work, micro_batches, rates)
    cost = cost + linear(tokens, h, shape.heads * shape.v_dim / tp, shape.trainable, work, micro_batches, rates)
    if any_of(shape.scan_heads > 0):
        cost = cost + linear(
            tokens, h, shape.scan_heads * shape.scan_value / tp, shape.trainable, work, micro_batches, rates
        )
    if any_of(shape.cross_heads > 0):
        crossed = shape.cross_heads * shape.cross_dim / tp
        looked_at = layout.micro_batch_size * work.inputs * work.input_len / layout.cp
        cost = cost + linear(tokens, h, crossed, shape.trainable, work, micro_batches, rates)
        pairs = 2 * maximum(shape.cross_kv_heads / tp, 1) * shape.cross_dim
        cost = cost + linear(looked_at, pairs, h, shape.trainable, work, micro_batches, rates)
    if not any_of(shape.mla):
        return cost
    cost = cost + linear(tokens, shape.q_rank * shape.mla, h, shape.trainable, work, micro_batches, rates)
    cost = cost + linear(
        tokens, (shape.kv_rank + shape.rope_dim) * shape.mla, h, shape.trainable, work, micro_batches, rates
    )
    return cost + _latent_expansion(shape, layout, work, tokens, micro_batches, rates)


def _latent_expansion(
    shape: Shape, layout: Layout, work: StepWork, tokens: Values, micro_batches: Values, rates: Rates
) -> Cost:
    """Return the seconds of the products that expand latent vectors to queries, keys and values."""
    query_out = shape.heads * shape.qk_dim / layout.tp * shape.mla
    query = linear(
        tokens,
        query_out,
        where(shape.q_rank > 0, shape.q_rank, shape.hidden),
        shape.trainable,
        work,
        micro_batches,
        rates,
    )
    expand = shape.heads * (shape.qk_dim - shape.rope_dim + shape.v_dim) / layout.tp * shape.mla
    return query + linear(tokens, expand, shape.kv_rank, shape.trainable, work, micro_batches, rates)


def _mlp(
    width: Values, shape: Shape, layout: Layout, work: StepWork, tokens: Values, micro_batches: Values, rates: Rates
) -> tuple[Cost, Cost]:
    local = width / layout.tp
    up = linear(tokens, local * (1 + shape.gated), shape.hidden, shape.trainable, work, micro_batches, rates)
    return up, linear(tokens, shape.hidden, local, shape.trainable, work, micro_batches, rates)


def _experts(
    shape: Shape, layout: Layout, work: StepWork, tokens: Values, micro_batches: Values, rates: Rates
) -> tuple[Cost, Cost, Cost, Values]:
    """Return the seconds of the first and the second product of all experts, the seconds of the exchange, and a width.

    The products are those of routed and shared experts, the exchange is dispatch and combine, and the width is that of
    the shared experts. Expert weights are not split by tp where expert parallelism spans those ranks.
    """
    local_tokens = tokens / layout.tp
    rows = local_tokens * shape.top_k
    load = fullest_rank(shape, layout, rates)
    local_experts = maximum(shape.experts / layout.ep, 1)
    # The ranks that share an expert gather one another's tokens. Without expert parallelism those are the tp ranks.
    sharers = layout.expert_split / layout.ep
    per_expert = rows * load * layout.ep * sharers / maximum(shape.experts, 1)
    # An expert gets as many rows as the router sends, so that on average half of its last tile is empty.
    per_expert = per_expert + where(local_experts > 1, EXPERT_TILE_ROWS / 2, 0.0)
    width = shape.expert_ffn / sharers
    up = (
        linear(per_expert, width * (1 + shape.gated), shape.expert_hidden, shape.trainable, work, micro_batches, rates)
        * local_experts
    )
    down = linear(per_expert, shape.expert_hidden, width, shape.trainable, work, micro_batches, rates) * local_experts
    # Grouped products are one kernel: the launch gap is paid once and not for each expert.
    gap = (local_experts - 1) * rates.kernel_time
    saved = Cost(-gap, -(1 + shape.trainable) * gap)
    up, down = up + saved, down + saved
    if any_of(shape.shared_ffn):
        shared_up, shared_down = _mlp(shape.shared_ffn, shape, layout, work, tokens, micro_batches, rates)
        up, down = up + shared_up, down + shared_down
    up = up + between_products(rows * room_for_rows(layout, rates), shape, work, rates)
    if any_of(rates.indexed_biases > 0):
        up = up + Cost(0.0, indexed_biases(rows, shape, layout, rates))
    if any_of(rates.one_hot_dispatch == 0):
        up = up + permutation(rows * load * sharers, local_tokens, shape, layout, work, rates)
    if any_of(rates.one_hot_dispatch > 0):
        there, back = one_hot_products(local_tokens, shape, layout, work, rates)
        up, down = up + there, down + back
    return up, down, _expert_exchange(shape, layout, work, rows * load, rates), shape.shared_ffn


def _expert_exchange(shape: Shape, layout: Layout, work: StepWork, rows: Values, rates: Rates) -> Cost:
    """Return the seconds of dispatch and combine, for `rows` routed rows of the fullest rank.

    The ranks that share an expert are neighbours, so that those of one exchange lie as far apart as their number. Half
    of the exchanges are dispatches, of tokens or of gradients, and half are sums of what comes back.
    """
    element_bytes = (work.dispatch_bytes + work.activation_bytes) / 2
    sent = network.all_to_all_time(
        rows * element_bytes * shape.expert_hidden,
        shape.top_k,
        shape.experts,
        layout.ep,
        layout.expert_tp,
        rates,
        shape.group_share,
    )
    if any_of(layout.expert_tp > 1):
        size = rows * work.activation_bytes * shape.expert_hidden * layout.expert_tp
        sent = sent + network.group_of(layout.expert_tp, 1.0, rates).gather_time(size)
    return Cost(2 * sent, 2 * sent)


def _tensor_parallel(
    shape: Shape, layout: Layout, work: StepWork, tokens: Values, rates: Rates, *, sparse: bool
) -> Cost:
    """Return the seconds of the collectives of tensor parallelism.

    There are two all-reduces forward and two backward. Sequence parallelism splits them into gathers and scatters; its
    backward pass repeats two gathers at 0.3 of their cost (Korthikanti 2022, section 4.2).
    """
    if not any_of(layout.tp > 1):
        return NO_COST
    size, group = tokens * shape.hidden * work.activation_bytes, network.group_of(layout.tp, 1.0, rates)
    reduce, gather = group.all_reduce_time(size), group.gather_time(size)
    sequence = layout.sequence_parallel > 0
    forward = where(sequence, 4 * gather, 2 * reduce)
    backward = where(sequence, 4.6 * gather, 2 * reduce)
    # A layer that lacks one of its parts has nothing to reduce for that part.
    exposed = shape.parts * where(layout.async_tp > 0, 0.5, 1.0)
    if sparse:
        exposed = exposed * gathered_share(shape, layout)
    return Cost(forward * exposed, backward * exposed)


def gathered_share(shape: Shape, layout: Layout) -> Values:
    """Return the share of a sparse layer's collectives of tensor parallelism that remains under expert parallelism.

    With sequence parallelism each rank sends its own part of the tokens to the experts, so that nothing is gathered
    around routed experts and only the attention's half remains (`MoEAlltoAllTokenDispatcher` of Megatron-core). Shared
    experts are split like a dense layer and gather their tokens.
    """
    routed = (layout.ep > 1) & (layout.sequence_parallel > 0) & (shape.shared_ffn == 0)
    return where(routed, 0.5, 1.0)


def _context_parallel(shape: Shape, layout: Layout, work: StepWork, tokens: Values, rates: Rates) -> Cost:
    """Return the seconds of the exchange of context parallelism, of which half is hidden.

    Keys and values travel around a ring, or an all-to-all exchanges Q, K, V and output (Ulysses). This happens once
    forward and twice backward.
    """
    if not any_of(layout.cp > 1):
        return NO_COST
    kv = 2 * maximum(shape.kv_heads / layout.tp, 1) * shape.qk_dim
    ring = tokens * kv * work.activation_bytes * (layout.cp - 1)
    qkvo = (2 * shape.heads / layout.tp + 2 * maximum(shape.kv_heads / layout.tp, 1)) * shape.qk_dim
    # Scans exchange their channels as heads are exchanged, whichever form the attention uses.
    channels = 2 * (shape.scan_heads * shape.scan_value + shape.scan_groups * shape.scan_key) / layout.tp
    part = tokens * work.activation_bytes * (layout.cp - 1) / layout.cp
    exchange = qkvo * part
    group = network.group_of(layout.cp, layout.tp, rates)
    sent = where(layout.ring > 0, ring, exchange) + channels * part
    time = sent / group.bandwidth + group.latency
    time = where((layout.cp > 1) & (sent > 0), 0.5 * time, 0.0)
    return Cost(time, 2 * time)
