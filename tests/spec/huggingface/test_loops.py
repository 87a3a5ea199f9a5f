"""Layers that a token passes several times: their work is that of the same layers one after the other, their weights
count once.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import TransformerModel

OUTLINE: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}


def dory(layers: int, **loops: int) -> dict[str, Any]:
    full = {"layer_types": ["full_attention"] * layers, "num_hidden_layers": layers}
    return {"model_type": "dory", **OUTLINE, **full, **loops}


def inkling(layers: int, start: int, end: int, passes: int) -> dict[str, Any]:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    places = {"loop_layer_index_start": start, "loop_layer_index_end": end, "loop_num_passes": passes}
    kinds = {"layer_types": ["hybrid"] * layers, "mlp_layer_types": ["sparse"] * layers}
    return {"model_type": "inkling2_loop_text", **OUTLINE, **experts, **places, **kinds, "num_hidden_layers": layers}


def hrm(stack: int, high: int, low: int) -> dict[str, Any]:
    return {"model_type": "hrm_text", **OUTLINE, "num_layers_per_stack": stack, "H_cycles": high, "L_cycles": low}


def flops(model: TransformerModel) -> float:
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"dp_shard": 8, "zero_stage": 3},
            "training": {"seq_len": 512, "global_batch_size": 8, "steps": 1},
            "site": {"zone": "FRA"},
        }
    )
    return predict_step(msgspec.structs.replace(spec, model=model)).model_flops_per_step


@pytest.mark.parametrize(
    ("looped", "unrolled"),
    [
        (dory(8, n_input_layers=2, n_recurrent_layers=4, n_output_layers=2, n_recurrent_loops=3), 16),
        (dory(8, n_input_layers=2, n_output_layers=2, n_recurrent_loops=3), 16),
        (dory(8, n_input_layers=8, n_output_layers=0, n_recurrent_loops=3), 8),
        (hrm(2, high=2, low=3), 16),
        (hrm(1, high=4, low=1), 8),
    ],
)
def test_a_loop_takes_the_work_of_its_layers_one_after_the_other_and_holds_them_once(looped, unrolled) -> None:
    alike = dory(unrolled, n_input_layers=unrolled, n_output_layers=0, n_recurrent_loops=1)
    found, plain = model_from_hf_config(looped, "looped"), model_from_hf_config(alike, "unrolled")

    assert flops(found) == pytest.approx(flops(plain), rel=1e-3)
    layers = looped.get("num_hidden_layers") or 2 * looped["num_layers_per_stack"]
    assert found.layer_parameters == pytest.approx(plain.layer_parameters * layers / unrolled, rel=1e-3)


def test_layers_between_two_places_are_those_that_a_loop_repeats() -> None:
    once, thrice, wider = (
        flops(model_from_hf_config(inkling(12, *places), "x")) for places in ((2, 6, 1), (2, 6, 3), (2, 10, 3))
    )
    assert wider - once == pytest.approx(2 * (thrice - once), rel=1e-3)


@pytest.mark.parametrize("key", ["n_input_layers", "n_output_layers"])
def test_a_loop_that_does_not_say_where_it_begins_and_ends_is_refused_by_the_key(key: str) -> None:
    config = dory(8, n_input_layers=2, n_output_layers=2, n_recurrent_loops=2)

    with pytest.raises(SpecError, match=f"key {key} is missing"):
        model_from_hf_config({name: value for name, value in config.items() if name != key}, "x")
