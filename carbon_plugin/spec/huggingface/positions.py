"""Read how long a sequence the model of a `config.json` can have, and the rows of its table of learned positions."""

from __future__ import annotations

from carbon_plugin.spec.huggingface.families import Family
from carbon_plugin.spec.huggingface.keys import ConfigKeys

TABLE = ("n_positions", "max_position_embeddings")
LENGTH = (*TABLE, "max_sequence_length", "max_seq_len", "seq_length")
SCALING = ("rope_scaling", "rope_parameters")
ORIGINAL = "original_max_position_embeddings"


def learned_positions(keys: ConfigKeys, family: Family) -> int:
    """Return the number of rows of the table of learned positions, or 0 for a family without one and where the config
    switches it off (DeBERTa v3).
    """
    if family.positions is None or not keys.flag("position_biased_input", default=True):
        return 0
    default, beyond, _ = family.positions
    return (keys.optional(*TABLE) or default) + beyond


def longest_seq_len(keys: ConfigKeys, family: Family) -> int | None:
    """Return the length in tokens of the longest sequence, or None where the config does not state it.

    With a table it is the number of tokens that have a row in it. Rotary positions that are scaled reach further than
    the length before scaling.
    """
    if family.positions is not None and (rows := learned_positions(keys, family)):
        return max(1, rows - family.positions[2])
    stated = next((value for key in LENGTH if type(value := keys.config.get(key)) is int and value > 0), None)
    if stated is None:  # no count needs it, so that an odd value is no reason to refuse a model
        return None
    scaling = next((inner for key in SCALING if (inner := keys.inner(key)) is not None), None)
    if scaling is None:
        return stated
    original = scaling.optional(ORIGINAL) or keys.optional(ORIGINAL) or stated
    return stated if stated > original else max(stated, int(original * scaling.number("factor", 1.0)))
