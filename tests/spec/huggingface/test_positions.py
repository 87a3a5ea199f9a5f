"""The longest sequence that a model can have, from its config, its preset or its fields, at every door of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.plan.search.layouts import search
from carbon_plugin.plan.search.space import USUAL
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.huggingface.config import load_hf_config, model_from_hf_config
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.run import RunSpec

CASES = Path(__file__).parent / "data" / "hf_configs"
OUTLINE = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
LAYOUT = {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "none"}


def config(model_type: str, **keys: Any) -> TransformerModel:
    return model_from_hf_config({"model_type": model_type, "intermediate_size": 256, **OUTLINE, **keys}, model_type)


def run(model: Any, seq_len: int, layout: Any = "auto") -> RunSpec:
    return build_run_spec(
        {
            "model": model,
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "training": {"seq_len": seq_len, "global_batch_size": 64, "steps": 10},
            "layout": layout,
            "site": {"zone": "FRA"},
        }
    )


@pytest.mark.parametrize(
    ("model", "rows", "longest"),
    [
        (config("gpt2", n_positions=1024), 1024, 1024),
        (config("bert", max_position_embeddings=512), 512, 512),
        (load_hf_config(CASES / "opt-350m.json"), 2050, 2048),
        (load_hf_config(CASES / "biogpt.json"), 1026, 1024),
        (config("roberta", max_position_embeddings=514), 514, 512),
        (config("llama", max_position_embeddings=4096), 0, 4096),
        (config("mpt", max_seq_len=65536), 0, 65536),
    ],
)
def test_rows_of_a_position_table_that_no_token_has_are_no_length(model, rows, longest):
    assert (model.learned_positions, model.made_for_seq_len) == (rows, longest)


@pytest.mark.parametrize(
    ("stated", "scaling", "longest"),
    [
        (32768, {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}, 131072),
        (131072, {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}, 131072),
        (4096, {"factor": 4.0, "type": "linear"}, 16384),
        (4096, None, 4096),
        (-1, None, None),
    ],
)
def test_scaled_rotary_positions_reach_as_far_as_they_are_scaled(stated, scaling, longest):
    model = config("llama", max_position_embeddings=stated, rope_scaling=scaling)

    assert model.longest_seq_len == longest


@pytest.mark.parametrize(("model", "longest"), [("gpt2", 1024), ("opt-175b", 2048)])
def test_no_door_of_a_plan_takes_a_sequence_beyond_learned_positions(model, longest):
    message = rf"model {model}: its table of learned positions holds sequences of at most {longest} tokens, but "
    message += rf"training\.seq_len is {longest + 1}; plan with seq_len {longest}"

    with pytest.raises(SpecError, match=message):
        predict_step(run(model, longest + 1, LAYOUT))
    with pytest.raises(SpecError, match=message):
        search(run(model, longest + 1), USUAL)
    with pytest.raises(SpecError, match=message):
        make_forecast(run(model, longest + 1, LAYOUT))
    assert predict_step(run(model, longest, LAYOUT)).step_time_s.value > 0


def test_what_the_message_names_lets_a_longer_table_or_packed_samples_be_planned():
    longer = {"preset": "gpt2", "learned_positions": 8192, "longest_seq_len": 8192}

    assert run(longer, 8192).model.parameters - run("gpt2", 1024).model.parameters == (8192 - 1024) * 768
    assert predict_step(run(longer, 8192, LAYOUT)).step_time_s.value > 0
    assert predict_step(run({"preset": "gpt2", "longest_seq_len": 8192}, 8192, LAYOUT)).step_time_s.value > 0


def test_rotary_positions_beyond_the_stated_length_are_planned_with_a_warning():
    model = msgspec.to_builtins(load_hf_config(CASES / "nanochat.json"))
    within, beyond = (make_forecast(run(model, seq_len, LAYOUT)) for seq_len in (2048, 4096))

    said = "the model states 2,048 tokens as its longest; its positions are taken to reach further at no cost"
    assert f"sequences of 4,096 tokens: {said}" in beyond.warnings
    assert [one.value for one in beyond.assumptions if one.source == said] == ["4,096 tokens"]
    assert not [one for one in within.assumptions if one.source == said]
