"""Parameter counts from a config against the classes of transformers: right within a percent or refused, never off."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.huggingface.encoder_decoder import is_encoder_decoder
from carbon_plugin.spec.models.model import TransformerModel
from tests.spec.huggingface.transformers_classes import CAUSAL, IMAGE_TEXT, SEVERAL_STACKS, build, classes, shrunk

WITHIN = 0.01
WITHIN_SHRUNK = 0.025
"""Where few experts and a small vocabulary are left: small parts of single families are not counted."""

REFUSED = {
    "apertus1p5",  # a tokenizer of images made of convolutions
    "blt",  # three transformers and a table of hashes
    "dots3_note",  # a tower of images with experts
    "evolla",  # cross-attention to an encoder of proteins
    "inkling_mm_model",  # a tower of images without layers
    "janus",  # a tokenizer of images made of convolutions
    "longcat_flash",  # experts without weights
    "pi0",  # a second transformer for actions
    "reformer",  # reversible layers
    "unlimited_ocr",  # two towers in one config
    "zamba",  # a block that layers share
    "zamba2",
}

FAMILIES = {
    CAUSAL: """
        apertus biogpt camembert cpmant deepseek_v3 doge exaone4 falcon_h1 gemma3n_text gemma4_text glm4_moe gpt_oss
        jamba jetmoe kimi_linear laguna lfm2 llama mamba2 modernbert-decoder nanochat nemotron_h opt qwen3_next
        recurrent_gemma rwkv xlnet xlstm
    """,
    IMAGE_TEXT: "gemma3 glm4v idefics3 llama4 llava mistral3 mllama qwen2_5_vl qwen2_vl qwen3_vl_moe",
}
"""One or more of each kind of layer, tower and projector."""
SAMPLE = [(table, name) for table, names in FAMILIES.items() for name in names.split()]


def read(config: dict, name: str) -> TransformerModel | str:
    """Return the model of a config, or why it is refused."""
    try:
        return model_from_hf_config(config, name)
    except SpecError as error:
        return str(error)


@pytest.mark.parametrize(("table", "model_type"), SAMPLE, ids=[name for _, name in SAMPLE])
def test_a_family_has_the_parameters_of_its_class(table: str, model_type: str) -> None:
    built = build(table, model_type)
    if built is None:
        pytest.skip(f"{model_type} cannot be built by this version of transformers")

    model = model_from_hf_config(built.config, model_type)

    assert model.parameters == pytest.approx(built.parameters, rel=WITHIN)


@pytest.mark.exhaustive
def test_every_class_is_counted_within_one_percent_or_refused_with_a_next_step() -> None:
    right, off, refused = set(), {}, {}
    for table, model_type in classes():
        built = None if model_type in SEVERAL_STACKS else build(table, model_type)
        if built is None:
            continue
        found = read(built.config, model_type)
        if isinstance(found, str):
            refused[model_type] = found
        elif abs(found.parameters / built.parameters - 1) <= WITHIN:
            right.add((table, model_type))
        else:
            off[model_type] = found.parameters / built.parameters - 1

    assert off == {}
    assert set(refused) <= REFUSED
    assert all("carbon-plugin count" in reason for reason in refused.values())
    assert len(right) >= 0.95 * (len(right) + len(refused))
    assert len(right) > 200


@pytest.mark.exhaustive
def test_layers_are_right_where_neither_experts_nor_vocabulary_hide_them() -> None:
    off = {}
    for table, model_type in classes():
        built = build(table, model_type, shrunk(model_type)) if table == CAUSAL else None
        found = read(built.config, model_type) if built and model_type not in SEVERAL_STACKS else ""
        if isinstance(found, TransformerModel) and abs(found.parameters / built.parameters - 1) > WITHIN_SHRUNK:
            off[model_type] = found.parameters / built.parameters - 1

    assert off == {}


@pytest.mark.exhaustive
def test_encoders_with_a_decoder_are_refused_by_that_name() -> None:
    for table, model_type in classes():
        refused = model_type in SEVERAL_STACKS and not is_encoder_decoder(model_type)
        built = build(table, model_type) if refused else None
        if built is not None:
            found = read(built.config, model_type)
            assert isinstance(found, str), model_type
            assert "encoder" in found
            assert "carbon-plugin count" in found
