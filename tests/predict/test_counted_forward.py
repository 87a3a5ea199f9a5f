"""FLOPs of whole models from their configs against those that PyTorch counts in the forward pass of their class."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

Shapes = dict[str, tuple[int, ...]]
TEXT: Shapes = {"input_ids": (1, 256)}
IMAGE: Shapes = {"pixel_values": (1, 3, 224, 224)}
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
WITHIN, WITHIN_CAUSAL = 0.005, 0.012
"""The class computes the whole square of causal scores, of which half is counted here."""

CASES: list[tuple[str, str, dict[str, Any], int, Shapes]] = [
    ("BertForMaskedLM", "bert", {}, 256, TEXT),
    ("BertForSequenceClassification", "bert", {}, 256, TEXT),
    ("BertForTokenClassification", "bert", {"num_labels": 9}, 256, TEXT),
    ("AlbertForMaskedLM", "albert", {}, 256, TEXT),
    ("DistilBertForMaskedLM", "distilbert", {}, 256, TEXT),
    ("MPNetForMaskedLM", "mpnet", {}, 256, TEXT),
    ("ElectraForMaskedLM", "electra", {"embedding_size": 64}, 256, TEXT),
    ("NomicBertForMaskedLM", "nomic_bert", {}, 256, TEXT),
    ("ViTForImageClassification", "vit", {"num_labels": 21843}, 197, IMAGE),
    ("Dinov2Model", "dinov2", {}, 257, IMAGE),
    ("SiglipVisionModel", "siglip_vision_model", {}, 196, IMAGE),
    ("ASTForAudioClassification", "audio-spectrogram-transformer", {}, 1214, {"input_values": (1, 1024, 128)}),
    ("VideoMAEForVideoClassification", "videomae", {}, 1568, {"pixel_values": (1, 16, 3, 224, 224)}),
    ("SiglipModel", "siglip", {}, 64, {"input_ids": (1, 64), **IMAGE}),
    ("Wav2Vec2ForCTC", "wav2vec2", {}, 499, {"input_values": (1, 160_000)}),
    ("T5EncoderModel", "t5", {}, 256, TEXT),
]
CAUSAL: list[tuple[str, str, dict[str, Any], int, Shapes]] = [
    ("CLIPModel", "clip", {}, 77, {"input_ids": (1, 77), **IMAGE}),
    ("BartForConditionalGeneration", "bart", {}, 64, {**TEXT, "decoder_input_ids": (1, 64)}),
    ("T5ForConditionalGeneration", "t5", {}, 64, {**TEXT, "decoder_input_ids": (1, 64)}),
    (
        "WhisperForConditionalGeneration",
        "whisper",
        {},
        128,
        {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 128)},
    ),
    (
        "LlamaForSequenceClassification",
        "llama",
        {**SMALL, "hidden_size": 1024, "intermediate_size": 4096, "pad_token_id": 0},
        64,
        {"input_ids": (1, 64)},
    ),
    (
        "OPTForCausalLM",
        "opt",
        {
            "hidden_size": 1024,
            "word_embed_proj_dim": 512,
            "num_hidden_layers": 3,
            "ffn_dim": 4096,
            "num_attention_heads": 16,
        },
        64,
        {"input_ids": (1, 64)},
    ),
]
SAMPLE = ("BertForSequenceClassification", "ElectraForMaskedLM", "Wav2Vec2ForCTC", "WhisperForConditionalGeneration")


def counted(name: str, model_type: str, changes: dict[str, Any], shapes: Shapes) -> tuple[TransformerModel, float]:
    """Return the model of a class's config, and the FLOPs that PyTorch counts in one forward pass without data."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.AutoConfig.for_model(model_type, **changes)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = getattr(transformers, name)(config).eval()
        inputs = {
            key: torch.zeros(shape, dtype=torch.long if key.endswith("ids") else torch.float32)
            for key, shape in shapes.items()
        }
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs)
    stated = {**json.loads(config.to_json_string(use_diff=False)), "architectures": [name]}
    return model_from_hf_config(stated, model_type), float(counter.get_total_flops())


def forward_flops(model: TransformerModel, seq_len: int, shapes: Shapes) -> float:
    """Return the FLOPs of one forward pass, a third of those of a step that trains everything."""
    looks = model.has_encoder or model.has_towers
    length = model.input_tokens or shapes.get("input_ids", (0, None))[1]
    plan = TrainingPlan(seq_len=seq_len, global_batch_size=1, steps=1, input_len=length if looks else None)
    return float(step_flops(shape_of(model), layout_of(ParallelLayout()), work_of(plan, Stack()))[0]) / 3


def error_of(case: tuple[str, str, dict[str, Any], int, Shapes]) -> float:
    name, model_type, changes, seq_len, shapes = case
    model, flops = counted(name, model_type, changes, shapes)
    return forward_flops(model, seq_len, shapes) / flops - 1


@pytest.mark.parametrize(
    "case", [case for case in (*CASES, *CAUSAL) if case[0] in SAMPLE], ids=lambda case: str(case[0])
)
def test_a_forward_pass_has_the_flops_that_pytorch_counts(case: tuple[str, str, dict[str, Any], int, Shapes]) -> None:
    assert error_of(case) == pytest.approx(0, abs=WITHIN if case in CASES else WITHIN_CAUSAL)


@pytest.mark.exhaustive
def test_forward_passes_of_all_kinds_of_models_have_the_flops_that_pytorch_counts() -> None:
    off = {case[0]: error for case in CASES if abs(error := error_of(case)) > WITHIN}
    off |= {case[0]: error for case in CAUSAL if abs(error := error_of(case)) > WITHIN_CAUSAL}

    assert off == {}


def test_the_scores_of_deberta_against_positions_have_the_flops_that_pytorch_counts() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    stated = {
        **SMALL,
        "vocab_size": 64,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "position_buckets": 32,
        "share_att_key": True,
    }
    config = transformers.AutoConfig.for_model("deberta-v2", **stated)
    model = transformers.DebertaV2ForTokenClassification(config).eval()  # it reads values, which need memory
    samples, seq_len = 64, 128
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(samples, seq_len, dtype=torch.long))
    ours = model_from_hf_config({**config.to_dict(), "architectures": ["DebertaV2ForTokenClassification"]}, "deberta")

    # The positions themselves are projected once for all samples of a batch.
    assert samples * forward_flops(ours, seq_len, {}) == pytest.approx(counter.get_total_flops(), rel=0.01)
