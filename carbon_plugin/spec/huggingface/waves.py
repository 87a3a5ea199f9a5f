"""Read encoders of sound waves (wav2vec 2.0, HuBERT and their relatives) from their `config.json`.

Convolutions turn the wave into frames, on which equal layers work that see the whole sound. Sources: the classes of
transformers 5.24; Baevski et al. 2020 (arXiv 2006.11477 section 2).
"""

from __future__ import annotations

import math

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import defaults_note, left_out
from carbon_plugin.spec.huggingface.heads import head_of, whole_head
from carbon_plugin.spec.huggingface.keys import FFN, HIDDEN, LAYERS, ConfigKeys, shared_out_heads
from carbon_plugin.spec.models.blocks import ModelPart
from carbon_plugin.spec.models.model import TransformerModel

SAMPLES_PER_S = 16_000
"""The rate at which these models hear sound (arXiv 2006.11477 section 4.1)."""


def wave_encoder_model(keys: ConfigKeys, name: str) -> TransformerModel:
    """Return the model of a config of an encoder of sound waves. Raises `SpecError` naming what is not read."""
    kind = keys.text("model_type")
    filled = left_out(kind, keys.config)
    keys = ConfigKeys({**filled, **keys.config}, keys.origin)
    if keys.flag("add_adapter", default=False):
        raise SpecError(
            f"{keys.origin}: add_adapter adds convolutions after the layers, which are not modelled; count the model "
            "from the code that builds it (`carbon-plugin count`)"
        )
    hidden, head = keys.integer(*HIDDEN), head_of(keys)
    heads = shared_out_heads(keys)
    strides = keys.indices("conv_stride") or []
    samples = math.prod(strides)
    letters = head.name.endswith("ForCTC")
    outputs = keys.integer("vocab_size") if letters else head.outputs or 0
    note = (
        f"an encoder of sound: training.seq_len counts frames of {samples} samples "
        f"({1000 * samples / SAMPLES_PER_S:g} ms at 16 kHz); what its convolutions keep in memory is not counted"
    )
    return TransformerModel(
        name=name,
        layers=keys.integer(*LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=keys.integer(*FFN),
        vocab=0,
        gated=False,
        qkv_bias=True,
        causal=False,
        outputs=outputs,
        parts=(*_parts(keys, hidden, pretraining=head.name.endswith("ForPreTraining")), *whole_head(head, hidden)),
        source=f"{keys.origin} ({kind})",
        notes=tuple(said for said in (defaults_note(kind, filled), note) if said),
    )


def _parts(keys: ConfigKeys, hidden: int, *, pretraining: bool) -> tuple[ModelPart, ...]:
    widths, kernels, strides = (keys.indices(key) or [] for key in ("conv_dim", "conv_kernel", "conv_stride"))
    if not widths or not len(widths) == len(kernels) == len(strides):
        raise SpecError(f"{keys.origin}: conv_dim, conv_kernel and conv_stride: expected one value of each a layer")
    weights = [before * width * kernel for before, width, kernel in zip([1, *widths], widths, kernels, strict=False)]
    # A layer works at as many places a frame as the strides after it make of one.
    places = [math.prod(strides[layer + 1 :]) for layer in range(len(strides))]
    around = hidden // (keys.optional("num_conv_pos_embedding_groups") or 1) * hidden
    around *= keys.optional("num_conv_pos_embeddings") or 0
    around *= keys.optional("conv_pos_kernel_size") or 1  # data2vec has several narrow ones in place of a wide one
    project = widths[-1] * hidden
    found = [
        ModelPart(
            name="convolutions of the wave",
            parameters=sum(weights) + project,
            products=sum(weight * place for weight, place in zip(weights, places, strict=True)) + project,
        ),
        ModelPart(name="convolution of positions", parameters=around, products=around),
    ]
    if pretraining and (groups := keys.optional("num_codevector_groups")):
        codes, width, final = (
            keys.integer(key) for key in ("num_codevectors_per_group", "codevector_dim", "proj_codevector_dim")
        )
        count = codes * width + widths[-1] * groups * codes + (width + hidden) * final
        found.append(ModelPart(name="quantizer", parameters=count, products=count - codes * width))
    return tuple(found)
