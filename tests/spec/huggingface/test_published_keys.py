"""Configs as their makers published them: other names for a key, two keys that contradict each other, letters."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import model_from_hf_config

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


@pytest.mark.parametrize(
    ("config", "billions"),
    [  # what the makers print, or the sum over the published weights
        (FALCON_MAMBA, 7.27),
        (BLOOM, 176.25),
        (CHATGLM3, 6.24),
        (MINIMAX_TEXT_01, 456),
        (EXAONE4_32B, 32.0),
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
