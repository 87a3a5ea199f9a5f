"""Read towers beside a language model from their own configs.

A tower is a stack of equal layers over patches of images or frames of sound. A tower that is not such a stack is
refused by name.
"""

from __future__ import annotations

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import left_out
from carbon_plugin.spec.huggingface.families import has_position_table, tower_of
from carbon_plugin.spec.huggingface.keys import HIDDEN, ConfigKeys
from carbon_plugin.spec.models.blocks import ModelPart

DEPTH = ("num_hidden_layers", "depth", "num_layers", "layers", "encoder_layers", "num_blocks", "vt_num_hidden_layers")
WIDTH = ("embed_dim", "hidden_size", "width", "d_model", "vt_hidden_size")
INNER = ("intermediate_size", "mlp_dim", "encoder_ffn_dim", "vt_intermediate_size")
CHANNELS = ("num_channels", "in_channels", "in_chans")
TEMPORAL = ("temporal_patch_size", "patch_temporal", "video_temporal_patch_size")
MERGE = ("spatial_merge_size", "merge_size", "scale_factor", "downsample_factor", "pixel_shuffle_factor")
MATRICES = {"plain": 2, "gated": 3, "conformer": 6}
"""The number of matrices of hidden width times inner width in one layer, by kind of tower."""
FIXED_SIZE = frozenset({"clip_vision_model", "mllama_vision_model", "siglip_vision_model"})
"""The towers that make the same number of tokens of every image, whatever its size."""
MOBILENET = "mobilenetv5_300m_enc"
MOBILENET_PARAMETERS, MOBILENET_PRODUCTS = 294_126_912, 1_702_115_136
"""The parameters of the tower of Gemma 3n, and its multiply-adds for each of the 256 tokens of an image of 768 x 768
px: counted in timm 1.0.31 on the meta device.
"""
TOWER_HEAD = 64
"""The width of a head where a tower's config states none, as in ViT (arXiv 2010.11929 table 1)."""
AUDIO_CONV = 3
"""The width of the two convolutions before a Whisper encoder (arXiv 2212.04356 section 2.2)."""


def with_defaults(keys: ConfigKeys, whole: str) -> ConfigKeys:
    """Return the config of a tower with its kind, and with what it leaves out because it equals its class's default.

    `whole` is the `model_type` of the config around it.
    """
    kind = keys.text("model_type") or keys.text("name") or whole
    if tower_of(kind) is None or kind == whole:  # older configs name the whole model or nothing
        kind = f"{whole}_vision" if tower_of(f"{whole}_vision") else kind
    own = {key: value for key, value in keys.config.items() if value is not None}
    return ConfigKeys({**left_out(kind, own, nested=True), **own, "model_type": kind}, keys.origin)


