"""Encoders of texts, images and sounds from their configs: parameters against transformers, heads and lengths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.models.model import TransformerModel

WITHIN = 0.005
NO_LABELS = "2 classes (num_labels), which is the default of transformers, because the config states none"
SHARED_ATTENTION = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 256,
    "share_att_key": True,
}
"""What the config of DeBERTa v3 states."""
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "BertForMaskedLM", {}),
    ("bert", "BertForSequenceClassification", {"num_labels": 5}),
    ("bert", "BertForTokenClassification", {}),
    ("bert", "BertForQuestionAnswering", {}),
    ("bert", "BertModel", {}),
    ("roberta", "RobertaForSequenceClassification", {}),
    ("electra", "ElectraForPreTraining", {"embedding_size": 768}),
    ("albert", "AlbertForMaskedLM", {}),
    ("albert", "AlbertForPreTraining", {}),
    ("bert", "BertForPreTraining", {}),
    ("modernvbert", "ModernVBertForMaskedLM", {}),
    ("albert", "AlbertForSequenceClassification", {"hidden_size": 768, "num_attention_heads": 12}),
    ("albert", "AlbertModel", {"num_hidden_groups": 2}),
    ("distilbert", "DistilBertForMaskedLM", {}),
    ("distilbert", "DistilBertForSequenceClassification", {}),
    ("distilbert", "DistilBertModel", {}),
    ("mpnet", "MPNetForMaskedLM", {}),
    ("modernbert", "ModernBertForMaskedLM", {}),
    ("modernbert", "ModernBertForSequenceClassification", {}),
    ("eurobert", "EuroBertForMaskedLM", {}),
    ("nomic_bert", "NomicBertForMaskedLM", {}),
    ("deberta", "DebertaForMaskedLM", {}),
    ("deberta", "DebertaForSequenceClassification", {"relative_attention": True, "pos_att_type": "c2p|p2c"}),
    ("deberta-v2", "DebertaV2ForMaskedLM", {**SHARED_ATTENTION, "conv_kernel_size": 3}),
    ("deberta-v2", "DebertaV2ForSequenceClassification", {**SHARED_ATTENTION, "share_att_key": False}),
    ("llama", "LlamaForSequenceClassification", {}),
    ("llama", "LlamaModel", {}),
    ("vit", "ViTForImageClassification", {"num_labels": 1000}),
    ("vit", "ViTModel", {}),
    ("deit", "DeiTForImageClassification", {"image_size": 384}),
    ("beit", "BeitForImageClassification", {"use_relative_position_bias": True}),
    ("beit", "BeitForMaskedImageModeling", {"use_shared_relative_position_bias": True, "use_mask_token": True}),
    ("dinov2", "Dinov2ForImageClassification", {"num_labels": 1000}),
    ("dinov2", "Dinov2Model", {"use_swiglu_ffn": True, "hidden_size": 1536, "num_attention_heads": 24}),
    ("dinov2_with_registers", "Dinov2WithRegistersModel", {}),
    ("dinov3_vit", "DINOv3ViTModel", {"use_gated_mlp": True, "num_register_tokens": 4}),
    ("ijepa", "IJepaForImageClassification", {}),
    ("vit_msn", "ViTMSNForImageClassification", {}),
    ("videomae", "VideoMAEForVideoClassification", {}),
    ("audio-spectrogram-transformer", "ASTForAudioClassification", {"num_labels": 527}),
    ("clip_vision_model", "CLIPVisionModel", {}),
    ("siglip_vision_model", "SiglipVisionModel", {}),
    ("clip", "CLIPModel", {}),
    ("siglip", "SiglipModel", {}),
    ("siglip2", "Siglip2Model", {}),
    ("wav2vec2", "Wav2Vec2ForCTC", {}),
    ("wav2vec2", "Wav2Vec2ForPreTraining", {"hidden_size": 1024, "num_attention_heads": 16, "conv_bias": True}),
    ("hubert", "HubertForCTC", {}),
    ("wavlm", "WavLMForCTC", {}),
    ("data2vec-audio", "Data2VecAudioForCTC", {}),
    ("t5", "T5EncoderModel", {}),
    ("t5", "T5ForTokenClassification", {}),
    ("bart", "BartForSequenceClassification", {}),
]
SAMPLE = [
    case
    for case in CASES
    if case[1]
    in (
        "AlbertForMaskedLM",
        "BertForTokenClassification",
        "CLIPModel",
        "DebertaV2ForMaskedLM",
        "Dinov2ForImageClassification",
        "ModernBertForMaskedLM",
        "T5EncoderModel",
        "ViTForImageClassification",
        "Wav2Vec2ForCTC",
    )
]


def built(model_type: str, name: str, changes: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the config that transformers writes for a class, and the parameters of the class."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **changes)
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    model.tie_weights()
    parameters = sum({id(parameter): parameter.numel() for parameter in model.parameters()}.values())
    return {**json.loads(config.to_json_string(use_diff=True)), "architectures": [name]}, parameters


def read(model_type: str, **stated: Any) -> TransformerModel:
    """Return the model of the class defaults of a family with a few keys stated."""
    pytest.importorskip("transformers")
    from transformers import AutoConfig

    return model_from_hf_config({**AutoConfig.for_model(model_type).to_dict(), **stated}, model_type)


@pytest.mark.parametrize(("model_type", "name", "changes"), SAMPLE, ids=[case[1] for case in SAMPLE])
def test_a_class_has_the_parameters_that_its_config_gives(model_type: str, name: str, changes: dict[str, Any]) -> None:
    config, parameters = built(model_type, name, changes)

    assert model_from_hf_config(config, model_type).parameters == pytest.approx(parameters, rel=WITHIN)


@pytest.mark.exhaustive
def test_every_encoder_has_the_parameters_of_its_class() -> None:
    off = {}
    for model_type, name, changes in CASES:
        config, parameters = built(model_type, name, changes)
        error = model_from_hf_config(config, model_type).parameters / parameters - 1
        if abs(error) > WITHIN:
            off[name] = error

    assert off == {}


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("BertForMaskedLM", None),
        ("BertForPreTraining", None),
        ("BertLMHeadModel", None),
        ("BertForSequenceClassification", 0),
        ("BertForTokenClassification", 3),
        ("BertForMultipleChoice", 0),
        ("BertModel", 0),
    ],
)
def test_the_class_that_a_config_names_says_what_is_predicted(name: str, outputs: int | None) -> None:
    labels = {str(number): f"class {number}" for number in range(3)}
    model = read("bert", architectures=[name], id2label=labels)

    assert model.outputs == outputs
    assert any(f"{name} has" in note for note in model.notes) == (outputs is not None)


def test_code_beside_the_weights_may_use_a_class_without_a_head_as_a_language_model() -> None:
    model = read("llama", architectures=["OurModel"], auto_map={"AutoModelForCausalLM": "ours.OurModel"})

    assert model.outputs is None


@pytest.mark.parametrize(
    ("model_type", "stated", "tokens"),
    [
        ("vit", {}, 14 * 14 + 1),
        ("vit", {"image_size": 384, "patch_size": 32}, 12 * 12 + 1),
        ("deit", {}, 14 * 14 + 2),
        ("dinov2_with_registers", {}, 14 * 14 + 5),
        ("siglip_vision_model", {}, 14 * 14),
        ("videomae", {}, 16 // 2 * 14 * 14),
        ("audio-spectrogram-transformer", {}, 12 * 101 + 2),
        ("whisper", {}, 1500),
        ("clip", {}, 7 * 7 + 1),
    ],
)
def test_the_tokens_of_an_image_or_a_sound_follow_from_the_config(
    model_type: str, stated: dict[str, Any], tokens: int
) -> None:
    assert read(model_type, **stated).input_tokens == tokens


@pytest.mark.parametrize(
    ("model_type", "assumed"),
    [("vit", "image_size 224, intermediate_size 3072"), ("hubert", "conv_stride"), ("bert", "intermediate_size 3072")],
)
def test_what_a_config_leaves_out_of_an_encoder_is_said(model_type: str, assumed: str) -> None:
    outline = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 32}
    model = model_from_hf_config({"model_type": model_type, **outline}, model_type)

    assert model.notes[0].startswith(f"class defaults of {model_type} for ")
    assert assumed in model.notes[0]


def test_modernbert_sees_64_tokens_on_both_sides_in_two_of_three_layers() -> None:
    model = read("modernbert")

    assert (model.sliding_window, model.sliding_window_layers) == (129, 14)
    assert not model.causal


def test_layers_of_modernbert_without_a_list_are_those_with_one() -> None:
    config = read("modernbert", layer_types=None, global_attn_every_n_layers=3)

    assert (config.sliding_window, config.sliding_window_layers) == (129, 14)


def test_deberta_v3_scores_contents_against_512_positions_in_each_layer() -> None:
    model = read("deberta-v2", **SHARED_ATTENTION)
    scores = next(part for part in model.parts if part.name == "relative positions")

    assert scores.parameters == 512 * 1536
    assert scores.products == 24 * 2 * 512 * 1536
    assert model.learned_positions == 0


def test_convolutions_of_a_wave_cost_as_much_as_their_places() -> None:
    front = next(part for part in read("wav2vec2").parts if part.name == "convolutions of the wave")
    places = (64, 32, 16, 8, 4, 2, 1)  # of the layers, a frame
    weights = (512 * 10, *[512 * 512 * 3] * 4, *[512 * 512 * 2] * 2)

    assert front.products == sum(w * p for w, p in zip(weights, places, strict=True)) + 512 * 768


def test_layers_of_llama_3_2_that_look_at_the_image_see_no_text() -> None:
    blocks = read("mllama").blocks
    crossing = [block for block in blocks if block.mixers[0].of_input]

    assert sum(block.layers for block in crossing) == 8
    assert all((mixer.heads, mixer.kv_heads) == (32, 8) for block in crossing for mixer in block.mixers)


def test_gemma_3n_is_its_text_model_with_a_convolutional_tower_and_a_conformer() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

    config = AutoConfig.for_model("gemma3n")
    with torch.device("meta"):
        parts = (AutoModelForCausalLM.from_config(config.text_config), Gemma3nAudioEncoder(config.audio_config))
    text = config.text_config.hidden_size
    own = sum(sum({id(p): p.numel() for p in part.parameters()}.values()) for part in parts)
    joined = sum((128 + text) * width for width in (2048, 1536))  # embeddings and projections of both
    model = model_from_hf_config(config.to_dict(), "gemma-3n")

    # 294,126,912 parameters: mobilenetv5_300m_enc of timm 1.0.31
    assert model.parameters == pytest.approx(own + joined + 294_126_912, rel=WITHIN)
    assert model.has_towers


def test_snowflake_arctic_has_its_published_parameters() -> None:
    # 480 B in all, of which a token uses 17 B: 10 B dense beside 128 experts of 3.66 B (model card)
    model = model_from_hf_config(
        {
            "model_type": "arctic",
            "architectures": ["ArcticForCausalLM"],
            "hidden_size": 7168,
            "intermediate_size": 4864,
            "num_hidden_layers": 35,
            "num_attention_heads": 56,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "num_experts_per_tok": 2,
            "moe_layer_frequency": 1,
            "parallel_attn_mlp_res": True,
            "vocab_size": 32000,
        },
        "arctic",
    )

    assert model.parameters == pytest.approx(480e9, rel=0.01)
    assert model.active_parameters == pytest.approx(17e9, rel=0.03)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "swin"}, "has stages whose widths and numbers of patches differ"),
        ({"model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"]}, "trains a decoder or an image beside"),
        ({"model_type": "mbart", "architectures": ["MBartForCausalLM"]}, "the decoder of mbart without its encoder"),
        (
            {"model_type": "whisper", "architectures": ["WhisperForAudioClassification"]},
            "the encoder of whisper without its decoder",
        ),
        ({"model_type": "clip", "architectures": ["CLIPForImageClassification"]}, "trains one tower of clip"),
        ({"model_type": "wav2vec2", "add_adapter": True}, "add_adapter adds convolutions"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "attends to the output of another model"),
        ({"model_type": "doge", "is_moe": True}, "looks experts of one neuron up in a table"),
    ],
)
def test_what_is_not_read_is_refused_with_a_reason_and_the_next_step(config: dict[str, Any], message: str) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoConfig

    whole = {**AutoConfig.for_model(config["model_type"]).to_dict(), **config}
    with pytest.raises(SpecError, match=message) as refused:
        model_from_hf_config(whole, "any")
    assert "carbon-plugin count" in str(refused.value)


def test_albert_has_the_weights_of_one_layer_and_the_work_of_twelve() -> None:
    model = read("albert")

    assert [(block.layers, block.passes) for block in model.blocks] == [(1, 12)]
    assert model.layers == 12
    with pytest.raises(SpecError, match="num_hidden_groups 5 does not divide 12 layers"):
        read("albert", num_hidden_groups=5)


@pytest.mark.parametrize(
    ("model_type", "stated", "assumed"),
    [
        ("bert", {"architectures": ["BertForSequenceClassification"]}, True),
        ("bert", {"architectures": ["BertForTokenClassification"]}, True),
        ("vit", {}, True),
        ("vit", {"architectures": ["ViTForImageClassification"]}, True),
        ("bert", {"architectures": ["BertForSequenceClassification"], "num_labels": 2}, False),
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, False),
        ("bert", {"architectures": ["BertForMaskedLM"]}, False),
        ("vit", {"id2label": {"0": "cat", "1": "dog"}}, False),
    ],
)
def test_a_number_of_classes_that_nobody_states_is_named(
    model_type: str, stated: dict[str, Any], assumed: bool
) -> None:
    model = read(model_type, **{"id2label": None, **stated})

    assert any(NO_LABELS in note for note in model.notes) == assumed
