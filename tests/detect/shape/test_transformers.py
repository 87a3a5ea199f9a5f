"""Live encoders of transformers: the class of the module counts, and the lengths of its inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.observed import Detected, DetectedLayout, Observed
from carbon_plugin.detect.resolve.effective import Declared, Effective, World
from carbon_plugin.detect.resolve.rules import resolve
from carbon_plugin.detect.shape.model import detect_model
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.profiles import load_accelerator

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
ONE = World(
    world_size=1, nodes=1, devices_per_node=1, accelerator=Observed(load_accelerator("h100-sxm"), "NVML calls it so")
)


def built(name: str, model_type: str, **stated: Any) -> Any:
    return getattr(transformers, name)(transformers.AutoConfig.for_model(model_type, vocab_size=100, **stated))


def effective(model: Any, **batch: torch.Tensor) -> Effective:
    """Return the effective spec of a job that has called a model once with a batch."""
    watch = BatchWatch(model.train())
    model(**batch)
    fields = {**watch.observed(), "training.precision": Observed("bf16", "a live object")}
    axes = dict.fromkeys(("layout.tp", "layout.pp", "layout.cp", "layout.dp_shard"), Observed(1, "a live object"))
    found = Detected(
        layout=DetectedLayout(axes={name.removeprefix("layout."): axis for name, axis in axes.items()}, world_size=1),
        model=detect_model(model),
        fields=fields,
        device_kind="cuda",
    )
    watch.remove()
    return resolve(None, Declared(total_steps=10), found, ONE)


def tokens(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long)


def test_a_classifier_has_no_product_with_the_vocabulary_whatever_its_weights_came_from() -> None:
    model = built("BertForSequenceClassification", "bert", **SMALL)
    model.config.architectures = ["BertForMaskedLM"]

    assert detect_model(model).fields["outputs"] == 0
    assert detect_model(built("BertForMaskedLM", "bert", **SMALL)).fields["outputs"] is None


def test_a_class_of_the_users_own_counts_as_the_class_that_it_extends() -> None:
    class Ours(transformers.BertForSequenceClassification):
        pass

    model = Ours(transformers.AutoConfig.for_model("bert", vocab_size=100, **SMALL))

    assert detect_model(model).fields["outputs"] == 0


def test_a_model_on_the_base_class_of_a_family_has_the_head_that_its_user_gave_it() -> None:
    class Ours(transformers.LlamaPreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = transformers.LlamaModel(config)
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.lm_head.weight = self.model.embed_tokens.weight

    stated = {**SMALL, "num_key_value_heads": 4, "tie_word_embeddings": True}
    model = Ours(transformers.AutoConfig.for_model("llama", vocab_size=100, **stated))

    assert detect_model(model).fields["outputs"] is None


def test_encoder_and_decoder_have_the_lengths_that_they_were_called_with() -> None:
    found = effective(built("T5ForConditionalGeneration", "t5", **T5), input_ids=tokens(2, 20), labels=tokens(2, 12))

    assert found.spec is not None
    assert (found.spec.training.input_len, found.spec.training.seq_len) == (20, 12)
    assert predict_step(found.spec).step_time_s.value > 0


def test_the_patches_of_an_image_are_the_sequence_of_its_encoder() -> None:
    found = effective(
        built("ViTForImageClassification", "vit", **SMALL), pixel_values=torch.zeros(2, 3, 224, 224), labels=tokens(2)
    )

    assert found.spec is not None
    assert found.spec.training.seq_len == 197
    assert found.spec.training.global_batch_size == 2
    assert found.tokens_per_step is None  # images have no tokens
    assert predict_step(found.spec).step_time_s.value > 0


def test_the_letters_of_a_sound_are_not_its_length() -> None:
    small = {**SMALL, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    model = transformers.Wav2Vec2ForCTC(transformers.AutoConfig.for_model("wav2vec2", **small))
    found = effective(model, input_values=torch.zeros(2, 16_000), labels=tokens(2, 7))

    assert found.spec is None
    assert "training.seq_len: neither seen nor given" in found.missing
    assert found.fields["training.seq_len"]["source"] != "fixed by the model's config"


@pytest.mark.parametrize(("images", "found"), [(0, 0), (2, 1), (4, 2)])
def test_a_tower_works_on_as_many_images_as_the_batch_has(images: int, found: int) -> None:
    towers = {
        "text_config": {"model_type": "llama", "vocab_size": 100, "num_key_value_heads": 4, **SMALL},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **SMALL},
    }
    config = transformers.AutoConfig.for_model("llava", image_token_index=99, **towers)
    model = transformers.LlavaForConditionalGeneration(config)
    ids = tokens(2, 24)
    ids[:, : 4 * images // 2] = 99
    batch = {"pixel_values": torch.zeros(images, 3, 28, 28)} if images else {}
    spec = effective(model, input_ids=ids, labels=tokens(2, 24), **batch).spec

    assert spec is not None
    assert spec.training.inputs_per_sequence == found
    assert predict_step(spec).step_time_s.value > 0
