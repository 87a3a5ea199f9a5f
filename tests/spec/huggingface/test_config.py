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
from carbon_plugin.spec.huggingface.config import load_hf_config, model_from_hf_config
from carbon_plugin.spec.models.model import MixtureOfExperts, MultiLatentAttention

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
        ("gemma-3-4b", 4_300_079_472),  # with its vision tower
        ("llama-4-scout", 108_641_793_536),  # with its vision tower
        ("deepseek-v3", 671_026_419_200),  # without its prediction layer
    ],
)
def test_a_config_gives_the_parameters_of_its_checkpoint(name, parameters):
    assert model(name).parameters == pytest.approx(parameters, rel=2e-3)


def test_norms_of_queries_and_keys_are_those_of_the_family_or_of_a_key():
    assert [model(name).qk_norm for name in ("qwen3-30b-a3b", "gemma-3-4b", "qwen2.5-7b")] == [True, True, False]
    assert [model("llama-3.1-8b", use_qk_norm=said).qk_norm for said in (True, False)] == [True, False]


def test_the_rotary_part_is_not_taken_for_the_head_of_latent_attention():
    deepseek = model("deepseek-v3")

    assert deepseek.mla == MultiLatentAttention(
        q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    assert (deepseek.head_dim, deepseek.qk_head_dim, deepseek.v_head_dim) == (192, 192, 128)


def test_a_prediction_layer_is_priced_and_named_and_in_no_parameter_count():
    with_it, without = model("deepseek-v3"), model("deepseek-v3", num_nextn_predict_layers=0)

    assert (with_it.mtp_layers, without.mtp_layers) == (1, 0)
    assert with_it.parameters == without.parameters
    assert with_it.active_parameters == without.active_parameters
    assert with_it.mtp_parameters == pytest.approx(11.6e9, rel=0.01)
    assert any("11.6 B parameters more in 1 layer that only predicts" in remark for remark in with_it.remarks)


def test_shared_experts_and_leading_dense_layers_are_read():
    assert model("deepseek-v3").moe == MixtureOfExperts(
        experts=256, top_k=8, expert_ffn=2048, shared_ffn=2048, first_dense_layers=3, groups=8, groups_per_token=4
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
    assert gpt2.written_gelu
    assert not model("gpt2", activation_function="gelu").written_gelu


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


def test_an_unknown_family_is_refused_until_its_feed_forward_layer_is_stated():
    foreign = config("llama-3.1-8b", model_type="brandnew", auto_map={"AutoConfig": "configuration_brandnew.Config"})
    with pytest.raises(
        SpecError, match=r"model_type brandnew \(its code comes with the weights: auto_map\) is not known"
    ):
        model_from_hf_config(foreign, "any")

    gated = model_from_hf_config(foreign, "any", stated={"gated": True})
    plain = model_from_hf_config(foreign, "any", stated={"gated": False})

    assert gated.parameters == pytest.approx(8_030_261_248, rel=2e-3)
    assert gated.parameters - plain.parameters == 32 * 4096 * 14336


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "absent"}, "key model_type is missing"),
        ({"model_type": "led"}, "model_type led is an encoder with a decoder"),
        ({"model_type": "t5", "architectures": ["T5Model"]}, "key d_model is missing"),
        ({"model_type": "zamba2"}, "model_type zamba2 shares transformer blocks among several layers"),
        ({"is_encoder_decoder": True}, "is an encoder with a decoder, which is not modelled; count it"),
        (
            {"vision_config": {"model_type": "brandnew_vision"}},
            "vision tower of model_type brandnew_vision is not known",
        ),
        ({"depth_config": {"hidden_size": 8}}, "depth_config describes a part that is not known here"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers that are not modelled: linear_attention"),
        ({"hidden_size": "absent"}, r"key hidden_size is missing \(also looked for n_embd, d_model"),
        ({"vocab_size": None}, "key vocab_size is missing \\(also looked for padded_vocab_size\\)$"),
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
    ("stated", "name"),
    [
        ("./", "our-model"),
        ("..", "our-model"),
        ("", "our-model"),
        (None, "our-model"),
        ("meta-llama/Llama-2-7b-hf", "Llama-2-7b-hf"),
        ("runs/my-llama/checkpoint-500/", "my-llama"),
        (
            "/cache/models--meta-llama--Llama-2-7b-hf/snapshots/8cca527612d856d7d32bd94f8103728d614eb852",
            "Llama-2-7b-hf",
        ),
    ],
)
def test_a_path_that_names_no_model_gives_its_name_to_none(tmp_path: Path, stated, name):
    folder = tmp_path / "our-model" / "checkpoint-20"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config("gpt2", _name_or_path=stated)))

    assert load_hf_config(folder).name == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a mapping, got list"),
        (b"\xff", "cannot be read: not UTF-8"),
        (b"\xef\xbb\xbf{}", "key model_type is missing"),  # a byte order mark is no fault
        (b"[" * 100_000, "not valid JSON: it is nested too deeply"),
        (b"{}", "key model_type is missing"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_name(tmp_path: Path, content, message):
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(SpecError, match=rf"config\.json: {message}"):
        load_hf_config(tmp_path)


CASES = DATA / "hf_configs"


@given(st.data())
@settings(max_examples=200)
def test_any_value_in_the_config_of_a_tower_or_a_hybrid_gives_a_model_or_a_spec_error(data):
    stated = json.loads(data.draw(st.sampled_from(sorted(CASES.glob("*.json")))).read_text())
    inner = [key for key, value in stated.items() if isinstance(value, dict) and value]
    part = stated[data.draw(st.sampled_from(inner))] if inner else stated
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(VALUES)

    with suppress(SpecError):
        model_from_hf_config(stated, "any")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen-7b", 7.72e9),
        ("qwen", 1.84e9),
        ("moonshotai--Kimi-K3_config", 2.78e12),
        ("Qwen--Qwen3-VL-2B-Instruct_config", 2.13e9),
        ("google--gemma-4-26B-A4B_config", 25.8e9),
        ("phi-3_5-vision", 4.15e9),
        ("opt-350m", 0.331e9),
        ("doge", 0.403e9),
        ("kimi-linear-48b", 49.1e9),
        ("apertus", 6.98e9),
        ("nanochat", 0.2566e9),
        ("biogpt", 0.347e9),
        ("camembert", 0.110e9),
        ("nvidia--Nemotron-H-56B-Base-8K_config", 56.3e9),
        ("nvidia--Llama-3_3-Nemotron-Super-49B-v1_config", 49.9e9),
    ],
)
def test_a_published_config_gives_the_parameters_of_its_model(name, parameters):
    assert load_hf_config(CASES / f"{name}.json").parameters == pytest.approx(parameters, rel=0.006)


