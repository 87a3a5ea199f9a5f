"""A config with one key changed counts what transformers builds from it, or is refused: no key is left out silently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from tests.spec.huggingface.transformers_classes import (
    CAUSAL,
    OVERRIDES,
    SEVERAL_STACKS,
    TOKENS,
    build_from,
    classes,
    shrunk,
    whole_config,
)

SAMPLE = ["bailing_hybrid", "ernie4_5_moe", "mimo_v2_flash"]
FEW_LAYERS = 6
WITHIN = 0.025
"""Small parts of single families are not counted, and a small vocabulary and few experts do not hide them."""
NOT_OF_THE_MODEL = frozenset((*TOKENS, "vocab_size", "num_labels", "chunk_size_feed_forward"))
NOT_RUN = {
    ("electra", "embedding_size"),  # a model of 4 M parameters, of which its heads are a part
    ("helium", "head_dim"),  # its heads must share out the hidden width, which the class does not check
    ("helium", "hidden_size"),
    ("helium", "num_attention_heads"),
    (
        "mpt",
        "expansion_ratio",
    ),  # the class of transformers leaves it out, the code that comes with the weights does not
    ("rembert", "num_hidden_layers"),  # three layers beside its wide embedding
    ("roc_bert", "concat_input"),
    ("xlstm", "num_blocks"),  # another name for the number of layers, which the config states too
}
"""Keys that a class reads otherwise than a config that anybody has published can mean."""


def changed(value: Any) -> Iterator[Any]:
    """Yield other values of a key: the other of two, twice and half of a number."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from {2 * value or 1, value // 2} - {value, 0}


def faults_of(model_type: str) -> tuple[list[str], int]:
    """Return the changed keys that are counted otherwise than transformers builds them, and how many were compared."""
    changes = {**shrunk(model_type), "num_hidden_layers": FEW_LAYERS}
    outline = {**OVERRIDES.get(model_type, {}), **changes}
    whole = whole_config(model_type, changes) if "text_config" not in changes else None
    faults, compared = [], 0
    for key, value in (whole or {}).items():
        for other in changed(value) if key not in NOT_OF_THE_MODEL and (model_type, key) not in NOT_RUN else ():
            built = build_from(CAUSAL, model_type, {**outline, key: other})
            if built is None:
                continue
            try:
                found = model_from_hf_config(built.config, model_type).parameters
            except SpecError:
                continue
            compared += 1
            if abs(found / built.parameters - 1) > WITHIN:
                faults.append(f"{key} {other}: {found:,} parameters, {built.parameters:,} built")
    return faults, compared


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_changed_key_changes_the_count_as_it_changes_the_class(model_type: str) -> None:
    faults, compared = faults_of(model_type)

    assert faults == []
    assert compared > 10


@pytest.mark.exhaustive
def test_no_key_of_any_family_is_left_out_without_a_word() -> None:
    off, compared = {}, 0
    for table, model_type in classes():
        if table == CAUSAL and model_type not in SEVERAL_STACKS:
            faults, count = faults_of(model_type)
            compared += count
            if faults:
                off[model_type] = faults

    assert off == {}
    assert compared > 2000
