"""Read the kind of each layer of a `config.json`: how it mixes tokens, and whether its feed-forward part is dense or
sparse.

Configs say this in many ways: as a list by layer, a pattern of letters or a period, or not at all because the family
has one kind of layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.families import Family
from carbon_plugin.spec.huggingface.keys import LAYERS, ConfigKeys
from carbon_plugin.spec.parsing.limits import MOST_LAYERS

MixerPlace = Literal["full", "sliding", "other", "both", "none"]
"""What mixes the tokens of a layer: attention over the whole sequence ("full") or a window ("sliding"), the family's
other module ("other"), that module beside attention ("both"), or nothing ("none").
"""
FeedPlace = Literal["dense", "sparse", "none"]

EXPERTS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
)
SWITCHES = ("is_moe", "use_moe", "enable_moe_block")
"""The keys that switch the experts off although the config states them."""
ONE_EXPERT = frozenset({"hunyuan_v1_moe"})
SPARSE_LISTS = ("mlp_layer_types", "moe_layers", "moe_layers_enum")
"""The keys that list the layers with experts."""
FIRST_DENSE = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", "n_dense_layers")
EVERY = (
    "interleave_moe_layer_step",
    "decoder_sparse_step",
    "moe_layer_interval",
    "moe_layer_freq",
    "moe_layer_frequency",
)

FROM_ZERO = "moe_layer_freq"
"""The key of a period that counts layers from 0 (modeling_deepseek.py); the others count them from 1."""

LISTS = ("layer_types", "layers_block_type", "layer_block_types", "attention_layers")
WINDOW_FLAGS = "hybrid_layer_pattern"
"""The key of MiMo-V2 that says for each layer whether it has a sliding window."""
MIXER_INDICES = ("attn_layer_indices", "full_attn_idxs")
NULL_IS_NONE = frozenset({"attn_layer_indices"})
"""The keys of lists of the layers that have attention, for which null means that none has."""
PLACES: dict[str, MixerPlace] = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "indexed_attention": "full",
    "compressed_sparse_attention": "full",
    "heavily_compressed_attention": "full",
    "hybrid": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "reference_sliding_attention": "sliding",
    "hybrid_sliding": "sliding",
    "local": "sliding",
    "linear_attention": "other",
    "mamba": "other",
    "recurrent": "other",
    "conv": "other",
    "mlp": "none",
    "moe": "none",
}
"""The names of layer types; chunked attention counts as sliding."""
LETTERS: dict[str, str] = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""The letters of the pattern `hybrid_override_pattern` of Nemotron-H."""

ALTERNATING = {"gemma2": 2, "gpt_oss": 2}
"""The families in which every second layer has a sliding window where the config does not list its layers."""


def layer_count(keys: ConfigKeys) -> int:
    """Return the number of layers: the stated one, or the length of the list that names them."""
    if not any(keys.config.get(key) is not None for key in LAYERS) and (listed := layer_names(keys)):
        return len(listed)
    stack = keys.optional("num_layers_per_stack")  # HRM has two stacks that take turns
    layers = 2 * stack if stack else keys.integer(*LAYERS, *LISTS)
    if layers > MOST_LAYERS:
        raise SpecError(f"{keys.origin}: {layers:,} layers, expected at most {MOST_LAYERS:,}")
    return layers


def layer_names(keys: ConfigKeys) -> list[str]:
    """Return the types of the layers by the names in the config, empty where the config does not list them."""
    if pattern := keys.text("hybrid_override_pattern"):
        unknown = sorted(set(pattern) - set(LETTERS))
        if unknown:
            raise SpecError(f"{keys.origin}: hybrid_override_pattern: unknown letters {', '.join(unknown)}")
        return [LETTERS[letter] for letter in pattern]
    if flags := keys.indices(WINDOW_FLAGS):
        return ["sliding_attention" if flag else "full_attention" for flag in flags]
    return next((names for key in LISTS if (names := keys.names(key))), [])


def mixers_of(keys: ConfigKeys, family: Family, window: int | None) -> list[MixerPlace]:
    """Return how each layer mixes its tokens.

    Raises `SpecError` if a layer is not modelled, or if the config does not say which layers have attention.
    """
    layers = layer_count(keys)
    if family.without_attention:
        return ["other"] * layers
    if family.name == "falcon_h1":
        return ["both"] * layers
    if names := layer_names(keys) or _cycled(keys, layers):
        return _listed(keys, family, names, layers)
    others = _other_layers(keys, layers)
    if others is not None:
        return ["other" if layer in others else "full" for layer in range(layers)]
    if family.linear:
        raise SpecError(
            f"{keys.origin}: key {LISTS[0]} is missing (also looked for {', '.join((*LISTS[1:], *MIXER_INDICES))}, "
            f"attn_layer_period, full_attention_interval), which says where {family.name} has attention; add it, or "
            "count the model with `carbon-plugin count`"
        )
    windowed = windowed_layers(keys, family, layers) if window else 0
    return ["sliding" if layer < windowed else "full" for layer in range(layers)]


def _listed(keys: ConfigKeys, family: Family, names: list[str], layers: int) -> list[MixerPlace]:
    unknown = sorted(set(names) - set(PLACES))
    if not family.linear:
        unknown += sorted(name for name in set(names) & set(PLACES) if PLACES[name] == "other")
    if unknown:
        raise SpecError(
            f"{keys.origin}: model_type {family.name} has layers that are not modelled: {', '.join(unknown)}; count "
            "the model with `carbon-plugin count`, from the code that builds it"
        )
    if len(names) < layers:
        raise SpecError(f"{keys.origin}: {len(names)} layers are listed of {layers}")
    return [PLACES[name] for name in names[:layers]]


