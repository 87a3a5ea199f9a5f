"""Models whose shape is known, counted as if it were not: both predictions of a step come near one another."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.counted import counted_step_terms
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

LENGTHS = {"vit": (197, 128), "bert": (128, 64), "gpt2": (1024, 16), "resnet": (0, 256)}
"""Tokens of a sample, and samples of a micro-batch."""


@cache
def built(name: str) -> Any:
    """Return a model of transformers without memory. All attend by PyTorch's operation, and drop nothing."""
    import torch
    import transformers as hf

    nothing: dict[str, Any] = {"attn_implementation": "sdpa"}
    classes: dict[str, Any] = {"num_labels": 1000}
    configs: dict[str, Any] = {
        "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**classes, **nothing)),
        "bert": lambda: hf.BertForMaskedLM(
            hf.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **nothing)
        ),
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **nothing)
        ),
        "resnet": lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**classes)),
    }
    with torch.device("meta"):
        return configs[name]().train()


@cache
def counted(name: str, samples: int = 2) -> CountedModel:
    import torch

    from carbon_plugin.detect.shape.counting import count_forward

    module, (tokens, _) = built(name), LENGTHS[name]
    if name in ("vit", "resnet"):
        inputs = {"pixel_values": torch.empty(samples, 3, 224, 224, device="meta")}
    else:
        text = torch.empty(samples, tokens, dtype=torch.int64, device="meta")
        inputs = {"input_ids": text, "labels": text}
    if name == "gpt2":  # it would look into the places of its tokens for several texts in a row
        inputs |= {"position_ids": torch.empty(1, tokens, dtype=torch.int64, device="meta"), "past_key_values": None}
    counts = count_forward(module, lambda copy: copy(**inputs), time.thread_time() + 300)
    size = sum(parameter.numel() for parameter in module.parameters())
    return CountedModel(
        name=name,
        parameters=size,
        trainable_parameters=size,
        kernels=counts.kernels,
        source="test",
        **counts.per_sample(samples),
    )


def rates_of(device: str, stack: Stack, precision: Any) -> Rates:
    accelerator = load_accelerator(device)
    node = default_node_for(accelerator)
    return resolve_rates(Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=1), stack, precision)[0]


def counted_time(name: str, device: str, precision: Any, **plan: Any) -> float:
    (tokens, size), stack = LENGTHS[name], Stack(autocast=True)
    work = TrainingPlan(seq_len=tokens or 1, global_batch_size=size, steps=1, precision=precision, **plan)
    layout = ParallelLayout(micro_batch_size=size)
    return sum(counted_step_terms(counted(name), layout, work, stack, rates_of(device, stack, precision), 1).values())


@pytest.mark.parametrize("precision", ["bf16", "tf32", "fp32"])
@pytest.mark.parametrize("device", ["a100-sxm-80gb", "h100-sxm"])
@pytest.mark.parametrize("name", ["vit", "bert", "gpt2"])
def test_a_counted_transformer_takes_as_long_as_its_shape(name, device, precision) -> None:
    (tokens, size), stack, module = LENGTHS[name], Stack(autocast=True), built(name)
    shape = shape_of(model_from_hf_config({**module.config.to_dict(), "architectures": [type(module).__name__]}, name))
    plan = TrainingPlan(seq_len=tokens, global_batch_size=size, steps=1, precision=precision)
    case = layout_of(ParallelLayout(micro_batch_size=size))
    known = step_time(shape, case, work_of(plan, stack), rates_of(device, stack, precision)).total
    assert counted_time(name, device, precision) == pytest.approx(float(known), rel=0.15)


def test_a_resnet_trains_as_fast_as_published() -> None:
    """NVIDIA's DeepLearningExamples and others publish 2,078 to 2,470 images/s of ResNet-50 on an A100 with AMP."""
    assert 2078 < 256 / counted_time("resnet", "a100-sxm-80gb", "fp16", optimizer="sgd") < 2470


def test_a_micro_batch_may_be_larger_than_the_batch_that_was_counted() -> None:
    few, many = counted("resnet", 2), counted("resnet", 8)
    assert few.autocast_passes is not None
    assert many.autocast_passes is not None
    for one, other in zip((few.autocast_passes.forward, few.autocast_passes.backward),
                          (many.autocast_passes.forward, many.autocast_passes.backward), strict=True):  # fmt: skip
        assert one.moved_bytes == pytest.approx(other.moved_bytes, rel=0.001)
        assert one.kernels == other.kernels
