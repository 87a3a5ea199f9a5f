"""Read encoders of images, videos and spectrograms (ViT and its relatives) from their `config.json`.

They are stacks of equal layers that see all patches of an input. The sequence is those patches and the tokens of the
model's own before them, and its length follows from the config. Sources: the classes of transformers 5.24.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import defaults_note, left_out
from carbon_plugin.spec.huggingface.families import PatchEncoder, patch_encoder_of
from carbon_plugin.spec.huggingface.heads import Head, classifier, head_of, whole_head
from carbon_plugin.spec.huggingface.keys import HEADS, HIDDEN, LAYERS, ConfigKeys, shared_out_heads
from carbon_plugin.spec.huggingface.towers import pooling_of
from carbon_plugin.spec.models.blocks import ModelPart
from carbon_plugin.spec.models.model import TransformerModel

CHANNELS = 3
SWIGLU_ROUND = 8
"""The number of which the inner width of DINOv2's gated layers is a multiple, after two thirds of the plain width."""
PRETRAINED = ("ForPreTraining", "ForMaskedImageModeling")


class _Grid(Struct, frozen=True):
    """One instance holds the patches of an input: their number, the values of each, and a phrase that names both."""

    patches: int
    values: int
    phrase: str


def patch_encoder_model(keys: ConfigKeys, name: str) -> TransformerModel:
    """Return the model of a config of an encoder of patches. Raises `SpecError` naming what is missing or not read."""
    kind = keys.text("model_type")
    known = patch_encoder_of(kind)
    assert known is not None
    filled = left_out(kind, keys.config)
    keys = ConfigKeys({**filled, **keys.config}, keys.origin)
    head = _head(keys)
    if head.outputs is None:
        raise SpecError(
            f"{keys.origin}: {head.name} trains a decoder or an image beside its encoder, which is not modelled; count "
            "it from the code that builds it (`carbon-plugin count`), or name its classifier in architectures"
        )
    hidden, grid = keys.integer(*HIDDEN), _grid(keys, kind)
    own = known.tokens + (keys.optional("num_register_tokens") or 0)
    heads, gated, inner = shared_out_heads(keys), _gated(keys), _inner(keys, hidden)
    tokens = grid.patches + own
    table = known.table or keys.flag("use_absolute_position_embeddings", default=False)
    beside = f" and {own} of its own" if own else ""
    note = f"an encoder of {grid.phrase}: its sequence is {grid.patches} patches{beside}"
    return TransformerModel(
        name=name,
        layers=keys.integer(*LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=inner,
        vocab=0,
        gated=gated,
        qkv_bias=keys.flag("qkv_bias", "qv_bias", default=True),
        learned_positions=grid.patches + known.tokens if table else 0,
        longest_seq_len=tokens,
        causal=False,
        outputs=head.outputs,
        input_tokens=tokens,
        parts=tuple(part for part in _parts(keys, known, grid, hidden, head) if part.parameters),
        source=f"{keys.origin} ({kind})",
        notes=tuple(said for said in (defaults_note(kind, filled), note, head.assumption) if said),
    )


def _grid(keys: ConfigKeys, kind: str) -> _Grid:
    patch = keys.integer("patch_size")
    if kind == "audio-spectrogram-transformer":
        bins, frames = keys.integer("num_mel_bins"), keys.integer("max_length")
        high = (bins - patch) // keys.integer("frequency_stride") + 1
        wide = (frames - patch) // keys.integer("time_stride") + 1
        return _Grid(high * wide, patch * patch, f"spectrograms of {frames} frames (max_length)")
    channels = keys.optional("num_channels") or CHANNELS
    if kind == "siglip2_vision_model":
        patches = keys.integer("num_patches")
        return _Grid(patches, channels * patch * patch, f"images of {patches} patches (num_patches)")
    size = keys.integer("image_size")
    each, phrase = (size // patch) ** 2, f"images of {size} x {size} px (image_size)"
    if shown := keys.optional("num_frames"):
        tubelet = keys.integer("tubelet_size")
        return _Grid(shown // tubelet * each, channels * tubelet * patch * patch, f"{shown} frames, {phrase}")
    return _Grid(each, channels * patch * patch, phrase)


def _gated(keys: ConfigKeys) -> bool:
    return keys.flag("use_swiglu_ffn", "use_gated_mlp", default=False)


def _inner(keys: ConfigKeys, hidden: int) -> int:
    stated = keys.optional("intermediate_size")
    inner = stated or round(keys.number("mlp_ratio", 4.0) * hidden)
    if keys.flag("use_swiglu_ffn", default=False):
        return -(-(2 * inner // 3) // SWIGLU_ROUND) * SWIGLU_ROUND
    return inner


def _head(keys: ConfigKeys) -> Head:
    """Return what the class predicts: a class of the whole input where the config names no class."""
    head = head_of(keys)
    if head.name.endswith(PRETRAINED) and keys.text("model_type") == "beit":  # the visual token of each patch
        return Head(name=head.name, outputs=keys.integer("vocab_size"))
    if head.outputs is None and not head.name:
        return classifier(keys, "")
    return head


def _parts(keys: ConfigKeys, known: PatchEncoder, grid: _Grid, hidden: int, head: Head) -> list[ModelPart]:
    found = [ModelPart(name="patch embedding", parameters=(grid.values + 1) * hidden, products=grid.values * hidden)]
    if keys.flag("use_relative_position_bias", "use_shared_relative_position_bias", default=False):
        side = 2 * round(grid.patches**0.5) - 1
        tables = keys.integer(*LAYERS) if keys.flag("use_relative_position_bias", default=False) else 1
        count = (side * side + 3) * keys.integer(*HEADS) * tables
        found.append(ModelPart(name="relative positions", parameters=count))
    found += [msgspec.structs.replace(part, of_input=False) for part in pooling_of(keys)]
    found += whole_head(head, hidden)
    if known.pooler and not head.outputs and not head.of_whole:
        found.append(ModelPart(name="pooler", parameters=hidden * hidden))
    if keys.text("model_type").startswith("dinov2"):  # the head also sees the mean of the patches
        found += whole_head(head, hidden)
    return found
