"""Read how often each token passes a layer: models with loops run some or all of their layers several times."""

from __future__ import annotations

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.keys import ConfigKeys

WHOLE_LOOPS = "total_ut_steps"
"""The key of models whose tokens pass the whole stack of layers so many times (Ouro, arXiv 2510.25741)."""
INNER_LOOPS = ("n_recurrent_loops", "loop_num_passes")
"""The keys of models whose tokens pass layers in the middle of the stack so many times (modeling_dory.py and
modeling_inkling2_loop.py of transformers 5.24)."""
TURNS = "H_cycles"
"""The key of a model of two stacks that take turns: the lower is passed `L_cycles` times before each pass of the higher
(modeling_hrm_text.py of transformers 5.24)."""
TURNS_NOTE = "of the passes of its lower stack only some have gradients, and all are priced as if they had"


def passes_of(keys: ConfigKeys, layers: int) -> list[int]:
    """Return how often a token passes each of `layers` layers. Raises `SpecError` naming the key that does not say
    which layers are passed again.
    """
    if turns := keys.optional(TURNS):
        lower = turns * _stated(keys, "L_cycles")
        return [lower if layer < layers // 2 else turns for layer in range(layers)]
    passes = keys.optional(WHOLE_LOOPS) or 1
    again = keys.optional(*INNER_LOOPS) or 1
    first, end = _looped(keys, layers) if again > 1 else (0, 0)
    return [passes * (again if first <= layer < end else 1) for layer in range(layers)]


def _looped(keys: ConfigKeys, layers: int) -> tuple[int, int]:
    """Return the first layer that is passed again, and the first after those."""
    if INNER_LOOPS[0] in keys.config:
        first = _stated(keys, "n_input_layers")
        inner = keys.optional("n_recurrent_layers")
        return first, layers - _stated(keys, "n_output_layers") if inner is None else first + inner
    return _stated(keys, "loop_layer_index_start"), _stated(keys, "loop_layer_index_end")


def _stated(keys: ConfigKeys, key: str) -> int:
    count = keys.optional(key)
    if count is None:
        raise SpecError(
            f"{keys.origin}: key {key} is missing, which says which layers a token passes again, or how often"
        )
    return count
