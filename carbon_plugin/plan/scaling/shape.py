"""Choose a model shape for a number of parameters, by continuing the family of Llama 3 to any size.

Llama 3's three sizes have 4,096 x 32, 8,192 x 80 and 16,384 x 126 (arXiv 2407.21783, table 3): width over depth near
128, heads of 128, 8 key/value heads, gated feed-forward layers 3.5 times as wide as the model. The vocabulary is that
of the scaling study, 32,000 (arXiv 2203.15556), so that small models are not mostly embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from carbon_plugin.plan.scaling.laws import EXPANSION, GRANULARITY
from carbon_plugin.spec.models.model import MixtureOfExperts, TransformerModel

ASPECT = 128
HEAD_DIM = 128
KV_HEADS = 8
FFN_RATIO = 3.5
VOCAB = 32_000
ASPECT_WEIGHT = 0.1
"""A shape that is 10 % off in aspect counts as far away as one that is 1 % off in parameters."""


def model_of(parameters: float, *, sparse: bool = False) -> TransformerModel:
    """Return the shape of this family that is nearest to this number of (active) parameters.

    Widths are multiples of 1,024 from 4,096 on, of 512 from 1,024 on, of 128 below; depths multiples of 8 from 64
    layers on, of 4 from 32 on: what tensor and pipeline parallelism divide. A sparse one has the same shape with each
    feed-forward layer split into `GRANULARITY` experts, of which `EXPANSION` times as many are there.
    """
    best = min(_shapes(parameters), key=lambda model: _distance(model, parameters))
    if not sparse:
        return best
    experts = MixtureOfExperts(
        experts=EXPANSION * GRANULARITY, top_k=GRANULARITY, expert_ffn=max(1, best.ffn // GRANULARITY)
    )
    return msgspec.structs.replace(best, name=f"{best.name}-moe", moe=experts)


def _shapes(parameters: float) -> Iterator[TransformerModel]:
    # Without embeddings N is about 12.5 * hidden^2 * layers, and layers = hidden / ASPECT.
    ideal = (parameters * ASPECT / (2 + 3 * FFN_RATIO)) ** (1 / 3)
    step = _width_step(ideal)
    first = max(step, int(0.7 * ideal / step) * step)
    for hidden in range(first, int(1.3 * ideal) + 2 * step, step):
        thin = _model(hidden, 1)
        layer = _model(hidden, 2).parameters - thin.parameters
        exact = max(1.0, 1 + (parameters - thin.parameters) / layer)
        multiple = 8 if exact >= 64 else 4 if exact >= 32 else 1
        for layers in {max(1, math.floor(exact / multiple) * multiple), math.ceil(exact / multiple) * multiple}:
            yield _model(hidden, layers)


def _width_step(hidden: float) -> int:
    return 1024 if hidden >= 4096 else 512 if hidden >= 1024 else 128


def _model(hidden: int, layers: int) -> TransformerModel:
    heads = hidden // HEAD_DIM
    return TransformerModel(
        name=f"{hidden}x{layers}",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=math.gcd(heads, KV_HEADS),
        head_dim=HEAD_DIM,
        ffn=int(FFN_RATIO * hidden),
        vocab=VOCAB,
        source="Llama 3's proportions at another size (docs/scaling.md)",
    )


def _distance(model: TransformerModel, parameters: float) -> float:
    aspect = math.log(model.hidden / model.layers / ASPECT)
    return abs(math.log(model.parameters / parameters)) + ASPECT_WEIGHT * abs(aspect)