def tower(keys: ConfigKeys, name: str) -> ModelPart:
    """Return the tower that a config describes.

    Raises `SpecError` naming its `model_type` if it is no stack of equal layers that is known here.
    """
    kind = keys.text("model_type") or "unknown"
    known = tower_of(kind)
    if known is None:
        raise SpecError(
            f"{keys.origin}: {name} of model_type {kind} is not known here, and nothing is left out of a count "
            "without a word; count the whole model from the code that builds it (`carbon-plugin count`)"
        )
    if known == "convnext":
        return _convnext(keys, name)
    if known == "mobilenet":
        return _mobilenet(keys, name)
    if known == "frames":
        return _frames(keys, name)
    hidden, layers = tower_width(keys), keys.integer(*DEPTH)
    inner = _inner_width(keys, kind, hidden)
    heads, kv = (
        keys.optional("num_heads", "num_attention_heads", "attention_heads"),
        keys.optional("num_key_value_heads"),
    )
    grouped = kv / heads if heads and kv else 1.0
    attention = round(2 * hidden * hidden + 2 * hidden * hidden * grouped)
    qkv = keys.optional("qkv_hidden_size")  # the attention of Kimi-K3 has its own width
    if qkv:
        attention = 4 * hidden * qkv
    layer = attention + MATRICES[known] * hidden * inner + 4 * hidden
    if known == "conformer":  # it has pointwise convolutions too (arXiv 2005.08100)
        layer += 4 * hidden * hidden
    convolutions = keys.names("layer_types").count("conv")  # each has 4 h^2 in place of attention
    spared = convolutions * (4 * hidden * hidden - attention)
    count = (layers + (keys.optional("num_global_layers") or 0)) * layer + spared + _patches(keys, hidden)
    heads = heads or max(1, hidden // TOWER_HEAD)
    return ModelPart(name=name, parameters=count, layers=layers, hidden=hidden, heads=heads, inner=inner)


def pooling_of(keys: ConfigKeys) -> tuple[ModelPart, ...]:
    """Return the layer with which SigLIP makes one output of an image, where there is one: attention of one learned
    query to all patches, so that keys and values alone are computed for each of them.
    """
    if not keys.flag("vision_use_head", default=False):
        return ()
    hidden = tower_width(keys)
    count = 4 * hidden * hidden + 2 * hidden * _inner_width(keys, keys.text("model_type"), hidden) + 4 * hidden
    return (ModelPart(name="pooling layer", parameters=count, products=2 * hidden * hidden, of_input=True),)


def tokens_of(keys: ConfigKeys) -> int | None:
    """Return the tokens that a tower makes of each input, or None where the size of an input is not fixed.

    An encoder of sound states them. One of images has as many as patches in an image of the size of its table of
    positions, and the tower of Llama 3.2 sees all tiles of an image together.
    """
    if frames := keys.optional("max_source_positions"):
        return frames
    kind, patch = keys.text("model_type"), keys.optional("patch_size")
    if kind not in FIXED_SIZE or not patch:
        return None
    patches = (keys.integer("image_size") // patch) ** 2
    own = kind != "siglip_vision_model"  # which has no token for the whole image
    return (patches + own) * (keys.optional("max_num_tiles") or 1)


def tower_width(keys: ConfigKeys) -> int:
    """Return the width of a tower's layers."""
    if sizes := keys.indices("hidden_sizes"):
        return sizes[-1]
    return keys.integer(*WIDTH)


def merged(keys: ConfigKeys, default: int = 1) -> int:
    """Return how many patches become one token of the language model."""
    side = keys.optional(*MERGE)
    if side:
        return side * side
    ratio = keys.number("downsample_ratio", 0.0) or keys.number("pixel_shuffle_ratio", 0.0)
    return round(1 / ratio**2) if ratio else default


def _convnext(keys: ConfigKeys, name: str) -> ModelPart:
    """Return a tower of stages of depthwise convolutions with two pointwise layers each (arXiv 2201.03545
    section 2).
    """
    widths, depths = keys.indices("hidden_sizes") or [], keys.indices("depths") or []
    if not widths or len(widths) != len(depths):
        raise SpecError(f"{keys.origin}: hidden_sizes and depths: expected one value of each a stage")
    ratio, kernel = keys.number("mlp_ratio", 4.0), keys.optional("conv_kernel_size") or 7
    sizes: list[int] = keys.indices("patch_sizes") or [1] * len(widths)
    stages = zip(widths, depths, [1, *widths], sizes, strict=False)
    count = sum(
        depth * round(width * (2 * ratio * width + kernel)) + before * width * step
        for width, depth, before, step in stages
    )
    return ModelPart(name=name, parameters=count, layers=sum(depths), hidden=widths[-1])


def _mobilenet(keys: ConfigKeys, name: str) -> ModelPart:
    """Return the convolutional tower of Gemma 3n, whose config names a network of timm."""
    network = keys.text("architecture") or MOBILENET
    if network != MOBILENET:
        raise SpecError(
            f"{keys.origin}: architecture {network} is not known here, expected {MOBILENET}; count the whole model "
            "from the code that builds it (`carbon-plugin count`)"
        )
    return ModelPart(name=name, parameters=MOBILENET_PARAMETERS, products=MOBILENET_PRODUCTS, of_input=True)


def _frames(keys: ConfigKeys, name: str) -> ModelPart:
    """Return the conformer with which Gemma 3n hears: 24 h^2 a layer, of which 16 are its two feed-forward parts, 5 its
    attention with relative positions and 3 its convolution. It takes no time, for a sound is no image.
    """
    hidden, layers = keys.integer(*HIDDEN), keys.integer("conf_num_hidden_layers")
    bins = (keys.optional("input_feat_size") or 0) // 4 * (keys.indices("sscp_conv_channel_size") or [0])[-1]
    return ModelPart(name=name, parameters=(24 * layers * hidden + bins) * hidden)


def qformer(keys: ConfigKeys, vision_width: int, *, with_text: bool) -> ModelPart:
    """Return a Q-Former (arXiv 2301.12597 section 3.1).

    Every `cross_attention_frequency`-th layer attends to the image.
    """
    hidden, layers = keys.integer(*HIDDEN), keys.integer(*DEPTH)
    inner = keys.integer(*INNER)
    crossing = -(-layers // (keys.optional("cross_attention_frequency") or 1))
    seen = keys.optional("encoder_hidden_size") or vision_width
    count = layers * (4 * hidden * hidden + 2 * hidden * inner) + crossing * 2 * hidden * (hidden + seen)
    if with_text:
        count += layers * 2 * hidden * inner
        count += (keys.integer("vocab_size") + (keys.optional("max_position_embeddings") or 0)) * hidden
    return ModelPart(name="query transformer", parameters=count, layers=layers, hidden=hidden)


def _inner_width(keys: ConfigKeys, kind: str, hidden: int) -> int:
    if kind in ("glm4v_vision", "glm4v_moe_vision"):  # their `intermediate_size` is the merger's
        return keys.integer("out_hidden_size")
    stated = keys.optional(*INNER)
    return stated or round(keys.number("mlp_ratio", 4.0) * hidden)


def _patches(keys: ConfigKeys, hidden: int) -> int:
    """Return the number of parameters of a tower's first layer, and of its table of positions where it has one."""
    if frames := keys.optional("nemo_conv_channels"):  # convolutions leave ten bins of a frame
        return frames * 10 * hidden
    if mels := keys.optional("num_mel_bins"):
        rows = keys.optional("max_source_positions") or 0
        return AUDIO_CONV * hidden * (mels + hidden) + rows * hidden
    patch, channels = keys.optional("patch_size") or 0, keys.optional(*CHANNELS) or 3
    count = channels * patch * patch * (keys.optional(*TEMPORAL) or 1) * hidden
    if positions := keys.optional("num_position_embeddings", "num_patches"):
        return count + positions * hidden
    image = (keys.optional("image_size", "max_img_size") or 0) if has_position_table(keys.text("model_type")) else 0
    return count + (image // patch) ** 2 * hidden if patch else count
