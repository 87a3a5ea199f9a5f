"""Encoders with a decoder from their configs: parameters against transformers, and odd configs refused by key."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import OUTLINE, UNREMARKED, class_defaults
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.huggingface.encoder_decoder import FAMILIES


def built(model_type: str, **changes: Any) -> tuple[dict[str, Any], int]:
    """Return the config that transformers writes for a class, and the parameters of the class."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **changes)
    table = transformers.AutoModelForSpeechSeq2Seq if model_type == "whisper" else transformers.AutoModelForSeq2SeqLM
    with torch.device("meta"):
        model = table.from_config(config)
    return config.to_dict(), model.num_parameters()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_parameters_are_those_of_the_class(model_type) -> None:
    config, parameters = built(model_type)
    assert model_from_hf_config(config, model_type).parameters == pytest.approx(parameters, rel=1e-4)


def test_gates_and_layers_of_the_decoder_are_read() -> None:
    config, parameters = built("t5", feed_forward_proj="gated-gelu", num_decoder_layers=3, tie_word_embeddings=False)
    assert model_from_hf_config(config, "t5").parameters == pytest.approx(parameters, rel=1e-4)


@pytest.mark.parametrize("model_type", ["bart", "marian", "mbart", "whisper"])
def test_an_output_of_its_own_is_counted_where_the_config_unties_it(model_type: str) -> None:
    config, parameters = built(model_type, tie_word_embeddings=False)

    assert model_from_hf_config(config, model_type).parameters == pytest.approx(parameters, rel=2e-4)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("mvp", {"use_prompt": True}, "use_prompt adds learned prompts to every attention of mvp"),
        ("t5", {"feed_forward_proj": "swish"}, "feed_forward_proj 'swish' is not known here"),
        ("t5", {"d_kv": None}, "key d_kv is missing"),
        ("bart", {"decoder_ffn_dim": 100}, "decoder_ffn_dim is 100, expected 4096 as in the encoder"),
        ("bart", {"encoder_layers": "many"}, "encoder_layers: expected a whole number, got 'many'"),
    ],
)
def test_odd_configs_are_refused_by_their_key(model_type, changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        model_from_hf_config({**built(model_type)[0], **changes}, model_type)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_config_leaves_out_is_that_of_its_class_and_named(model_type: str) -> None:
    config, parameters = built(model_type)
    defaults = [key for key in class_defaults(model_type) if key not in OUTLINE]

    trimmed = {key: value for key, value in config.items() if key not in (*defaults, "num_decoder_layers")}
    model = model_from_hf_config(trimmed, model_type)

    assert model.parameters == pytest.approx(parameters, rel=1e-4)
    (said,) = [note for note in model.notes if note.startswith(f"class defaults of {model_type} for ")]
    assert all(f"{key} " in said for key in defaults if key not in UNREMARKED)
    assert not [note for note in model_from_hf_config(config, model_type).notes if "class defaults" in note]


def test_heads_that_do_not_share_out_the_width_are_refused() -> None:
    config, _ = built("bart")

    with pytest.raises(SpecError, match="d_model 1024 is not a multiple of encoder_attention_heads 12"):
        model_from_hf_config({**config, "encoder_attention_heads": 12, "decoder_attention_heads": 12}, "bart")
