"""Attention to chosen tokens, held against a real model's modules and against tokens that are counted one by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.parameters import layer_parameters
from carbon_plugin.predict.time.indexer import chosen_pairs, index_flops_of_layer
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

CONFIG: dict[str, Any] = {
    "model_type": "deepseek_v32",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "index_n_heads": 8,
    "index_head_dim": 32,
    "index_topk": 16,
    "tie_word_embeddings": False,
    "num_nextn_predict_layers": 0,
}


def model_with(**changes: Any) -> TransformerModel:
    return model_from_hf_config(CONFIG | changes, "small")


def without_choice(model: TransformerModel) -> TransformerModel:
    return msgspec.structs.replace(model, mla=msgspec.structs.replace(model.mla, indexer=None))


def terms_of(model: TransformerModel, rates: Any, seq_len: int, **layout: Any) -> dict[str, float]:
    case, plan = ParallelLayout(**layout), TrainingPlan(seq_len=seq_len, global_batch_size=1, steps=1)
    found = step_time(shape_of(model), layout_of(case), work_of(plan, Stack(fused=True)), rates)
    return {name: float(time) for name, time in found.terms.items()}


def test_a_real_model_has_as_many_parameters_with_its_indexers() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG))
    model = model_with()
    indexers = sum(p.numel() for name, p in real.named_parameters() if ".indexer." in name and "norm" not in name)
    assert model.layers * model.mla.indexer.parameters(model.hidden, model.mla.q_lora_rank) == indexers
    assert model.parameters == pytest.approx(sum(p.numel() for p in real.parameters()), rel=0.01)


def test_a_real_indexer_scores_twice_as_many_pairs_as_the_causal_ones() -> None:
    import torch
    from transformers import AutoConfig
    from transformers.models.deepseek_v32 import modeling_deepseek_v32 as modeling

    from carbon_plugin.detect.shape.flops import flop_counter

    seq_len, config = 64, AutoConfig.for_model(**CONFIG)
    with torch.device("meta"):
        real = modeling.DeepseekV32Indexer(config, 0)
        rotary = (torch.empty(1, seq_len, config.qk_rope_head_dim),) * 2
        hidden, latent = torch.empty(1, seq_len, config.hidden_size), torch.empty(1, seq_len, config.q_lora_rank)
        mask = torch.empty(1, 1, seq_len, seq_len)
        positions = torch.arange(seq_len)[None]
    with flop_counter() as counter:
        real(hidden, latent, rotary, mask, positions)
    shape = shape_of(model_with())
    projections = 2 * seq_len * float(shape.index_params)
    scores, _ = index_flops_of_layer(shape, float(seq_len))
    summed = 2 * seq_len * seq_len * config.index_n_heads  # the weighted sum over heads, which is elementwise here
    assert counter.get_total_flops() - projections == pytest.approx(2 * scores, abs=summed)


@given(seq_len=st.integers(1, 400), top_k=st.integers(1, 400))
def test_a_token_attends_to_those_that_it_chose_of_all_before_it(seq_len, top_k) -> None:
    shape = shape_of(model_with(index_topk=top_k))
    counted = sum(min(before, top_k) for before in range(1, seq_len + 1))
    assert float(chosen_pairs(shape, float(seq_len))) == pytest.approx(counted, abs=min(seq_len, top_k) / 2 + 1e-6)


@given(seq_len=st.integers(8, 200_000), top_k=st.integers(1, 4096))
def test_a_choice_leaves_no_more_work_than_all_and_a_short_sequence_none_less(seq_len, top_k) -> None:
    chosen = model_with(index_topk=top_k, index_n_heads=1, index_head_dim=1)
    work = work_of(TrainingPlan(seq_len=seq_len, global_batch_size=1, steps=1), Stack())
    few, every = (
        float(step_flops(shape_of(m), layout_of(ParallelLayout()), work)[0]) for m in (chosen, without(chosen))
    )
    assert few <= every * (1 + 1e-9) or seq_len < 4 * top_k


def without(model: TransformerModel) -> TransformerModel:
    """Return the model whose indexer has parameters and chooses nothing."""
    indexer = msgspec.structs.replace(model.mla.indexer, top_k=10**9)
    return msgspec.structs.replace(model, mla=msgspec.structs.replace(model.mla, indexer=indexer))


def test_attention_that_is_computed_again_has_its_scores_in_flops_as_in_time(rates) -> None:
    few, many, seq_len = model_with(index_n_heads=8), model_with(index_n_heads=4096), 4096
    work = work_of(TrainingPlan(seq_len=seq_len, global_batch_size=1, steps=1), Stack())

    def again(model: TransformerModel) -> tuple[float, float]:
        made, done = step_flops(shape_of(model), layout_of(ParallelLayout(recompute="selective")), work)
        once, twice = (sum(terms_of(model, rates(), seq_len, recompute=r).values()) for r in ("none", "selective"))
        return float(done - made), twice - once

    (few_flops, few_s), (many_flops, many_s) = again(few), again(many)
    scores = [few.layers * float(index_flops_of_layer(shape_of(m), float(seq_len))[0]) for m in (few, many)]
    assert many_flops - few_flops == pytest.approx(scores[1] - scores[0])
    assert many_s > 10 * few_s


def test_long_sequences_cost_less_and_short_ones_no_scores(rates) -> None:
    model = model_with(index_topk=2048)
    whole = without(model)
    # Attention to 2,048 of 262,144 tokens, whose scores are three times as wide, and its indexer.
    assert terms_of(model, rates(), 262_144)["attention"] < terms_of(whole, rates(), 262_144)["attention"]
    assert terms_of(model, rates(), 2048) == terms_of(whole, rates(), 2048)
    assert terms_of(model, rates(), 2048)["matmul"] > terms_of(without_choice(model), rates(), 2048)["matmul"]
    # A kernel that is handed a mask computes every score.
    masked = terms_of(model, rates(attention_masked=1.0), 262_144)["attention"]
    assert masked > terms_of(whole, rates(attention_masked=1.0), 262_144)["attention"]


def test_every_tensor_parallel_rank_has_the_whole_indexer(rates) -> None:
    model = model_with()
    indexer = model.mla.indexer.parameters(model.hidden, model.mla.q_lora_rank)
    for tp in (1, 2, 4):
        layout = layout_of(ParallelLayout(tp=tp))
        own, plain = (sum(layer_parameters(shape_of(m), layout, sparse=False)) for m in (model, without_choice(model)))
        assert float(own - plain) == indexer


def test_the_backward_pass_keeps_what_chose_and_what_was_chosen(rates) -> None:
    def kept(model: TransformerModel) -> float:
        work = work_of(TrainingPlan(seq_len=64, global_batch_size=1, steps=1), Stack(fused=True))
        return float(memory_parts(shape_of(model), layout_of(ParallelLayout()), work, rates())["activations"])

    a_token = 2 * (8 * 32 + 32 + 8) + 4 * 16
    assert kept(model_with()) - kept(without(model_with())) == pytest.approx(3 * 64 * a_token)


def test_layers_that_share_a_choice_have_no_indexer_of_their_own() -> None:
    kinds = ["full", "shared", "full", "shared", "shared", "shared"]
    model = model_with(num_hidden_layers=6, indexer_types=kinds)
    heads = [mixer.indexer.heads for block in model.blocks for _ in range(block.layers) for mixer in block.mixers]
    assert sorted(heads) == [0, 0, 0, 0, 8, 8]
    assert {mixer.indexer.top_k for block in model.blocks for mixer in block.mixers} == {16}
