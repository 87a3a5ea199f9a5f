"""Compute the bytes of activations: what layers keep for their backward pass, what this pass adds, and the logits.

Activations per layer are as in Korthikanti et al. 2022 (arXiv 2205.05198, table 2), generalised to gated feed-forward
layers, grouped heads, experts and fused attention.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, ceil, maximum, minimum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, own_case
from carbon_plugin.predict.parameters import device_parameters, sparse_share
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.states import MASTER_BYTES
from carbon_plugin.predict.time.experts import fullest_rank
from carbon_plugin.predict.time.indexer import kept_of_choice
from carbon_plugin.predict.time.operators import is_cast
from carbon_plugin.predict.time.scan import scan_kept_elements

MASK_BYTES = 1
"""Bytes of a value in the mask that a dropout keeps (`native_dropout` of PyTorch; Korthikanti et al. 2022)."""
WRITTEN_GELU = 3
"""Results that a GELU by the operations of its formula keeps beside its input (a test counts them). Under autocast they
are in fp32, because the cube of its formula is (`pow` in the list of CUDA's autocast)."""


def activation_parts(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, *, first_stage: bool = False
) -> dict[str, Values]:
    """Return the bytes of activations, of the working memory and of the logits on the fullest stage, or the first one.

    The first stage has the most micro-batches in flight, and the last one has the logits; a device that holds both ends
    has both. At the peak come on top the logits before the backward pass, or later the recomputed activations of a
    layer and their gradients. `spare` are the bytes of the logits that these do not need when the logits are gone; it
    is a part of nothing.
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
    # A layer that is recomputed, or comes back from the host, is there once, beside its input that was kept. With it
    # are the gradients of its widest intermediates, and whole sequences that are gathered over tp.
    passing = where((recomputed > 0) | (work.offloaded > 0), maximum(layer - boundary, 0), 0.0)
    gathered = where(split > 1, 2, 0) * shape.hidden * work.activation_bytes
    working = passing + tokens * (gathered + _gradients_within(shape, layout, work, rates))
    logits = logits_bytes(shape, layout, work, whole=work.logit_bytes, split=work.split_logit_bytes)
    if any_of(work.gradient_placeholders > 0):
        logits = maximum(logits, _head_backward_bytes(shape, layout, work))
    early, late = _in_flight(layout, work)
    layers = first_stage_layers(shape, layout)
    first = kept * layers * early
    last = kept * _last_stage_layers(shape, layout, layers) * late
    # DualPipe puts both ends of the pipeline on one device, whose micro-batches from both sides are in flight at once.
    both_ends = (layout.pp <= 1) | (layout.dualpipe > 0)
    at_end = (both_ends == 0) & (last + maximum(logits, working) > first + working) & (not first_stage)
    logits = where(both_ends | at_end, logits, 0.0)
    return {
        "activations": where(at_end, last, first) + _cast_weights(shape, layout, work),
        "working": maximum(working - logits, 0.0),
        "logits": logits,
        "spare": maximum(logits - working, 0.0),
    }


def _in_flight(layout: Layout, work: StepWork) -> tuple[Values, Values]:
    """Return for how many micro-batches the first and the last stage hold activations at most."""
    # A pipeline that drains several times in a step holds the micro-batches of one round.
    m = work.batch / (layout.dp * layout.micro_batch_size * layout.pipeline_rounds)
    v = layout.virtual_stages
    deepest = layout.pp + layout.dualpipe  # DeepSeek-V3 (arXiv 2412.19437) table 2: pp + 1
    # GPipe runs all forward passes before the first backward one (Huang et al. 2019, arXiv 1811.06965).
    first = where(layout.gpipe > 0, m, minimum(m, deepest))
    # Interleaving starts more forward passes before the first backward pass, but no more than there are micro-batches.
    first = minimum(first * where(v > 1, 1 + (layout.pp - 1) / (layout.pp * v), 1.0), m)
    # The last stage goes backward as soon as its last chunk has run a micro-batch.
    last = where(layout.gpipe > 0, m, minimum(layout.pp + (1 - layout.pp) / v, m))
    return first, last


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
    # A compiler casts once for all of them.
    cast = wide + work.eager * (2 * apart + shape.gated) * work.input_bytes
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
    softmax = softmax_bytes(shape, layout, work, rates)
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
    kept = wide * work.activation_bytes + scores + core + normed
    return kept + kept_of_choice(shape, work) if any_of(shape.chosen < work.seq_len) else kept


def _kept_of_normed_queries(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per token that norms of queries and keys keep: their inputs, in fp32 where they are written out,
    and then the normalised values too, which a frozen weight does not need.
    """
    width = (shape.heads / layout.tp + maximum(shape.kv_heads / layout.tp, 1)) * shape.qk_dim
    normalised = work.activation_bytes * (1 - shape.adapted_query_value)
    kept = where(work.eager > 0, MASTER_BYTES + normalised, work.activation_bytes)
    return shape.qk_norm * width * kept * (1 - layout.again_norms)


def softmax_bytes(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
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
    products alone where the policy does not know the core's kernel, or Q, K and V (MaxText's save_qkv_proj), and what
    experts of other ranks receive and return where its list has the exchange. Every second are the first, third and so
    on in the order of a layer: those to queries, to values, to the gate and, with a gate, the last one, whose result is
    kept only where single operations run, because nothing in the backward pass needs it. Of layers with experts or
    latent vectors, whose order differs, half of all counts. Grouped products of routed experts are not kept.
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
    if any_of(work.keeps_exchange > 0):
        sent = 1 + fullest_rank(shape, layout, rates)
        kept = kept + where(layout.ep > 1, work.keeps_exchange * sparse * shape.top_k * sent * shape.expert_hidden, 0.0)
    return tokens * kept * work.activation_bytes


def _cast_weights(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes of the 16-bit weights that autocast casts in the forward pass and the backward pass needs.

    Those of layers that are recomputed are cast again, one layer at a time. An embedding takes part in no product,
    unless it is the head.
    """
    if not any_of(is_cast(shape, layout, work)):
        return 0.0
    shared, routed = device_parameters(shape, layout)
    head = shape.outputs * shape.head_width / layout.tp
    layers = layout.copies * maximum(shared + routed - shape.tables(layout) / layout.tp, 0)
    layers = layers * (1 - layout.recompute_full + (layout.recompute_full > 0) / shape.layers)
    head = where((layout.pp > 1) & (layout.dualpipe == 0), 0.0, head)
    return where(is_cast(shape, layout, work), work.activation_bytes * (layers + head), 0.0)


def _gradients_within(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes per token that the backward pass of a layer adds at most to what the layer kept.

    In the feed-forward block they are the gradient of the activation's result and those of the products that it is
    computed from. In an attention whose scores go through memory they are the gradients of the softmax's result and of
    its scores, which single operations compute in fp32; what the feed-forward block kept is gone by then.
    """
    feed = (2 + shape.gated) * shape.ffn / layout.tp * work.activation_bytes
    softmax = softmax_bytes(shape, layout, work, rates)
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


def _last_stage_layers(shape: Shape, layout: Layout, first: Values) -> Values:
    """Return the number of layers of the last pipeline stage, which has no more of them than the `first` one."""
    even = shape.layers / layout.pp
    if not any_of(layout.balanced_stages > 0):
        return minimum(first, even)
    rest = maximum(shape.layers - (layout.pp - 1) * first, 0)
    return minimum(first, where(layout.balanced_stages > 0, rest, even))


def _head_backward_bytes(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes at the backward pass of the head where gradients of weights are added to their buffers as they
    are computed: the 16-bit gradient of the logits, and an empty one of the weight beside it
    (`LinearWithGradAccumulationAndAsyncCommunication` of Megatron-core's tensor_parallel/layers.py).
    """
    logits = logits_bytes(shape, layout, work, whole=work.activation_bytes, split=work.activation_bytes)
    weight = work.parameter_bytes * shape.outputs * shape.head_width / layout.tp
    counts = (work.gradient_placeholders > 0) & (shape.trainable >= 1)
    return where(counts, logits + weight, 0.0)


def logits_bytes(shape: Shape, layout: Layout, work: StepWork, *, whole: Values, split: Values) -> Values:
    """Return the bytes of the logits of one micro-batch, of which each costs `whole` bytes, or `split` where
    tensor-parallel ranks share them. With a pipeline they are on the last stage.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    size = where(layout.tp > 1, split, whole)
    return size * tokens * work.scored_share * shape.outputs / layout.tp
