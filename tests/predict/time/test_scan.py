"""Layers with a state: their FLOPs against published counts, their time against their laws, their place in a step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import layer_forward_flops, step_flops
from carbon_plugin.predict.parameters import device_parameters
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.time.operators import attention_core
from carbon_plugin.predict.time.scan import scan, scan_flops_per_token
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.huggingface.config import load_hf_config, model_from_hf_config
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.blocks import Block, FeedForward, Mixer
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

CONFIGS = Path(__file__).parents[2] / "spec" / "huggingface" / "data" / "hf_configs"
NEMOTRON = load_hf_config(CONFIGS / "nvidia--Nemotron-H-56B-Base-8K_config.json")
LINEAR = {
    "model_type": "qwen3_next",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 48,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "decoder_sparse_step": 1,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "max_position_embeddings": 262144,
    "attention_bias": False,
}
"""Qwen3-Next-80B-A3B."""


anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def plan(seq_len: int = 8192) -> TrainingPlan:
    return TrainingPlan(seq_len=seq_len, global_batch_size=8, steps=1)


def work(seq_len: int = 8192):
    return work_of(plan(seq_len), Stack())


def kind(model, **wanted: float):
    """Return the kind of layers of a model with these values."""
    (found,) = [one for one in shape_of(model).kinds if all(getattr(one, k) == v for k, v in wanted.items())]
    return found


def test_mamba2_flops_are_those_that_nvidia_counts_for_nemotron_h() -> None:
    # NVIDIA/dgxc-benchmarking nemotronh/README.md: multiply-adds of 54 layers at 8,192 tokens with chunks of 256.
    mamba = dataclasses.replace(kind(NEMOTRON, scan_heads=256), scan_chunk=np.float64(256))
    products = 8192 * 8192 * (256 * 64 * 3 + 8 * 256 * 2 + 256)
    chunks = 8192 * 8192 * 2 * 256 + 2 * 8192 * 8192 * 2 * 256 + 8192 * 256 * 256 * 8
    assert (products + chunks) * 54 == 199_690_209_460_224
    flops, scanned = layer_forward_flops(mamba, work())
    assert float(scanned) == pytest.approx(2 * 54 * chunks, rel=1e-12)
    assert float(flops) == pytest.approx(2 * 54 * products, rel=1e-3)  # and the short convolution


def test_model_flops_of_nemotron_h_are_near_the_published_count() -> None:
    # The same page gives 2.816e15 for a sequence, with its attention projections counted at half.
    model, _ = step_flops(shape_of(NEMOTRON), layout_of(ParallelLayout()), work())
    assert float(model) / 8 == pytest.approx(2.816e15, rel=0.02)


def test_gated_delta_flops_are_the_products_of_the_wy_form() -> None:
    # Yang et al. 2024: per head and token, with chunks of 64 and heads of 128: KK', W, U, QK' and its product with U
    # inside the chunk, three products with the state, and the inverse of the triangle.
    delta = kind(model_from_hf_config(LINEAR, "next"), scan_delta=1)
    chunk, key, value, heads = 64, 128, 128, 32
    inside = 2 * chunk * (key + key + value + key + value) + chunk * chunk
    state = 3 * 2 * key * value
    assert float(scan_flops_per_token(delta, np.float64(4096), np.float64(1))) == heads * (inside + state)


@given(factor=st.integers(2, 8), tp=st.sampled_from([1, 2, 4, 8]))
@anything
def test_a_scan_grows_with_its_length_and_attention_with_its_square(factor, tp, rates) -> None:
    mamba, attention = kind(NEMOTRON, scan_heads=256), kind(NEMOTRON, heads=64)
    device = rates(kernel_time=0.0)
    layout = layout_of(ParallelLayout(tp=tp))

    def times(operator, shape, seq_len):
        return float(operator(shape, layout, work(seq_len), device).forward)

    base = 4096
    assert times(scan, mamba, factor * base) == pytest.approx(factor * times(scan, mamba, base), rel=1e-9)
    assert times(attention_core, attention, factor * base) == pytest.approx(
        factor**2 * times(attention_core, attention, base), rel=1e-9
    )


@given(tp=st.sampled_from([1, 2, 4, 8]))
@anything
def test_tensor_parallel_ranks_share_out_a_scan(tp, rates) -> None:
    mamba = kind(NEMOTRON, scan_heads=256)
    alone = scan(mamba, layout_of(ParallelLayout()), work(), rates(kernel_time=0.0)).forward
    shared = scan(mamba, layout_of(ParallelLayout(tp=tp)), work(), rates(kernel_time=0.0)).forward
    assert float(shared) == pytest.approx(float(alone) / tp, rel=1e-9)


def test_equal_layers_cost_the_same_written_as_blocks(gpt, rates) -> None:
    mixer = Mixer(
        kind="attention",
        name="attention",
        parameters=gpt.attention_parameters,
        heads=gpt.heads,
        kv_heads=gpt.kv_heads,
        qk_dim=gpt.head_dim,
        v_dim=gpt.head_dim,
    )
    count = gpt.ffn_parameters(gpt.ffn)
    feed = FeedForward(width=gpt.ffn, parameters=count, active_parameters=count, gated=gpt.gated)
    block = Block(layers=gpt.layers, mixers=(mixer,), feed_forward=feed, other_parameters=2 * gpt.hidden)
    blocks = msgspec.structs.replace(gpt, blocks=(block,))
    for layout in (
        ParallelLayout(tp=8, pp=4, dp_replicate=2, sequence_parallel=True),
        ParallelLayout(dp_shard=64, zero_stage=3, recompute="full"),
    ):
        case = (layout_of(layout), work_of(TrainingPlan(seq_len=2048, global_batch_size=64, steps=1), Stack()), rates())
        plain, kinds = step_time(shape_of(gpt), *case), step_time(shape_of(blocks), *case)
        assert {name: float(time) for name, time in kinds.terms.items()} == pytest.approx(
            {name: float(time) for name, time in plain.terms.items()}, rel=1e-9
        )
        for one, other in zip(
            memory_bytes(shape_of(gpt), *case).values(), memory_bytes(shape_of(blocks), *case).values(), strict=True
        ):
            assert float(other) == pytest.approx(float(one), rel=1e-9)
        flops, other_flops = (step_flops(shape_of(model), *case[:2]) for model in (gpt, blocks))
        assert list(map(float, other_flops)) == pytest.approx(list(map(float, flops)))


@pytest.mark.parametrize("config", [LINEAR, json.loads((CONFIGS / "kimi-linear-48b.json").read_text())])
def test_parameters_of_a_device_are_those_of_the_model(config) -> None:
    model = model_from_hf_config(config, "hybrid")
    shared, routed = device_parameters(shape_of(model), layout_of(ParallelLayout()))
    assert float(shared + routed) == pytest.approx(model.parameters, rel=0.01)


def test_breakdown_of_a_hybrid_names_the_scan_and_adds_up() -> None:
    spec = build_run_spec(
        {
            "model": {"config": str(CONFIGS / "nvidia--Nemotron-H-56B-Base-8K_config.json")},
            "cluster": {"accelerator": "h100-sxm", "nodes": 4},
            "layout": {"tp": 8, "dp_replicate": 4},
            "training": {"seq_len": 8192, "global_batch_size": 96, "steps": 10, "precision": "fp8"},
            "site": {"zone": "FRA"},
        }
    )
    step = predict_step(spec)
    assert step.accuracy_class == "unvalidated"
    assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s.value)
    assert 0.1 < step.breakdown_s["scan"] / step.step_time_s.value < 0.4


def test_activations_of_a_scan_grow_with_its_channels_and_not_with_its_state(rates) -> None:
    narrow, wide = (dataclasses.replace(shape_of(NEMOTRON), kinds=(one,)) for one in _with_states(64, 256))
    layout = layout_of(ParallelLayout())
    kept = [float(memory_bytes(shape, layout, work(), rates())["activations"]) for shape in (narrow, wide)]
    assert kept[1] == pytest.approx(kept[0], rel=0.1)


def test_experts_behind_a_narrower_width_are_sent_less(rates) -> None:
    base = shape_of(model_from_hf_config(LINEAR, "next"))
    latent = dataclasses.replace(base, kinds=tuple(_behind(one, 512) for one in base.kinds))
    layout = layout_of(ParallelLayout(dp_shard=8, zero_stage=1, ep=8))
    whole, narrow = (step_time(shape, layout, work(), rates()).terms["ep"] for shape in (base, latent))
    assert float(narrow) == pytest.approx(float(whole) / 4, rel=0.1)


def _behind(shape, width: int):
    return dataclasses.replace(shape, expert_hidden=np.float64(width))


def _with_states(*states: int):
    mamba = kind(NEMOTRON, scan_heads=256)
    return [dataclasses.replace(mamba, scan_key=np.float64(state)) for state in states]
