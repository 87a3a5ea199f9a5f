"""Read the parts of a config beside the layers of its language model: special embeddings, towers and projectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.disentangled import FAMILIES as DISENTANGLED
from carbon_plugin.spec.huggingface.disentangled import disentangled_parts
from carbon_plugin.spec.huggingface.families import Family
from carbon_plugin.spec.huggingface.feeds import image_experts
from carbon_plugin.spec.huggingface.heads import Head, whole_head
from carbon_plugin.spec.huggingface.keys import FFN, HIDDEN, ConfigKeys
from carbon_plugin.spec.huggingface.layers import feeds_of, layer_count
from carbon_plugin.spec.huggingface.projectors import audio_projector_parameters, projector_parameters
from carbon_plugin.spec.huggingface.towers import pooling_of, qformer, tokens_of, tower, tower_width, with_defaults
from carbon_plugin.spec.models.blocks import ModelPart
from carbon_plugin.spec.numbers.amounts import count

LANGUAGE = ("text_config", "llm_config", "language_config")
VISION = ("vision_config", "vit_config", "visual")
MORE_VISION = ("high_res_vision_config",)
AUDIO = ("audio_config",)
NOT_MODULES = (
    "quantization_config",
    "generation_config",
    "compression_config",
    "attn_config",
    "ffn_config",
    "linear_attn_config",
    "per_layer_config",
    "decoder_config",
    "rope_config",
    "moe_config",
    "mup_config",
)
"""The keys of nested settings that hold no parameters of their own."""
NOTICEABLE = 0.01
"""The share of the parameters from which on a part is mentioned."""
CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}
"""The config of openai/clip-vit-large-patch14-336, which Phi-3 vision names in place of a config
(modeling_phi3_v.py).
"""


def parts_of(whole: ConfigKeys, keys: ConfigKeys, family: Family, gated: bool, head: Head) -> tuple[ModelPart, ...]:
    """Return the parts with parameters; `whole` is the whole config, `keys` the config of its language model."""
    found = [
        *_embeddings(keys, head),
        *_before_head(keys, family, head),
        *whole_head(head, keys.integer(*HIDDEN)),
        *(disentangled_parts(keys) if family.name in DISENTANGLED else []),
        *_towers(whole, keys),
        *_more_layers(keys, family, gated),
    ]
    return tuple(part for part in found if part.parameters)


def parts_note(parts: Sequence[ModelPart], parameters: int) -> str:
    """Return a note that names towers and other parts with a noticeable share of `parameters`, and says what time they
    take.

    The note is empty where there are none.
    """
    named = [part for part in parts if part.layers or part.parameters >= NOTICEABLE * parameters]
    if not named:
        return ""
    listed = ", ".join(f"{part.name} {count(part.parameters, 2)}" for part in named)
    towers = any(part.layers or part.of_input for part in named)
    timed = "the time of a tower is that of the inputs in training.input_len" if towers else "they take no time"
    return f"beside its layers: {listed}; counted and kept in memory, {timed}"


def _towers(whole: ConfigKeys, keys: ConfigKeys) -> list[ModelPart]:
    """Return the towers and what joins them to the language model.

    Raises `SpecError` naming a nested module that is not known.
    """
    found, hidden = [], keys.integer(*HIDDEN)
    kind = whole.text("model_type")
    known = (
        *LANGUAGE,
        *VISION,
        *AUDIO,
        *NOT_MODULES,
        "img_processor",
        "qformer_config",
        "adapter_config",
        "perceiver_config",
        *MORE_VISION,
    )
    for key, value in whole.config.items():
        if key.endswith("_config") and key not in known and isinstance(value, Mapping) and _holds_layers(value):
            raise SpecError(
                f"{whole.origin}: {key} describes a part that is not known here, and nothing is left out of a count "
                "without a word; count the whole model from the code that builds it (`carbon-plugin count`)"
            )
    vision = next((with_defaults(inner, kind) for key in VISION if (inner := whole.inner(key)) is not None), None)
    if (named := whole.inner("img_processor")) is not None and vision is None:
        vision = named.with_changes(CLIP_LARGE)
    if vision is not None:
        found += [tower(vision, "vision tower"), *pooling_of(vision)]
        if kind == "video_llava":
            found.append(tower(vision, "video tower"))
        if former := whole.inner("qformer_config"):
            found.append(qformer(former, tower_width(vision), with_text=kind.startswith("instructblip")))
            found.append(ModelPart(name="projector", parameters=former.integer(*HIDDEN) * hidden))
        else:
            found.append(ModelPart(name="projector", parameters=projector_parameters(whole, vision, hidden)))
    if kind == "fuyu":
        patch = whole.integer("patch_size")
        found.append(
            ModelPart(name="patch embedding", parameters=(whole.optional("num_channels") or 3) * patch**2 * hidden)
        )
    found += [tower(inner, "second vision tower") for key in MORE_VISION if (inner := whole.inner(key)) is not None]
    for key in AUDIO:
        if (audio := whole.inner(key)) is not None:
            found.append(tower(audio, "audio tower"))
            found.append(ModelPart(name="audio projector", parameters=audio_projector_parameters(whole, audio, hidden)))
    return found


def tower_tokens(whole: ConfigKeys) -> int | None:
    """Return the tokens that the one tower of a model makes of each image or sound, or None where the config does not
    fix them or where there are several towers.
    """
    inner = [found for key in (*VISION, *MORE_VISION, *AUDIO) if (found := whole.inner(key)) is not None]
    if whole.inner("img_processor") is not None or len(inner) != 1:
        return None
    return tokens_of(with_defaults(inner[0], whole.text("model_type")))


def _holds_layers(config: Mapping[str, object]) -> bool:
    return any(key in config for key in ("hidden_size", "num_hidden_layers", "depth", "embed_dim", "d_model"))


def _embeddings(keys: ConfigKeys, head: Head) -> list[ModelPart]:
    hidden = keys.integer(*HIDDEN)
    found = []
    if narrow := keys.optional("hidden_size_per_layer_input"):  # Gemma 3n and 4 have these
        wide = layer_count(keys) * narrow
        rows = keys.optional("vocab_size_per_layer_input") or keys.integer("vocab_size")
        products = 3 * hidden * wide  # one projection to all layers, and in each layer a gate and a way back
        found.append(ModelPart(name="per-layer embeddings", parameters=rows * wide + products, products=products))
    if streams := keys.optional("altup_num_inputs"):
        count = 2 * (streams - 1) * hidden * hidden
        found.append(ModelPart(name="alternating updates", parameters=count, products=count))
    if rank := keys.optional("laurel_rank"):
        count = 2 * layer_count(keys) * hidden * rank
        found.append(ModelPart(name="learned residuals", parameters=count, products=count))
    if backbone := keys.optional("backbone_hidden_size"):  # a drafter reads the states of a larger model
        found.append(ModelPart(name="projections of the larger model", parameters=3 * backbone * hidden))
    width = keys.optional("word_embed_proj_dim", "embedding_size", "input_embedding_size")
    if width and width != hidden:
        count = (2 if head.outputs is None else 1) * width * hidden
        found.append(ModelPart(name="embedding projections", parameters=count, products=count))
    if output := keys.optional("output_embedding_size"):
        more = keys.integer("vocab_size") * (output - (width or hidden)) + output * hidden
        found.append(ModelPart(name="wider output embedding", parameters=max(0, more)))
    if shapes := keys.optional("shape_vocab_size"):  # RoCBert embeds shapes and sounds of characters
        shape, sound = keys.integer("shape_embed_dim"), keys.integer("pronunciation_embed_dim")
        sounds = keys.integer("pronunciation_vocab_size")
        count = shapes * shape + sounds * sound + hidden * (hidden + shape + sound)
        found.append(ModelPart(name="shape and sound embeddings", parameters=count))
    return found


def _more_layers(keys: ConfigKeys, family: Family, gated: bool) -> list[ModelPart]:
    """Return the layers and experts that only the output of a tower passes."""
    found, hidden = [], keys.integer(*HIDDEN)
    if one := image_experts(keys, gated):
        found.append(ModelPart(name="experts for images", parameters=feeds_of(keys, family).count("sparse") * one))
    if every := keys.optional("cross_layer_interval"):  # Idefics: a layer of cross-attention before each such group
        vision = keys.inner("vision_config")
        seen = tower_width(vision) if vision else hidden
        layer = 2 * hidden * (hidden + seen) + 3 * hidden * keys.integer(*FFN)
        count = layer_count(keys) // every
        found.append(ModelPart(name="cross-attention layers", parameters=count * layer, layers=count, hidden=hidden))
    return found


def _before_head(keys: ConfigKeys, family: Family, head: Head) -> list[ModelPart]:
    """Return the dense layer before the head: before the vocabulary of a masked language model, where it works on every
    token, or before the classes of a whole text.
    """
    hidden = keys.integer(*HIDDEN)
    if family.name == "modernbert-decoder":
        biases = keys.flag("classifier_bias", default=False) * hidden
        biases += keys.flag("decoder_bias", default=True) * keys.integer("vocab_size")
        count = hidden * hidden + hidden + biases
        return [ModelPart(name="language-model head", parameters=count, products=hidden * hidden)]
    if not family.encoder:
        return []
    if head.outputs is None:
        count = 0 if family.bare_head else hidden * hidden
        of_two_texts = family.pooler and head.name.endswith("ForPreTraining")  # whether the second follows the first
        return [
            ModelPart(name="language-model head", parameters=count, products=count),
            ModelPart(name="pooler", parameters=of_two_texts * hidden * hidden),
        ]
    pooled = head.pooled and (head.outputs > 0 or head.of_whole > 0 or family.pooler)
    return [ModelPart(name="pooler", parameters=pooled * hidden * hidden)]
