"""Configs as their makers published them: other names for a key, two keys that contradict each other, letters."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.huggingface.families import family_of
from carbon_plugin.spec.huggingface.keys import ConfigKeys
from carbon_plugin.spec.huggingface.layers import feeds_of

FALCON_MAMBA = {
    "model_type": "falcon_mamba",
    "conv_kernel": 4,
    "expand": 16,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "state_size": 16,
    "tie_word_embeddings": False,
    "time_step_rank": 256,
    "vocab_size": 65024,
}
BLOOM = {"model_type": "bloom", "n_layer": 70, "num_attention_heads": 112, "n_embed": 14336, "vocab_size": 250880}
CHATGLM3 = {
    "model_type": "chatglm",
    "add_qkv_bias": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "tie_word_embeddings": False,
}
MINIMAX_TEXT_01 = {
    "model_type": "minimax_text_01",
    "attn_type_list": ([0] * 7 + [1]) * 10,
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_attention_heads": 64,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "shared_intermediate_size": 0,
    "tie_word_embeddings": False,
    "vocab_size": 200064,
}
EXAONE4_32B = {
    "model_type": "exaone4",
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_attention_heads": 40,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
    "vocab_size": 102400,
}
MIMO_V2_FLASH = {  # layers are listed by flags: a window, and experts
    "model_type": "mimo_v2_flash",
    "hidden_size": 4096,
    "hybrid_layer_pattern": [0] + ([1] * 4 + [0]) + ([1] * 5 + [0]) * 7,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": [0] + [1] * 47,
    "n_routed_experts": 256,
    "n_shared_experts": None,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "sliding_window_size": 128,
    "swa_num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
    "vocab_size": 152576,
}
LING_1T = {
    "model_type": "bailing_moe",
    "first_k_dense_replace": 4,
    "head_dim": 128,
    "hidden_size": 8192,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "moe_shared_expert_intermediate_size": 2048,
    "num_attention_heads": 64,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_shared_experts": 1,
    "tie_word_embeddings": False,
    "vocab_size": 157184,
}
MINICPM3_4B = {
    "model_type": "minicpm3",
    "hidden_size": 2560,
    "intermediate_size": 6400,
    "kv_lora_rank": 256,
    "num_attention_heads": 40,
    "num_hidden_layers": 62,
    "num_key_value_heads": 40,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "vocab_size": 73448,
}
OURO_2_6B = {
    "model_type": "ouro",
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 16,
    "tie_word_embeddings": False,
    "total_ut_steps": 4,
    "vocab_size": 49152,
}


@pytest.mark.parametrize(
    ("config", "billions"),
    [  # what the makers print, or the sum over the published weights
        (FALCON_MAMBA, 7.27),
        (BLOOM, 176.25),
        (CHATGLM3, 6.24),
        (MINIMAX_TEXT_01, 456),
        (EXAONE4_32B, 32.0),
        (MIMO_V2_FLASH, 309),
        (LING_1T, 1000),
        (MINICPM3_4B, 4.07),
        (OURO_2_6B, 2.668),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_config_with_the_keys_of_its_maker_gives_the_published_parameters(
    config: dict[str, Any], billions: float
) -> None:
    assert model_from_hf_config(config, "published").parameters == pytest.approx(billions * 1e9, rel=3e-3)


def test_layers_of_lightning_attention_are_seven_of_eight_in_minimax_text_01() -> None:
    blocks = model_from_hf_config(MINIMAX_TEXT_01, "minimax").blocks

    assert {block.mixers[0].name or block.mixers[0].kind: block.layers for block in blocks}["lightning"] == 70


@pytest.mark.parametrize(
    ("pattern", "layers", "windowed"),
    [("LLLG", 64, 48), ("LLLG", 30, 22), ("LLLL", 8, 7), ("G", 8, 0), (4, 64, 48)],
)
def test_letters_say_which_layers_have_a_window_and_the_last_has_none(
    pattern: str | int, layers: int, windowed: int
) -> None:
    config = EXAONE4_32B | {"sliding_window_pattern": pattern, "num_hidden_layers": layers}
    model = model_from_hf_config(config, "exaone")

    assert model.sliding_window_layers == windowed if windowed else model.sliding_window is None


def test_letters_beside_a_list_of_the_layers_are_not_read() -> None:
    config = EXAONE4_32B | {"layer_types": ["sliding_attention", "full_attention"] * 32}

    assert model_from_hf_config(config, "exaone").sliding_window_layers == 32


def test_other_letters_of_a_pattern_are_refused_by_name() -> None:
    with pytest.raises(
        SpecError, match="sliding_window_pattern: expected a whole number or letters L and G, got 'LXG'"
    ):
        model_from_hf_config(EXAONE4_32B | {"sliding_window_pattern": "LXG"}, "exaone")


def test_layers_that_flags_list_have_a_window_or_experts_where_their_flag_says_so() -> None:
    model = model_from_hf_config(MIMO_V2_FLASH, "mimo")

    assert not model.notes  # nothing is a default of the class
    assert sum(block.layers for block in model.blocks if block.mixers[0].window) == 39
    assert sum(block.layers for block in model.blocks if block.mixers[0].kv_heads == 4) == 9
    with pytest.raises(SpecError, match="47 layers are listed as sparse or not, of 48"):
        model_from_hf_config(MIMO_V2_FLASH | {"moe_layer_freq": [1] * 47}, "mimo")


def test_a_stack_that_a_token_passes_four_times_has_its_weights_once_and_its_work_four_times() -> None:
    looped = model_from_hf_config(OURO_2_6B, "ouro")
    once = model_from_hf_config(OURO_2_6B | {"total_ut_steps": 1}, "ouro")

    assert looped.parameters == once.parameters
    assert {block.passes for block in looped.blocks} == {4}


@pytest.mark.parametrize("key", ["tie_word_embeddings", "attention_bias", "use_sliding_window"])
def test_a_word_in_place_of_true_or_false_is_refused_by_its_key(key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}: expected true or false, got 'false'"):
        model_from_hf_config(EXAONE4_32B | {key: "false"}, "exaone")


def test_a_nested_language_model_without_a_type_is_that_of_its_class() -> None:
    nested = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    stated = {**nested, "num_hidden_layers": 32, "vocab_size": 32064, "model_type": "llama"}
    without = {key: value for key, value in stated.items() if key != "model_type"}

    models = [model_from_hf_config({"model_type": "llava", "text_config": text}, "llava") for text in (stated, without)]

    assert models[0].parameters == models[1].parameters
    minimax = {"model_type": "minimax_m3_vl", "text_config": {"num_hidden_layers": 4, "moe_layer_freq": [0, 0, 1, 1]}}
    assert model_from_hf_config(minimax, "minimax").gated


LING_3 = {  # its attention sees everything in every fourth layer, and its other layers have heads as wide as these
    "model_type": "bailing_hybrid",
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "kv_lora_rank": 256,
    "layer_group_size": 4,
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 24,
    "num_shared_experts": 1,
    "q_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 157184,
}


@pytest.mark.parametrize(("group", "attending"), [(4, 6), (6, 4), (24, 1)])
def test_the_last_layer_of_each_group_of_ling_3_has_attention(group: int, attending: int) -> None:
    blocks = model_from_hf_config(LING_3 | {"layer_group_size": group}, "ling").blocks

    assert sum(block.layers for block in blocks if block.mixers[0].kind != "linear_attention") == attending
    assert {block.mixers[0].heads for block in blocks} == {16}


def test_groups_of_heads_are_read_under_the_name_of_step_3_5() -> None:
    stated = {key: value for key, value in EXAONE4_32B.items() if key != "num_key_value_heads"}

    assert model_from_hf_config(stated | {"num_attention_groups": 4}, "step").kv_heads == 4


@pytest.mark.parametrize(
    ("model_type", "keys", "sparse"),
    [  # layers of 12 with experts, by the period as the code of each family counts it
        ("deepseek_v2", {"first_k_dense_replace": 2, "moe_layer_freq": 2}, {2, 4, 6, 8, 10}),
        ("deepseek_v2", {"first_k_dense_replace": 0, "moe_layer_freq": 3}, {0, 3, 6, 9}),
        ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_interval": 2}, {3, 5, 7, 9, 11}),
        ("qwen3_moe", {"decoder_sparse_step": 5}, {4, 9}),
    ],
)
def test_a_period_of_sparse_layers_counts_layers_as_the_code_of_the_family_does(model_type, keys, sparse) -> None:
    experts = {"n_routed_experts": 8} if model_type == "deepseek_v2" else {"num_experts": 8, "moe_num_experts": 8}
    config = {"model_type": model_type, "num_hidden_layers": 12, **experts, **keys}

    found = feeds_of(ConfigKeys(config, "config.json"), family_of(model_type))

    assert {layer for layer, feed in enumerate(found) if feed == "sparse"} == sparse
