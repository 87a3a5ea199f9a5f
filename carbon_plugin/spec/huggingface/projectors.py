"""Count the parameters of the modules that turn the output of a tower into tokens of the language model.

There is one function for each design, chosen by the `model_type` of the whole config. Sources: the multimodal
projectors of transformers 5.24, and modeling_phi3_v.py on the hub. `v` is the width of the tower, `h` that of the
language model.
"""

from __future__ import annotations

from collections.abc import Callable

from carbon_plugin.spec.huggingface.keys import ConfigKeys
from carbon_plugin.spec.huggingface.towers import merged, tower_width

VIPLLAVA_LAYERS = 5
"""The number of layers of the tower whose outputs VipLLaVA joins."""
PATCHES = 4
"""The number of patches that most models join into one token."""

CountProjector = Callable[[ConfigKeys, ConfigKeys, int, int], int]
"""A function that gives the number of parameters for (whole config, tower's config, v, h)."""


def projector_parameters(whole: ConfigKeys, vision: ConfigKeys, h: int) -> int:
    """Return the number of parameters between a tower of images and the language model."""
    kind, v = whole.text("model_type"), tower_width(vision)
    found = next((projector for prefixes, projector in PROJECTORS if kind.startswith(prefixes)), _one_layer)
    return found(whole, vision, v, h)


def audio_projector_parameters(whole: ConfigKeys, audio: ConfigKeys, h: int) -> int:
    """Return the number of parameters between a tower of sound and the language model."""
    a = tower_width(audio)
    if whole.text("model_type") == "phi4_multimodal":  # it has one for speech, and one for speech beside images
        return 2 * (a * h + h * h)
    if frames := whole.optional("audio_merge_size"):
        return a * frames * h + h * h
    return a * (audio.optional("output_dim") or h)