def test_a_vision_tower_of_a_flat_config_is_counted():
    """Qwen2.5-VL-7B: 7.62 B of language model and 0.67 B of tower and merger."""
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "in_chans": 3,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    qwen = model("qwen2.5-7b", model_type="qwen2_5_vl", vision_config=vision)

    assert qwen.parameters == pytest.approx(8.292e9, rel=1e-3)
    assert [part.name for part in qwen.parts] == ["vision tower", "projector"]
    assert any("vision tower 630 M" in note and "training.input_len" in note for note in qwen.notes)


def test_what_a_nested_config_leaves_out_is_the_default_of_its_class_and_said():
    """llava-1.5-7b as it is published: its language model states nothing but what is not LLaMA's own."""
    vision = {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    llava = model_from_hf_config(
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "vocab_size": 32064},
            "tie_word_embeddings": False,
            "vision_config": vision,
        },
        "llava",
    )

    assert llava.parameters == pytest.approx(7.063e9, rel=1e-3)
    assert any("class defaults of llama for hidden_size" in note for note in llava.notes)


def test_linear_attention_is_not_taken_for_attention():
    kimi = load_hf_config(CASES / "kimi-linear-48b.json")
    mixing = {mixer.name: 0 for block in kimi.blocks for mixer in block.mixers}
    for block in kimi.blocks:
        for mixer in block.mixers:
            mixing[mixer.name] += block.layers

    assert mixing == {"kimi_delta": 20, "latent attention": 7}
    assert kimi.sliding_window_layers == 20
    assert any("20 kimi_delta, 7 latent attention" in note and "few measurements" in note for note in kimi.notes)


def test_layers_of_a_pattern_are_read_one_by_one():
    nemotron = load_hf_config(CASES / "nvidia--Nemotron-H-56B-Base-8K_config.json")

    assert {(*(mixer.name for mixer in b.mixers), b.feed_forward is not None): b.layers for b in nemotron.blocks} == {
        ("mamba2", False): 54,
        (True,): 54,
        ("attention", False): 10,
    }
    assert nemotron.gated is False


def test_layers_that_a_search_shaped_have_their_own_widths():
    searched = load_hf_config(CASES / "nvidia--Llama-3_3-Nemotron-Super-49B-v1_config.json")

    assert sum(block.layers for block in searched.blocks) == 80
    assert sum(block.layers for block in searched.blocks if block.mixers) == 49
    assert len({block.feed_forward.width for block in searched.blocks if block.feed_forward}) > 3


def test_experts_in_a_narrower_space_are_counted_there():
    kimi = load_hf_config(CASES / "moonshotai--Kimi-K3_config.json")
    sparse = next(block.feed_forward for block in kimi.blocks if block.feed_forward and block.feed_forward.experts)

    assert sparse.parameters == 896 * 3 * 3584 * 3072 + 3 * 7168 * 6144 + 7168 * 896 + 2 * 7168 * 3584


def test_experts_that_are_switched_off_are_not_there():
    assert load_hf_config(CASES / "doge.json").moe is None


def test_an_encoder_says_that_it_is_one():
    camembert = load_hf_config(CASES / "camembert.json")

    assert not camembert.causal
    assert not camembert.gated
    assert any(note.startswith("an encoder") for note in camembert.notes)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SpecError, match=r"config\.json: no such file, expected a Hugging Face config\.json$"):
        load_hf_config(tmp_path)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "qwen3_moe"])
def test_a_window_that_is_switched_off_is_in_no_note(model_type: str, tmp_path: Path) -> None:
    """The class has a width, which counts only where `use_sliding_window` says so."""
    outline = {"hidden_size": 256, "num_hidden_layers": 30, "num_attention_heads": 32, "vocab_size": 100}
    config = {"model_type": model_type, **outline, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    off = load_hf_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_sliding_window": True}))
    on = load_hf_config(tmp_path / "config.json")

    assert (off.sliding_window, on.sliding_window) == (None, 4096)
    assert [any("sliding_window" in note for note in model.notes) for model in (off, on)] == [False, True]
