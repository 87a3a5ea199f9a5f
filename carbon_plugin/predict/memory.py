"""Compute the bytes on the fullest device of a step, by part.

Sources: the bytes of mixed-precision states are as in ZeRO (Rajbhandari et al. 2020, section 3) and in Megatron-LM's
theoretical memory report. Activations per layer are as in Korthikanti et al. 2022 (arXiv 2205.05198, table 2),
generalised to gated feed-forward layers, grouped heads, experts and fused attention.
"""

from __future__ import annotations

import functools

from carbon_plugin.predict.arrays import Values, any_of, ceil, maximum, minimum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, own_case
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.experts import fullest_rank
from carbon_plugin.predict.time.frozen import WIDE_BITS, stored_share
from carbon_plugin.predict.time.layer import layer_parameters
from carbon_plugin.predict.time.operators import is_cast
from carbon_plugin.predict.time.scan import scan_kept_elements
from carbon_plugin.predict.time.schedule import device_parameters, sparse_share

MASTER_BYTES = 4
MASK_BYTES = 1
"""Bytes of a value in the mask that a dropout keeps (`native_dropout` of PyTorch; Korthikanti et al. 2022)."""
WRITTEN_GELU = 3
"""Results that a GELU by the operations of its formula keeps beside its input (a test counts them). Under autocast they
are in fp32, because the cube of its formula is (`pow` in the list of CUDA's autocast)."""
GATHER_BUFFERS = 2
"""Parameter units that FSDP holds gathered at once: the one in use and the prefetched one. At the loss they are the
head, which torchtitan's FSDP does not shard again after the forward pass, and the last layer."""
BUCKET_ELEMENTS = 5e8
"""Parameters in a bucket of DeepSpeed's ZeRO-3: `reduce_bucket_size`, and half of `max_live_parameters`, which two
gathered units fill (runtime/zero/config.py)."""
SCATTER_BYTES = 6
"""Bytes per gathered parameter while its gradient is reduced: the 16-bit gradient and its fp32 copy."""
GATHERED_SEQUENCES = 4
"""Whole sequences that a layer leaves in the allocator's cache under sequence parallelism: the gathered input of a
block and its result before the sum, each in the order of the ranks and in that of the sequence (`all_gather_tensor` and
`reduce_scatter_tensor` of torch.distributed's _functional_collectives.py). The next block and the head reuse them."""
CHUNKED_SEQUENCES = 3
"""The same where the exchange is cut into chunks that run beside the products: input and partial results once each
(`A` and `stacked_partials` of torch.distributed's _symmetric_memory), and the head's input, which is not cut."""


