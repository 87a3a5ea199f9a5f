"""Hugging Face configs: every trap of the format, on the configs that published models carry."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hf_config import load_hf_config, model_from_hf_config
from carbon_plugin.spec.model import MixtureOfExperts, MultiLatentAttention

DATA = Path(__file__).parent / "data"


def config(name: str, **changes: Any) -> dict[str, Any]:
    stated = json.loads((DATA / f"{name}.json").read_text()) | changes
    return {key: value for key, value in stated.items() if value != "absent"}


def model(name: str, **changes: Any):
    return model_from_hf_config(config(name, **changes), name)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("gpt2", 124_439_808),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("gpt-oss-20b", 20_914_757_184),
        ("gemma-3-4b", 3_880_099_328),  # the language model of the 4.3 B
        ("llama-4-scout", 107_769_861_120),  # the language model of the 109 B
    ],
)
def test_a_config_gives_the_parameters_of_its_checkpoint(name, parameters):
    assert model(name).parameters == pytest.approx(parameters, rel=2e-3)


def test_deepseek_v3_without_its_prediction_layer_has_671_billion_parameters():
    assert model("deepseek-v3", num_nextn_predict_layers=0).parameters == pytest.approx(671.03e9, rel=1e-3)


def test_the_rotary_part_is_not_taken_for_the_head_of_latent_attention():
    deepseek = model("deepseek-v3")

    assert deepseek.mla == MultiLatentAttention(
        q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    assert (deepseek.head_dim, deepseek.qk_head_dim, deepseek.v_head_dim) == (192, 192, 128)


def test_the_prediction_layer_is_counted_and_said():
    assert model("deepseek-v3").mtp_layers == 1
    assert "multi-token-prediction" in model("deepseek-v3").source


def test_shared_experts_and_leading_dense_layers_are_read():
    assert model("deepseek-v3").moe == MixtureOfExperts(
        experts=256, top_k=8, expert_ffn=2048, shared_ffn=2048, first_dense_layers=3
    )


def test_the_feed_forward_width_of_mixtral_is_that_of_an_expert():
    assert model("mixtral-8x7b").moe == MixtureOfExperts(experts=8, top_k=2, expert_ffn=14336)


def test_the_width_of_qwen_experts_is_not_that_of_its_dense_layers():
    qwen = model("qwen3-30b-a3b")

    assert (qwen.ffn, qwen.head_dim) == (6144, 128)
    assert qwen.moe == MixtureOfExperts(experts=128, top_k=8, expert_ffn=768)


def test_dense_layers_of_qwen_that_are_listed_are_not_sparse():
    assert model("qwen3-30b-a3b", mlp_only_layers=[0, 1]).moe_layers == 46


def test_llama_4_has_a_shared_expert_and_its_own_key_for_dense_layers():
    scout = model("llama-4-scout")

    assert scout.ffn == 16384
    assert scout.moe == MixtureOfExperts(experts=16, top_k=1, expert_ffn=8192, shared_ffn=8192)


def test_gpt2_without_a_stated_width_has_four_times_the_hidden_one():
    gpt2 = model("gpt2")

    assert gpt2.ffn == 4 * 768
    assert not gpt2.gated
    assert gpt2.tied_embeddings
    assert gpt2.qkv_bias
    assert gpt2.learned_positions == 1024


def test_a_family_that_ties_embeddings_by_default_need_not_say_so():
    assert model("gemma-3-4b").tied_embeddings
    assert not model("gpt2", tie_word_embeddings=False).tied_embeddings


def test_a_family_that_does_not_tie_embeddings_by_default_need_not_say_so():
    assert not model("llama-3.1-8b", tie_word_embeddings="absent").tied_embeddings
    assert model("llama-3.1-8b", tie_word_embeddings=True).tied_embeddings


def test_the_language_model_of_a_multimodal_config_is_used():
    gemma = model("gemma-3-4b")

    assert (gemma.layers, gemma.hidden, gemma.heads, gemma.head_dim) == (34, 2560, 8, 256)


def test_missing_key_value_heads_mean_as_many_as_heads():
    assert model("llama-3.1-8b", num_key_value_heads=None).kv_heads == 32


def test_a_window_that_is_switched_off_does_not_count():
    assert model("qwen2.5-7b").sliding_window is None
    assert model("mixtral-8x7b").sliding_window is None
    assert model("qwen2.5-7b", use_sliding_window="absent").sliding_window is None


def test_a_window_on_every_layer_and_on_every_second_one_counts():
    mistral, oss = model("mistral-7b-v0.1"), model("gpt-oss-20b")

    assert (mistral.sliding_window, mistral.sliding_window_layers) == (4096, None)
    assert (oss.sliding_window, oss.sliding_window_layers) == (128, 12)
    assert model("gpt-oss-20b", layer_types="absent").sliding_window_layers == 12


def test_a_window_on_the_upper_layers_counts_by_their_share():
    halves = model("qwen2.5-7b", use_sliding_window=True, max_window_layers=14)

    assert (halves.sliding_window, halves.sliding_window_layers) == (131072, 14)


def test_a_window_on_five_of_six_layers_counts_them():
    gemma = model("gemma-3-4b")

    assert (gemma.sliding_window, gemma.sliding_window_layers, gemma.layers) == (1024, 29, 34)


def test_an_unknown_family_is_read_with_its_assumption_said():
    assert "gated feed-forward assumed" in model("llama-3.1-8b", model_type="brandnew").source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type bert is not a decoder-only transformer"),
        ({"is_encoder_decoder": True}, "is not a decoder-only transformer"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers that are not modelled: linear_attention"),
        ({"mamba_d_state": 16}, "layers that are not modelled: mamba_d_state"),
        ({"hidden_size": "absent"}, r"key hidden_size is missing \(also looked for n_embd, d_model\)"),
        ({"vocab_size": None}, "key vocab_size is missing$"),
        ({"hidden_size": "4096"}, "hidden_size: expected a whole number, got '4096'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected a positive integer"),
        ({"num_attention_heads": 3}, "hidden_size 4096 is not a multiple of num_attention_heads 3"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: expected a whole number, got -1"),
        ({"num_key_value_heads": 5}, "heads 32 is not a multiple of kv_heads 5"),
        ({"num_local_experts": 8}, "key num_experts_per_tok is missing"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_key(changes, message):
    with pytest.raises(SpecError, match=message) as refused:
        model("llama-3.1-8b", **changes)

    assert str(refused.value).startswith("config.json: ")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)


@given(st.data())
@settings(max_examples=200)
def test_any_value_under_any_key_gives_a_model_or_a_spec_error(data):
    stated = config(data.draw(st.sampled_from(["llama-3.1-8b", "deepseek-v3", "gpt2", "gpt-oss-20b", "qwen3-30b-a3b"])))
    key = data.draw(st.sampled_from(sorted(stated)))

    with suppress(SpecError):
        model_from_hf_config(stated | {key: data.draw(VALUES)}, "any")


def test_a_model_is_named_after_what_its_file_says(tmp_path: Path):
    folder = tmp_path / "our-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("gpt2")))

    assert load_hf_config(folder).name == "our-model"
    assert load_hf_config(folder / "config.json").name == "our-model"
    assert load_hf_config(folder, "mine").name == "mine"
    (folder / "config.json").write_text(json.dumps(config("gpt2", _name_or_path="org/named")))
    assert load_hf_config(folder).name == "named"
    assert load_hf_config(DATA / "gpt2.json").name == "gpt2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a mapping, got list"),
        (b"\xff", "not valid JSON"),
        (b"{}", "key num_hidden_layers is missing"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_name(tmp_path: Path, content, message):
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(SpecError, match=rf"config\.json: {message}"):
        load_hf_config(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SpecError, match=r"config\.json: no such file, expected a Hugging Face config\.json$"):
        load_hf_config(tmp_path)