def _cycled(keys: ConfigKeys, layers: int) -> list[str]:
    """Return the names of the layer types that repeat over the layers, empty where there are none."""
    cycle = keys.names("block_types")
    return [cycle[layer % len(cycle)] for layer in range(layers)] if cycle else []


def _other_layers(keys: ConfigKeys, layers: int) -> set[int] | None:
    """Return the layers that have no attention, where the config names them by index or period, else None."""
    linear = keys.inner("linear_attn_config")
    if linear and (listed := linear.indices("kda_layers")) is not None:  # these are counted from 1
        return {layer - 1 for layer in listed}
    for key in MIXER_INDICES:
        attending = keys.indices(key)
        if attending is not None or (key in keys.config and key in NULL_IS_NONE):
            return set(range(layers)) - set(attending or [])
    if kinds := keys.indices("attn_type_list"):
        return {layer for layer, kind in enumerate(kinds) if kind == 0}
    return _periodic_others(keys, layers)


def _periodic_others(keys: ConfigKeys, layers: int) -> set[int] | None:
    if period := keys.optional("attn_layer_period"):
        offset = keys.optional("attn_layer_offset") or 0
        return {layer for layer in range(layers) if layer % period != offset}
    if interval := keys.optional("layer_group_size", "full_attention_interval"):
        return {layer for layer in range(layers) if (layer + 1) % interval}
    return None


def windowed_layers(keys: ConfigKeys, family: Family, layers: int) -> int:
    """Return the number of layers with a sliding window, for a config that does not list its layers."""
    if family.name.startswith("llama4"):
        return layers - layers // 4
    if letters := keys.text("sliding_window_pattern"):
        return _lettered_windows(keys, letters, layers)
    # The last layer of each group sees the whole sequence.
    if pattern := keys.optional("sliding_window_pattern", "_sliding_window_pattern"):
        return layers - layers // pattern
    if every := keys.optional("global_attn_every_n_layers"):  # ModernBERT: the first of each group sees everything
        return layers - -(-layers // every)
    if full := keys.optional("max_window_layers"):
        return max(0, layers - full)
    return layers // ALTERNATING.get(family.name, 1)


def _lettered_windows(keys: ConfigKeys, letters: str, layers: int) -> int:
    """Return the number of layers with a window by letters that repeat over the layers: L has one, G has none, and
    neither has the last layer (modeling_exaone4.py of transformers 4.54).
    """
    if set(letters) - set("LG"):
        raise SpecError(
            f"{keys.origin}: sliding_window_pattern: expected a whole number or letters L and G, got {letters!r}"
        )
    return sum(letters[layer % len(letters)] == "L" for layer in range(layers - 1))


def has_experts(keys: ConfigKeys, family: Family) -> bool:
    """Return whether any layer is sparse. A single expert counts as a dense layer unless the family routes
    to it too.
    """
    least = 1 if family.name in ONE_EXPERT else 2
    return all(keys.flag(key, default=True) for key in SWITCHES) and (keys.optional(*EXPERTS) or 0) >= least


def feeds_of(keys: ConfigKeys, family: Family) -> list[FeedPlace]:
    """Return for each layer whether its feed-forward part is dense, sparse or missing."""
    layers, names = layer_count(keys), layer_names(keys)
    sparse = _sparse_layers(keys, layers) if has_experts(keys, family) else set()
    if family.name == "nemotron_h":
        return [_own_layer(name) for name in names]
    if "mlp" in names:  # such layers have nothing else, and the others have no feed-forward part
        return ["dense" if name == "mlp" else "none" for name in names]
    if family.without_attention and family.name not in ("rwkv", "xlstm"):
        return ["none"] * layers
    return ["sparse" if layer in sparse else "dense" for layer in range(layers)]


def _own_layer(name: str) -> FeedPlace:
    return "dense" if name == "mlp" else "sparse" if name == "moe" else "none"


def _sparse_layers(keys: ConfigKeys, layers: int) -> set[int]:
    if kinds := keys.names("mlp_layer_types"):
        return {layer for layer, kind in enumerate(kinds) if kind != "dense"}
    if (listed := keys.indices("moe_layers")) is not None:
        return set(listed)
    if listed_text := keys.text("moe_layers_enum"):
        return set(_whole(keys, listed_text.split(",")))
    if (flags := next((found for key in EVERY if (found := keys.indices(key)) is not None), None)) is not None:
        if len(flags) < layers:
            raise SpecError(f"{keys.origin}: {len(flags)} layers are listed as sparse or not, of {layers}")
        return {layer for layer, flag in enumerate(flags[:layers]) if flag}
    if period := keys.optional("expert_layer_period"):
        offset = keys.optional("expert_layer_offset") or 0
        return {layer for layer in range(layers) if layer % period == offset}
    first, every = keys.optional(*FIRST_DENSE) or 0, keys.optional(*EVERY) or 1
    last = keys.optional("moe_layer_end_index")
    end = layers if last is None else min(layers, last + 1)
    dense = set(keys.indices("mlp_only_layers") or [])
    counted_from = 0 if keys.optional(FROM_ZERO) else 1
    return {layer for layer in range(first, end) if (layer + counted_from) % every == 0} - dense


def _whole(keys: ConfigKeys, words: Iterable[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        raise SpecError(f"{keys.origin}: moe_layers_enum: expected layer numbers with commas between them") from None