def _one_layer(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    return v * merged(whole) * h


def _into_the_shared_space(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of CLIP's projection of images. SigLIP's tower ends in the space itself."""
    return v * (whole.optional("projection_dim") or h) if whole.text("model_type") == "clip" else 0


def _gemma3n(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of a layer, and of an embedding of the tokens that stand for images."""
    return v * h + (vision.optional("vocab_size") or 0) * v


def _two_layers(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    joined = v * merged(whole)
    inner = whole.optional("projector_hidden_size") or h
    return joined * inner + inner * h


def _two_layers_of_the_tower(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two layers over patches of which the tower's config says how many are joined.

    The inner layer is as wide as the joined patches, unless its width is stated.
    """
    joined = v * merged(vision, PATCHES)
    inner = whole.optional("projector_hidden_size") or joined
    return joined * inner + inner * h


def _joined_layers(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two layers over joined patches whose number no key states.

    The inner layer has their joined width, or that of the language model (Phi-3 vision).
    """
    joined = PATCHES * v
    inner = h if whole.text("model_type") == "phi3_v" else joined
    return joined * inner + inner * h


def _vipllava(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    return v * VIPLLAVA_LAYERS * h + h * h


def _janus(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    inner = vision.optional("projection_dim") or h
    return v * inner + inner * h


def _merger(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two layers over joined patches as in Qwen2-VL (arXiv 2409.12191 section 2.1).

    Qwen3-VL has one more such pair for each layer of the tower whose output it also shows the language model.
    """
    wide = v * merged(vision, PATCHES)
    out = vision.optional("out_hidden_size", "hidden_size") or h
    levels = vision.config.get("deepstack_visual_indexes")
    return (1 + (len(levels) if isinstance(levels, list) else 0)) * wide * (wide + out)


def _merger_and_layer(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    return _merger(whole, vision, v, h) + vision.integer("out_hidden_size") * h


def _patch_merger(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of Pixtral's projector, which merges neighbours at the tower's width before two layers."""
    return v * v * merged(whole, PATCHES) + v * h + h * h


def _glm(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of GLM-4V's projector: a convolution over neighbours, a layer and a gated feed-forward
    layer.
    """
    out = vision.integer("out_hidden_size")
    if vision.text("model_type") == "glm_ocr_vision":
        inner = out * (vision.optional("in_channels") or 3)
    else:
        inner = vision.optional("projection_intermediate_size") or vision.integer("intermediate_size")
    return v * out * merged(vision, PATCHES) + out * out + 3 * out * inner


def _gated(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two layers with a gated activation between them, which halves the inner width."""
    inner = whole.integer("alignment_intermediate_size")
    return v * merged(whole, PATCHES) * inner + inner // 2 * h


def _llama4(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    wide, out = vision.integer("projector_input_dim"), vision.integer("projector_output_dim")
    return vision.integer("intermediate_size") * wide + wide * out + vision.integer("vision_output_dim") * h


def _mllama(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of a layer and of a table of positions for each of the nine arrangements of up to four
    tiles.
    """
    arrangements, tiles = 9, vision.optional("max_num_tiles") or 4
    rows = (vision.integer("image_size") // vision.integer("patch_size")) ** 2 + 1
    return vision.integer("vision_output_dim") * h + arrangements * tiles * rows * v


def _muse(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    out, inner = whole.integer("out_hidden_size"), whole.integer("projector_hidden_size")
    return out * inner + inner * inner + inner * h


def _ernie(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two layers over neighbours in space, two over neighbours in time, and one
    out of them.
    """
    wide = v * merged(vision, PATCHES)
    return 5 * wide * wide + wide * h


def _minicpm(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of attention and a feed-forward layer over joined patches in the tower, then two layers out
    of it.
    """
    wide = v * PATCHES
    return 4 * v * v + wide * 4 * wide + 4 * wide * v + wide * wide + wide * h


def _step3(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of two convolutions of 3 x 3 that double the width, and of a layer."""
    return 9 * v * 2 * v + 9 * 2 * v * 4 * v + 4 * v * h


def _aria(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    return 4 * v * v + 3 * h * h


def _ovis2(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of a head over a vocabulary of images, and of the embedding of that vocabulary."""
    rows = vision.integer("vocab_size")
    return rows * v * merged(vision) + rows * whole.integer("hidden_size")


def _convolutions(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of SAM's neck (256 channels), convolutions of 3 x 3 to 512 and 1,024 channels,
    and a layer.
    """
    return 256 * v + 9 * 256 * 256 + 9 * 512 * (256 + 1024) + h * h


def _kosmos2(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of a layer and of one attention with its own queries.

    Kosmos-2.5 also has tables of rows and columns.
    """
    rows = vision.optional("max_num_patches") or 0
    queries = (whole.optional("latent_query_num") or 0) * h if rows else 0
    return 2 * rows * v + v * h + 4 * h * h + queries


def _granite_docling(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters for images at two resolutions, of which 16 and 4 patches are joined, each shown at four
    depths.
    """
    return 4 * (16 + 4) * v * h + 7 * h * h


def _perceiver(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of the perceiver resampler of Idefics2 (arXiv 2405.02246 section 3.2)."""
    own, text = whole.inner("perceiver_config"), whole.inner("text_config")
    if own is None or text is None:
        return v * h
    head = own.integer("resampler_head_dim")
    queries, keys = own.integer("resampler_n_heads") * head, own.integer("num_key_value_heads") * head
    layer = 2 * h * (queries + keys) + 3 * h * 4 * h
    return (2 * v + h) * text.integer("intermediate_size") + own.integer("resampler_depth") * layer


def _molmo2(whole: ConfigKeys, vision: ConfigKeys, v: int, h: int) -> int:
    """Return the parameters of attention that pools patches of two layers of the tower, and of a gated feed-forward
    layer.
    """
    inner = (whole.inner("adapter_config") or whole).integer("intermediate_size")
    return 6 * v * v + 2 * v * inner + inner * h


PROJECTORS: tuple[tuple[tuple[str, ...], CountProjector], ...] = (
    (("clip", "siglip"), _into_the_shared_space),
    (("gemma3n",), _gemma3n),
    (("vipllava",), _vipllava),
    (("llava", "video_llava", "internvl", "qianfan_ocr", "lfm2_vl", "lfm3_vl", "nemotron_h_omni"), _two_layers),
    (("deepseek_vl", "video_llama_3", "phi4_multimodal"), _two_layers),
    (("paddleocr_vl", "cosmos3_edge"), _two_layers_of_the_tower),
    (("kimi_k", "phi3_v"), _joined_layers),
    (("janus",), _janus),
    (("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_5_omni", "qwen3_omni"), _merger),
    (("cosmos3_omni", "exaone4_5"), _merger),
    (("hyperclovax_vision",), _merger_and_layer),
    (("mistral3", "mistral_large4", "lighton_ocr"), _patch_merger),
    (("glm",), _glm),
    (("cohere2_vision", "aya_vision"), _gated),
    (("llama4",), _llama4),
    (("mllama",), _mllama),
    (("muse",), _muse),
    (("ernie4_5_vl",), _ernie),
    (("minicpm",), _minicpm),
    (("step3p7",), _step3),
    (("aria",), _aria),
    (("ovis2",), _ovis2),
    (("got_ocr2", "pp_chart2table"), _convolutions),
    (("kosmos-2",), _kosmos2),
    (("granite_docling",), _granite_docling),
    (("idefics2",), _perceiver),
    (("molmo2",), _molmo2),
)
"""The projectors by the first letters of the `model_type`; any other model has one layer."""
