"""A config that lacks a key of its family counts what transformers builds from it, or is refused by the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import carbon_plugin.spec.huggingface.class_defaults as class_defaults_module
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import class_defaults
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.huggingface.families import family_of
from carbon_plugin.spec.huggingface.json_text import read_config
from carbon_plugin.spec.huggingface.layers import EXPERTS
from tests.spec.huggingface.transformers_classes import CAUSAL, SEVERAL_STACKS, classes, whole_config
from tests.spec.huggingface.trimmed_configs import trimmed

WITHIN = 0.01
SAMPLE = ["bamba", "deepseek_v3", "glm4_moe_lite", "jamba", "mixtral", "olmoe", "qwen3_moe", "starcoder2"]
SMALL = {"num_hidden_layers": 4}
"""A model of few layers has another outline than its class, so that no default is right by chance."""


def faults_of(model_type: str, whole: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong, by key, where a config without the key is counted as transformers does not build it, or is
    refused without the name of the key.
    """
    faults = {}
    for key, rest, built in trimmed(CAUSAL, model_type, whole):
        try:
            found = model_from_hf_config(rest, model_type).parameters
        except SpecError as error:
            if key not in str(error):
                faults[key] = str(error)
        else:
            if built is None or abs(found / built.parameters - 1) > WITHIN:
                faults[key] = f"{found:,} parameters, {built.parameters if built else 'none'} built"
    return faults


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_key_that_a_family_needs_is_not_read_by_general_rules(model_type: str) -> None:
    whole = whole_config(model_type, SMALL)
    assert whole is not None

    assert faults_of(model_type, whole) == {}


@pytest.mark.exhaustive
@pytest.mark.parametrize("changes", [{}, SMALL], ids=["as the class is", "of few layers"])
def test_no_key_of_any_family_is_read_by_general_rules(changes: dict[str, int]) -> None:
    faults, compared = {}, 0
    for table, model_type in classes():
        family = family_of(model_type)
        if table != CAUSAL or model_type in SEVERAL_STACKS or family.refused or family.gated is None:
            continue
        whole = whole_config(model_type, changes)
        if whole is None:
            continue
        compared += 1
        faults |= {(model_type, key): fault for key, fault in faults_of(model_type, whole).items()}

    assert faults == {}
    assert compared > 100


@pytest.mark.parametrize(
    ("model_type", "stated", "key"),
    [
        ("qwen3_moe", {"num_experts": 128, "num_experts_per_tok": 8}, "moe_intermediate_size 768"),
        ("olmoe", {"num_experts_per_tok": 8}, "num_experts 64"),
        ("starcoder2", {}, "num_key_value_heads 2"),
    ],
)
def test_a_default_that_counts_is_among_the_notes(model_type: str, stated: dict[str, Any], key: str) -> None:
    outline = {"hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 1000}
    model = model_from_hf_config({"model_type": model_type, "intermediate_size": 4096, **outline, **stated}, "any")

    assert any("class defaults of" in note and key in note and "transformers" in note for note in model.notes)
    assert key in model.source


def test_the_table_of_class_defaults_is_that_of_the_installed_classes() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    differing = {}
    for model_type in SAMPLE:
        fields = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
        differing |= {
            (model_type, key): (value, fields[key])
            for key, value in class_defaults(model_type).items()
            if key in fields and fields[key] != value
        }

    assert differing == {}


def test_no_class_has_defaults_of_two_names_for_its_number_of_experts() -> None:
    table = read_config(Path(class_defaults_module.__file__).parent / "data" / "class-defaults.json")["families"]

    assert [name for name, defaults in table.items() if len(set(EXPERTS) & set(defaults)) > 1] == []
