"""Encoders, encoders with a decoder, and towers: closed forms, lengths of their own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import layer_forward_flops, step_flops
from carbon_plugin.predict.parameters import device_parameters
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

CONFIGS = Path(__file__).parents[1] / "spec" / "huggingface" / "data" / "hf_configs"
VISION = {"config": str(CONFIGS / "Qwen--Qwen3-VL-2B-Instruct_config.json")}
T5_LARGE = {
    "model_type": "t5",
    "d_model": 1024,
    "d_ff": 4096,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 16,
    "vocab_size": 32128,
    "feed_forward_proj": "relu",
}
VIT = TransformerModel(
    name="vit-b16",
    layers=12,
    hidden=768,
    heads=12,
    kv_heads=12,
    head_dim=64,
    ffn=3072,
    vocab=1,
    gated=False,
    causal=False,
)


def work(seq_len: int, **training: Any):
    return work_of(TrainingPlan(seq_len=seq_len, global_batch_size=8, steps=1, **training), Stack())


def flops(model: TransformerModel, seq_len: int, **training: Any) -> float:
    products, attention = layer_forward_flops(shape_of(model), work(seq_len, **training))
    return float(products + attention)


def run(model: Any, seq_len: int, **training: Any):
    return build_run_spec(
        {
            "model": model,
            "cluster": {"accelerator": "a100", "nodes": 1},
            "layout": {"dp_replicate": 8, "micro_batch_size": 8},
            "training": {"seq_len": seq_len, "global_batch_size": 64, "steps": 10, **training},
            "site": {"zone": "FRA"},
        }
    )


@pytest.fixture
def t5(tmp_path) -> dict[str, str]:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(T5_LARGE))
    return {"config": str(file)}


def test_a_vit_has_its_published_flops() -> None:
    # ViT-B/16 at 224 pixels: 17.6 billion multiply-adds an image (arXiv 2012.12877, table 5).
    assert flops(VIT, 197) == pytest.approx(2 * 17.6e9, rel=0.02)


def test_an_encoder_scores_the_full_square_and_a_decoder_half() -> None:
    causal = msgspec.structs.replace(VIT, causal=True)
    once = float(layer_forward_flops(shape_of(causal), work(512))[1])
    assert float(layer_forward_flops(shape_of(VIT), work(512))[1]) == pytest.approx(2 * once)


def test_flops_of_t5_are_those_of_its_two_stacks_at_their_own_lengths() -> None:
    model = model_from_hf_config(T5_LARGE, "t5-large")
    s, i, h, f, layers = 114, 512, 1024, 4096, 24
    encoder = layers * (2 * i * (4 * h * h + 2 * h * f) + 4 * i * i * h)
    own = 2 * s * (4 * h * h + 2 * h * f) + 2 * s * s * h
    cross = 2 * s * 2 * h * h + 2 * i * 2 * h * h + 4 * s * i * h
    assert flops(model, s, input_len=i) == pytest.approx(encoder + layers * (own + cross), rel=1e-6)


def test_parameters_of_t5_large_are_the_published_ones_and_all_on_the_device() -> None:
    model = model_from_hf_config(T5_LARGE, "t5-large")
    assert model.parameters == 737_668_096  # google-t5/t5-large
    shared, _ = device_parameters(shape_of(model), layout_of(ParallelLayout()))
    assert float(shared) == pytest.approx(model.parameters, rel=0.001)


def test_a_longer_input_lengthens_the_step_and_the_memory_of_an_encoder_with_a_decoder(t5) -> None:
    short, long = (predict_step(run(t5, 512, input_len=size)) for size in (512, 2048))
    assert long.step_time_s.value > 1.5 * short.step_time_s.value
    assert long.memory.parts_bytes["activations"] > 2 * short.memory.parts_bytes["activations"]
    assert sum(long.breakdown_s.values()) == pytest.approx(long.step_time_s.value)
    assert short.accuracy_class == "unvalidated"


def test_an_encoder_without_the_length_of_its_input_is_refused(t5) -> None:
    with pytest.raises(SpecError, match=r"it has an encoder, and training\.input_len is missing"):
        predict_step(run(t5, 512))


def test_an_input_of_a_model_that_has_none_is_refused() -> None:
    with pytest.raises(SpecError, match="input_len is 512, but llama3-8b has neither an encoder nor a tower"):
        predict_step(run("llama3-8b", 512, input_len=512))


def test_a_tower_takes_memory_always_and_time_by_its_images() -> None:
    none, one, four = (
        predict_step(run(VISION, 2048, **images))
        for images in ({}, {"input_len": 1024}, {"input_len": 1024, "inputs_per_sequence": 4})
    )
    assert none.step_time_s.value < one.step_time_s.value < four.step_time_s.value
    assert any(item.field == "training.input_len" for item in none.assumptions)
    assert not any(item.field == "training.input_len" for item in one.assumptions)
    of_images = [step.model_flops_per_step - none.model_flops_per_step for step in (one, four)]
    assert of_images[1] == pytest.approx(4 * of_images[0])
    tower = 24 * (2 * 1024 * 12 * 1024**2 + 4 * 1024**2 * 1024)  # 24 layers, 1,024 wide, over 1,024 patches
    assert of_images[0] == pytest.approx(3 * 64 * tower, rel=0.05)
    assert none.memory.parts_bytes["parameters"] == one.memory.parts_bytes["parameters"]
    assert four.memory.parts_bytes["activations"] > one.memory.parts_bytes["activations"]


def test_all_parts_of_a_model_are_on_the_device() -> None:
    model = run(VISION, 2048).model
    assert isinstance(model, TransformerModel)
    shared, _ = device_parameters(shape_of(model), layout_of(ParallelLayout()))
    assert float(shared) == pytest.approx(model.parameters, rel=0.001)


def test_the_layers_of_a_model_with_towers_are_those_without() -> None:
    model = run(VISION, 2048).model
    bare = msgspec.structs.replace(model, parts=())
    layout, plan = layout_of(ParallelLayout()), work(2048)
    whole, plain = (float(step_flops(shape_of(one), layout, plan)[0]) for one in (model, bare))
    assert whole == pytest.approx(plain)


def test_layers_that_share_their_weights_take_the_time_of_each_and_the_memory_of_one() -> None:
    shared = model_from_hf_config(
        {
            "model_type": "albert",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "vocab_size": 30000,
        },
        "albert",
    )
    block = shared.blocks[0]
    own = msgspec.structs.replace(shared, blocks=(msgspec.structs.replace(block, layers=24, passes=1),))
    alone = layout_of(ParallelLayout())

    assert flops(shared, 512) == pytest.approx(flops(own, 512))
    parameters = [float(device_parameters(shape_of(model), alone)[0]) for model in (shared, own)]
    assert parameters[1] - parameters[0] == pytest.approx(23 * block.parameters, rel=1e-3)