def memory_parts(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> dict[str, Values]:
    """Return the parts in bytes on the fullest device, each at its own largest. `predict.peak` says which of them are
    there at one time."""
    shared, routed = device_parameters(shape, layout)
    # DualPipe feeds the pipeline from both ends, so that every device holds two stages.
    copies = where(layout.dualpipe > 0, 2, 1)
    shards = layout.dp_shard * layout.cp
    narrow = work.parameter_bytes < MASTER_BYTES
    stage = layout.zero_stage

    def split(from_stage: int) -> Values:
        """Return the parameters per device of a state that is sharded from a ZeRO stage on."""
        return where(stage >= from_stage, shared / shards + routed / layout.expert_shards, shared + routed)

    trained = shape.trainable
    # FSDP keeps one sharded copy and gathers 16-bit units. The copy is the master of what is trained, and 16 bit of
    # what is frozen or has its master on the host. Other stages keep a 16-bit copy beside the master.
    narrow_share = where((work.offload > 0) | (work.master == 0), 1.0, 1 - trained)
    stored = _stored_share(shape, layout, shared + routed)
    # Autocast keeps 32-bit weights alone and casts them anew in each forward pass (`_cast_weights`).
    cast = is_cast(shape, layout, work)
    whole = where(cast, MASTER_BYTES, work.parameter_bytes) * (shared + routed)
    kept = stored * where(stage >= 3, work.parameter_bytes * narrow_share * split(3), whole)
    master = where((narrow | (stage >= 3)) & (work.master > 0) & (cast == 0), MASTER_BYTES * split(1), 0.0)
    unit = where(work.gathers_weights > 0, _largest_weight(shape, layout), _largest_layer(shape, layout))
    # A bucket is as large as the weight that does not fit in it, and no larger than a layer.
    bucket = maximum(_largest_weight(shape, layout), BUCKET_ELEMENTS)
    unit = where(work.gathers_buckets > 0, minimum(unit, bucket), unit)
    # Under a pipeline FSDP gathers a stage once per step and accumulates its gradients whole.
    pipelined = layout.pp > 1
    # What is gathered last in the forward pass is the head, which stays so for its backward pass.
    by_layers = (work.gathers_weights == 0) & (work.gathers_buckets == 0)
    head = where(by_layers, maximum(unit, shape.outputs * shape.head_width / layout.tp), unit)
    units = where(pipelined, shared + routed, (GATHER_BUFFERS - 1) * unit + head)
    gathered = where(stage >= 3, stored * work.parameter_bytes * units, 0)
    narrow_base = any_of(shape.frozen_bits < WIDE_BITS)
    widened = where(shape.frozen_bits < WIDE_BITS, _largest_weight(shape, layout), 0.0) if narrow_base else 0.0
    # FSDP keeps the gradients of its shards in the precision of the shards.
    shards_wide = (stage >= 2) & (work.master > 0) & (work.widened_bytes == 0)
    grad_bytes = where(shards_wide, MASTER_BYTES, work.gradient_bytes)
    # DeepSpeed sums gradients up in their own precision, and widens those of a rank as it updates. Under a pipeline its
    # bf16 optimizer keeps an fp32 sum beside them (`get_data_types` and `_do_optimizer_sanity_check` of its
    # runtime/engine.py, `step` of its zero/stage_1_and_2.py).
    beside = where((stage < 2) & (layout.pp > 1), work.accumulated_bytes, 0)
    widened_late = where(layout.pp > 1, 0, work.widened_bytes) * where(work.offload > 0, 0.0, 1.0)
    copied = work.list_copy_bytes * work.gradients_kept * where(work.offload > 0, 0.0, 1.0)
    buckets = where((layout.dp > 1) & (stage == 0), work.bucket_bytes, 0.0)
    grad_bytes = (grad_bytes + beside) * work.gradients_kept
    gradients = where(pipelined, split(4), split(2))
    # Sharded gradients go to the host together with offloaded states (ZeRO-Offload, arXiv 2101.06840; FSDP).
    kept_here = where((work.offload > 0) & (stage >= 2), 0.0, grad_bytes)
    parts = {
        "parameters": copies * (kept + gathered + work.parameter_bytes * widened),
        "gradients": copies * kept_here * gradients * trained,
        "optimizer": where(work.offload > 0, 0.0, master + work.optimizer_bytes * split(1)) * trained,
        "communication": trained
        * where(stage >= 2, SCATTER_BYTES * unit, _unsummed(shape, layout, work) + buckets * (shared + routed)),
        "update": (widened_late + copied) * split(1) * trained,
        **_activations(shape, layout, work, rates),
    }
    # Gathered units have no size where nothing is sharded, and frozen parameters have no master.
    parts["cached"] = _cached(layout, work, shape)
    freed_logits = _logits(shape, layout, work, whole=work.freed_logit_bytes, split=0.0)
    # The backward pass of a layer finds room in them, the logits do not.
    parts["freed"] = freed_logits + maximum(_freed_by_layers(shape, layout, work, rates) - parts["working"], 0.0)
    return parts


def _unsummed(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes of the gradient of one weight that waits until it is added to a buffer of all gradients.

    The gate and the first product of a feed-forward block are one weight where gradients have buffers (Megatron), and
    each expert has weights of its own.
    """
    weight = shape.hidden * maximum((1 + shape.gated) * shape.ffn, shape.heads * shape.qk_dim) / layout.tp
    return where(work.gradient_buffers > 0, work.parameter_bytes * weight, 0.0)


def _cached(layout: Layout, work: StepWork, shape: Shape) -> Values:
    """Return the bytes of whole sequences that layers have freed and into which the logits do not fit.

    Layers run before the loss, so that the blocks which the allocator keeps of them are too small for the logits.
    Megatron gathers every sequence into one buffer that it never frees.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    count = where(layout.async_tp > 0, CHUNKED_SEQUENCES, GATHERED_SEQUENCES)
    count = where(work.gradient_buffers > 0, 1, count)
    apart = (layout.sequence_parallel > 0) & (layout.tp > 1)
    return where(apart, count * tokens * shape.hidden * work.activation_bytes, 0.0)


def _freed_by_layers(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes that the forward pass of a layer which is recomputed has freed and that the logits, which are
    larger, find no room in: the results of the feed-forward block's products, or scores and their softmax where single
    operations move them through memory.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    full, operators = layout.recompute_full > 0, layout.recompute_operators > 0
    anew = full + operators * (1 - work.keeps_products)
    feed = ((1 + shape.gated) * anew + (anew > 0)) * shape.ffn / layout.tp * work.activation_bytes
    softmax = _softmax_bytes(shape, layout, work, rates)
    again = full + operators * (1 - work.keeps_core)
    scores = again * (rates.attention_unfused > 0) * 2 * softmax * shape.heads / layout.tp * work.seq_len
    return where(layout.pp > 1, 0.0, tokens * maximum(feed, scores))


def _stored_share(shape: Shape, layout: Layout, parameters: Values) -> Values:
    """Return the bytes of a device's parameters as they are kept, divided by their bytes in 16 bit.

    Frozen layers may be kept in fewer bits. Embeddings and head, as `device_parameters` counts them, are not.
    """
    if not any_of(shape.frozen_bits < WIDE_BITS):
        return 1.0
    tables = shape.tables(layout.pp) / layout.tp
    layers = maximum(1 - tables / maximum(parameters, 1), 0)
    return 1 - layers * (1 - stored_share(shape))


def layer_activation_bytes(shape: Shape, layout: Layout, work: StepWork, rates: Rates, *, sparse: bool) -> Values:
    """Return the bytes that one layer keeps for the backward pass of one micro-batch.

    What selective recompute repeats is not included.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    feed = _kept_of_experts(shape, layout, work, rates) if sparse else _kept_of_mlp(shape, layout, work)
    mixer = _kept_of_attention(shape, layout, work, rates)
    if any_of(shape.scan_heads > 0):
        mixer = mixer + work.activation_bytes * scan_kept_elements(shape, layout)
    return tokens * (_kept_of_norms(shape, layout, work) + mixer + feed)


def _kept_of_norms(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per token of two norms: their inputs, their outputs as inputs of products, and dropout masks.

    An RMSNorm that is written out keeps its input in fp32, and the normalised values before the weight is multiplied,
    which a frozen weight does not need. The output is kept where the product that takes it is trained or adapted.
    Outputs that are gathered over tensor parallelism are kept whole where the framework does not gather them again.
    Under autocast the residual stream and the normalised values are in fp32, and each product that takes an output
    casts it for itself: those to queries, keys and values are one in GPT-2's relatives and three elsewhere, and a gate
    has a product of its own (`tests/predict/test_autocast.py` counts them).
    """
    split = where(layout.sequence_parallel > 0, layout.tp, 1)
    inputs = 2 * work.activation_bytes + 2 * MASK_BYTES * shape.dropout
    written_out = 2 * work.eager * shape.gated * MASTER_BYTES
    written_out = written_out - 2 * work.eager * shape.gated * work.activation_bytes * shape.adapted_query_value
    wide = 2 * (MASTER_BYTES - work.activation_bytes)
    apart = maximum(shape.gated, shape.bidirectional)
    cast = wide + (2 * apart + shape.gated) * work.input_bytes
    inputs = inputs + is_cast(shape, layout, work) * cast
    outputs = (2 - _frozen_feed(shape)) * work.input_bytes
    # A frozen product needs no input, and each adapter whose input passes a dropout keeps a copy and a mask of it.
    adapted = (2 + shape.adapted_key) * shape.adapted_query_value + (1 + shape.gated) * shape.adapted_ffn
    outputs = where(shape.adapter_dropout > 0, adapted * (work.input_bytes + MASK_BYTES), outputs)
    kept = inputs + written_out + outputs * (1 - layout.again_norms)
    gathered = work.keeps_gathered * 2 * work.input_bytes * (1 - 1 / split)
    return shape.parts * (kept / split + gathered) * shape.hidden


def _kept_of_attention(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes per token of Q, K, V, the output of the core, latent vectors, and scores that go through memory.

    In low precision the output is kept twice, for the core and as input of the projection, unless one narrow copy
    serves both.
    """
    heads, kv = shape.heads / layout.tp, maximum(shape.kv_heads / layout.tp, 1)
    through_memory = rates.attention_unfused > 0
    # Plain modules repeat K and V for every head.
    kv = where(through_memory & (work.eager > 0), heads, kv)
    softmax = _softmax_bytes(shape, layout, work, rates)
    # Beside the softmax, the product with V keeps its input where it is a copy, and dropout keeps its mask.
    copied = maximum(softmax > work.activation_bytes, shape.dropout)
    a_score = softmax + copied * work.activation_bytes + MASK_BYTES * shape.dropout
    built = heads * shape.qk_dim + kv * (shape.qk_dim + shape.v_dim)
    copied = (work.input_bytes < work.activation_bytes) & (work.kept_bytes == work.activation_bytes)
    narrow_copy = where(copied, work.input_bytes, 0)
    latent = 2 * shape.mla * (shape.q_rank + shape.kv_rank + shape.rope_dim)
    scores = a_score * heads * work.seq_len * through_memory * (1 - layout.recompute_selective)
    wide = built * (1 - layout.again_latent * shape.mla) + latent
    normed = _kept_of_normed_queries(shape, layout, work)
    dropped = shape.adapter_dropout * shape.adapted_output * (work.input_bytes + MASK_BYTES)
    order = work.copies_core * (1 - through_memory) * work.activation_bytes
    core = (work.kept_bytes + narrow_copy + dropped + order) * heads * shape.v_dim
    return wide * work.activation_bytes + scores + core + normed


def _kept_of_normed_queries(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per token that norms of queries and keys keep: their inputs, in fp32 where they are written out,
    and then the normalised values too, which a frozen weight does not need.
    """
    width = (shape.heads / layout.tp + maximum(shape.kv_heads / layout.tp, 1)) * shape.qk_dim
    normalised = work.activation_bytes * (1 - shape.adapted_query_value)
    kept = where(work.eager > 0, MASTER_BYTES + normalised, work.activation_bytes)
    return shape.qk_norm * width * kept * (1 - layout.again_norms)


def _softmax_bytes(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes of the softmax of a score that goes through memory.

    Single operations run it in fp32 in Llama's relatives (`eager_attention_forward` of transformers) and under
    autocast, else in the precision of the activations, as Megatron's kernel gives it.
    """
    wide = (rates.attention_eager > 0) & ((shape.gated > 0) | is_cast(shape, layout, work))
    return where(wide, MASTER_BYTES, work.activation_bytes)


def _kept_of_mlp(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per token of a dense feed-forward block."""
    return _kept_a_width(shape, layout, work) * shape.ffn / layout.tp * (1 - layout.again_mlp)


def _kept_of_experts(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes per token of routed and shared experts on the fullest rank.

    They are those of permuted inputs, of both products, and of what the experts return, unless the probability is
    multiplied before.
    """
    width = _kept_a_width(shape, layout, work)
    returned = (1 - work.weighted) * work.activation_bytes
    sent = (work.input_bytes + returned) * shape.expert_hidden
    routed = shape.top_k * (width * shape.expert_ffn + sent) * fullest_rank(shape, layout, rates)
    routed = routed / layout.tp + shape.experts * work.activation_bytes * 2
    shared = width * shape.shared_ffn / layout.tp * (1 - layout.again_shared)
    return (routed + shared) * (1 - layout.again_moe)


def _kept_a_width(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per token and unit of feed-forward width.

    They are those of the results of the first product, of the gate's activation where it is an operation of its own, of
    the three results that a GELU by the operations of its formula keeps beside them, and of the input of the second
    product, which `again_act` repeats and a frozen product without an adapter does not need.
    """
    single = work.single_gate * shape.gated * work.activation_bytes
    value = where(is_cast(shape, layout, work), MASTER_BYTES, work.activation_bytes)
    single = single + work.eager * WRITTEN_GELU * shape.written_gelu * value
    mask = shape.adapter_dropout * shape.adapted_ffn * MASK_BYTES
    taken = (work.input_bytes + mask) * (1 - layout.again_act) * (1 - _frozen_feed(shape))
    return (1 + shape.gated) * work.kept_bytes + single + taken


def _frozen_feed(shape: Shape) -> Values:
    """Return 1 where a model with adapters has none in its feed-forward blocks."""
    return shape.adapted_query_value * (1 - shape.adapted_ffn)


def _largest_layer(shape: Shape, layout: Layout) -> Values:
    """Return the parameters of the largest layer on one device, which is the unit that FSDP gathers at once."""
    if shape.kinds:
        return functools.reduce(maximum, (_largest_layer(kind, layout) for kind in shape.kinds))
    dense, _ = layer_parameters(shape, layout, sparse=False)
    if not any_of(shape.moe_layers > 0):
        return dense
    shared, routed = layer_parameters(shape, layout, sparse=True)
    return where(shape.moe_layers > 0, shared + routed, dense)


def _largest_weight(shape: Shape, layout: Layout) -> Values:
    """Return the parameters of the largest weight of a layer on one device. All experts of a layer form one weight."""
    dense = shape.hidden * maximum(shape.ffn, shape.heads * shape.qk_dim) / layout.tp
    experts = shape.hidden * shape.expert_ffn * shape.experts / layout.expert_split
    return where(shape.moe_layers > 0, maximum(dense, experts), dense)


def _activations(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> dict[str, Values]:
    """Return the bytes of activations, of the working memory and of the logits on the first stage.

    The first stage has the most micro-batches in flight. At the peak come on top the logits before the backward pass,
    or later the recomputed activations of a layer and their gradients.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    split = where(layout.sequence_parallel > 0, layout.tp, 1)
    layer = _mean_layer_bytes(shape, layout, work, rates)
    stream = where(is_cast(shape, layout, work), MASTER_BYTES, work.activation_bytes)
    boundary = tokens * shape.hidden * stream / split
    recomputed = layout.recompute_full + layout.recompute_operators
    kept = (
        layout.recompute_full * boundary
        + layout.recompute_operators * (boundary + _kept_products(shape, layout, work, rates, tokens, split))
        + (1 - recomputed) * layer
    ) * (1 - work.offloaded)
    # A pipeline that drains several times in a step holds the micro-batches of one round.
    m = work.batch / (layout.dp * layout.micro_batch_size * layout.pipeline_rounds)
    v = layout.virtual_stages
    deepest = layout.pp + layout.dualpipe  # DeepSeek-V3 (arXiv 2412.19437) table 2: pp + 1
    # GPipe runs all forward passes before the first backward one (Huang et al. 2019, arXiv 1811.06965).
    in_flight = where(layout.gpipe > 0, m, minimum(m, deepest))
    # Interleaving starts more forward passes before the first backward pass, but no more than there are micro-batches.
    in_flight = minimum(in_flight * where(v > 1, 1 + (layout.pp - 1) / (layout.pp * v), 1.0), m)
    # A layer that is recomputed, or comes back from the host, is there once, beside its input that was kept. With it
    # are the gradients of its widest intermediates, and whole sequences that are gathered over tp.
    passing = where((recomputed > 0) | (work.offloaded > 0), maximum(layer - boundary, 0), 0.0)
    gathered = where(split > 1, 2, 0) * shape.hidden * work.activation_bytes
    working = passing + tokens * (gathered + _gradients_within(shape, layout, work, rates))
    logits = _logits(shape, layout, work, whole=work.logit_bytes, split=work.split_logit_bytes)
    return {
        "activations": kept * first_stage_layers(shape, layout) * in_flight + _cast_weights(shape, layout, work),
        "working": maximum(working - logits, 0.0),
        "logits": logits,
    }


def _cast_weights(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes of the 16-bit weights that autocast casts in the forward pass and the backward pass needs.

    Those of layers that are recomputed are cast again, one layer at a time. An embedding takes part in no product,
    unless it is the head.
    """
    if not any_of(is_cast(shape, layout, work)):
        return 0.0
    shared, routed = device_parameters(shape, layout)
    head = shape.outputs * shape.head_width / layout.tp
    layers = maximum(shared + routed - shape.tables(layout.pp) / layout.tp, 0)
    layers = layers * (1 - layout.recompute_full + (layout.recompute_full > 0) / shape.layers)
    return where(is_cast(shape, layout, work), work.activation_bytes * (layers + where(layout.pp > 1, 0.0, head)), 0.0)


def _gradients_within(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes per token that the backward pass of a layer adds at most to what the layer kept.

    In the feed-forward block they are the gradient of the activation's result and those of the products that it is
    computed from. In an attention whose scores go through memory they are the gradients of the softmax's result and of
    its scores, which single operations compute in fp32; what the feed-forward block kept is gone by then.
    """
    feed = (2 + shape.gated) * shape.ffn / layout.tp * work.activation_bytes
    softmax = _softmax_bytes(shape, layout, work, rates)
    scores = (work.activation_bytes + softmax) * shape.heads / layout.tp * work.seq_len
    return maximum(feed, (rates.attention_unfused > 0) * scores - _kept_of_mlp(shape, layout, work))


def first_stage_layers(shape: Shape, layout: Layout) -> Values:
    """Return the number of layers of the first pipeline stage.

    Layers that do not divide evenly are distributed together with the embedding and the head, where each of these
    counts as a layer and the sum divides evenly (Megatron-core's `account_for_embedding_in_pipeline_split` and
    `account_for_loss_in_pipeline_split`). Otherwise the first stages take one more layer. Stages that are balanced by
    work leave fewer layers beside the head, and more on the other stages (nanotron).
    """
    layers = shape.layers
    chunks = layout.pp * layout.virtual_stages
    widths = where(shape.moe_layers > 0, shape.top_k * shape.expert_ffn + shape.shared_ffn, shape.ffn)
    head = shape.outputs * shape.head_width / (shape.attention_params + (2 + shape.gated) * shape.hidden * widths)
    beside_head = where((layout.balanced_stages > 0) & (layout.pp > 1), head, 0)
    plain = minimum(ceil((layers + beside_head) / layout.pp), layers)
    both = (layers % chunks > 0) & ((layers + 1) % chunks > 0) & ((layers + 2) % chunks == 0)
    return where(both, (layers + 2) / layout.pp - 1, plain)


def _mean_layer_bytes(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the mean bytes of activations per layer, on the stage that has the largest share of experts.

    Where the layers of a model differ it is the mean over all of them.
    """
    if shape.kinds:
        cases = [(kind, case) for kind in shape.kinds if (case := own_case(kind, layout, work)) is not None]
        return sum_of(kind.layers * _mean_layer_bytes(kind, *case, rates) for kind, case in cases) / shape.layers
    layer = layer_activation_bytes(shape, layout, work, rates, sparse=False)
    if not any_of(shape.moe_layers > 0):
        return layer
    share = sparse_share(shape, layout)
    return share * layer_activation_bytes(shape, layout, work, rates, sparse=True) + (1 - share) * layer


def _kept_products(shape: Shape, layout: Layout, work: StepWork, rates: Rates, tokens: Values, split: Values) -> Values:
    """Return the bytes that a per-operation checkpoint policy keeps of a layer beside its input.

    It keeps the output of the attention core and every or every second matrix product (torchtitan's policies), the
    products alone where the policy does not know the core's kernel, or Q, K and V (MaxText's save_qkv_proj). Every
    second are the first, third and so on in the order of a layer: those to queries, to values, to the gate and, with a
    gate, the last one, whose result is kept only where single operations run, because nothing in the backward pass
    needs it. Of layers with experts or latent vectors, whose order differs, half of all counts. Grouped products of
    routed experts are not kept.
    """
    heads, kv = shape.heads / layout.tp, maximum(shape.kv_heads / layout.tp, 1)
    query, key, value = heads * shape.qk_dim, kv * shape.qk_dim, kv * shape.v_dim
    sparse = sparse_share(shape, layout)
    routed = where(rates.expert_loop > 0, shape.top_k * shape.expert_ffn, 0)
    width = ((1 - sparse) * shape.ffn + sparse * (shape.shared_ffn + routed)) / layout.tp
    result = shape.hidden / split
    last = work.eager * result * (1 - sparse * ((shape.shared_ffn == 0) & (rates.expert_loop == 0)))
    every = query + key + value + result + (1 + shape.gated) * width + last
    second = where((sparse > 0) | (shape.mla > 0), every / 2, query + value + width + shape.gated * last)
    products = where(work.keeps_products == 1, every, where(work.keeps_products > 0, second, 0.0))
    core = work.keeps_core * heads * shape.v_dim
    kept = core + products + work.keeps_projections * (query + key + value)
    return tokens * kept * work.activation_bytes


def _logits(shape: Shape, layout: Layout, work: StepWork, *, whole: Values, split: Values) -> Values:
    """Return the bytes of the logits of one micro-batch, of which each costs `whole` bytes, or `split` where
    tensor-parallel ranks share them. They are 0 with a pipeline.

    With a pipeline they are on the last stage. In all published cases its activations are smaller than those of the
    first stage by more than the logits, so that the logits do not count.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    size = where(layout.tp > 1, split, whole)
    return where(layout.pp > 1, 0.0, size * tokens * work.scored_share * shape.outputs / layout.tp)
