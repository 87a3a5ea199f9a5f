"""Encoders with a decoder from their configs: parameters against transformers, and odd configs refused by key."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.errors import SpecError
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


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("t5", {"feed_forward_proj": "swish"}, "feed_forward_proj 'swish' is not known here"),
        ("t5", {"d_kv": None}, "key d_kv is missing"),
        ("bart", {"decoder_ffn_dim": 100}, "decoder_ffn_dim is 100, expected 4096 as in the encoder"),
        ("bart", {"encoder_layers": "many"}, "encoder_layers: expected a whole number, got 'many'"),
    ],
)
def test_odd_configs_are_refused_by_their_key(model_type, changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        model_from_hf_config({**built(model_type)[0], **changes}, model_type)
