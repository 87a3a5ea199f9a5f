"""Count the parameters on one device before data parallelism shards them."""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, maximum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape


def device_parameters(shape: Shape, layout: Layout) -> tuple[Values, Values]:
    """Return the parameters on the fullest device before data-parallel sharding: (shared, routed experts).

    They are those of one stage of a pipeline, of which a device may hold several (`Layout.copies`).
    """
    if shape.kinds:
        parts = [_layers_parameters(kind, layout) for kind in shape.kinds]
        shared: Values = sum_of(part[0] for part in parts)
        routed: Values = sum_of(part[1] for part in parts)
    else:
        shared, routed = _layers_parameters(shape, layout)
    return shared + (shape.tables(layout) + shape.beside) / layout.tp, routed


def _layers_parameters(shape: Shape, layout: Layout) -> tuple[Values, Values]:
    """Return the parameters of the layers on a device, without embeddings: (shared, routed experts)."""
    dense_shared, _ = layer_parameters(shape, layout, sparse=False)
    layers = shape.layers / shape.passes / layout.pp
    shared: Values = layers * dense_shared
    routed: Values = 0.0
    if any_of(shape.moe_layers > 0):
        sparse_shared, sparse_routed = layer_parameters(shape, layout, sparse=True)
        share = sparse_share(shape, layout)
        shared = layers * (share * sparse_shared + (1 - share) * dense_shared)
        routed = (layers * share + shape.mtp) * sparse_routed
    return shared, routed


def layer_parameters(shape: Shape, layout: Layout, *, sparse: bool) -> tuple[Values, Values]:
    """Return the parameters of one layer on one device before data-parallel sharding: (shared, routed experts)."""
    per_width = (2 + shape.gated) * shape.hidden
    width = shape.shared_ffn if sparse else shape.ffn
    shared = (shape.attention_params + per_width * width) / layout.tp + 2 * shape.parts * shape.hidden
    if any_of(shape.index_heads > 0):  # every tensor-parallel rank has all of them (`indexer`)
        shared = shared + (1 - 1 / layout.tp) * shape.index_params
    if not sparse:
        return shared, 0.0
    routed = (2 + shape.gated) * shape.expert_hidden * shape.expert_ffn * shape.experts / layout.expert_split
    return shared + shape.hidden * shape.experts, routed


def sparse_share(shape: Shape, layout: Layout) -> Values:
    """Return the share of sparse layers on the stage that has the largest one.

    Where there are several stages, all leading dense layers are on the first one.
    """
    alike = where(layout.pp > 1, shape.layers - shape.first_dense, shape.layers)
    return shape.moe_layers / maximum(alike, 1)
