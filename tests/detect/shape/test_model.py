"""The shape of live modules: by Hugging Face config, by structure, by counting, or confessed as unknown."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.shape.adapters import adapted_matrices
from carbon_plugin.detect.shape.experts import experts_in_a_loop
from carbon_plugin.detect.shape.model import EXPERTS, STAGE, detect_model
from carbon_plugin.detect.shape.parameters import count_parameters
from carbon_plugin.spec.models.model import MixtureOfExperts


class Decoder(nn.Module):
    """A decoder with grouped queries and a gated feed-forward layer; `heads` may stay unsaid."""

    def __init__(self, *, heads: int | None = 8, tied: bool = False, layers: int = 3, linear: type = nn.Linear) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(512, 64), nn.Embedding(32, 64)
        self.layers = nn.ModuleList(self.block(heads, linear) for _ in range(layers))
        self.head = nn.Linear(64, 512, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    @staticmethod
    def block(heads: int | None, linear: type) -> nn.Module:
        block = nn.Module()
        block.norm = nn.LayerNorm(64)
        block.q, block.k, block.v, block.o = (linear(64, width, bias=False) for width in (64, 16, 16, 64))
        block.gate, block.up, block.down = linear(64, 160), linear(64, 160), linear(160, 64)
        block.drop = nn.Dropout(0.1)
        if heads is not None:
            block.num_heads = heads
        return block


class LlamaLike(nn.Module):
    """A module that carries a Hugging Face config object, which has `model_type` and `to_dict`."""

    class Config:
        model_type = "llama"
        _name_or_path = "meta-llama/tiny"

        def to_dict(self) -> dict[str, object]:
            return {
                "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "tie_word_embeddings": False,
            }  # fmt: skip

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.config = self.Config()
        per_layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(2 * per_layer + 2 * 100 * 64 + 64 + extra))])


def test_model_that_was_loaded_from_here_is_named_after_its_class(monkeypatch):
    monkeypatch.setattr(LlamaLike.Config, "_name_or_path", "./")

    assert detect_model(LlamaLike()).name == "LlamaLike"


def test_config_of_a_hugging_face_model_gives_the_shape():
    found = detect_model(LlamaLike())

    assert found.name == "tiny"
    assert (found.fields["layers"], found.fields["kv_heads"], found.fields["ffn"]) == (2, 2, 96)
    assert found.fields["gated"] is True
    assert found.source.startswith("config of LlamaLike")


def test_config_that_does_not_fit_the_parameters_is_not_believed():
    found = detect_model(LlamaLike(extra=50_000))

    assert found.fields == {}
    assert "parameters, but the module has" in found.source


def test_structure_of_a_gated_decoder_with_grouped_queries_is_read():
    found = detect_model(Decoder())

    assert found.fields == {
        "layers": 3, "hidden": 64, "vocab": 512, "ffn": 160, "gated": True, "heads": 8, "kv_heads": 2, "head_dim": 8,
        "tied_embeddings": False, "learned_positions": 32, "dropout": 0.1,
    }  # fmt: skip
    assert found.assumed == ()
    assert found.parameters == sum(p.numel() for p in Decoder().parameters())


def test_shared_embedding_is_told_from_an_own_head():
    assert detect_model(Decoder(tied=True)).fields["tied_embeddings"] is True


def test_number_of_heads_that_nothing_tells_is_an_assumption():
    found = detect_model(Decoder(heads=None))

    assert not {"head_dim", "heads", "kv_heads"} & found.fields.keys()
    assert {assumption.field: assumption.value for assumption in found.assumed} == {
        "model.head_dim": "16", "model.heads": "4", "model.kv_heads": "1",
    }  # fmt: skip


def test_blocks_of_the_standard_library_are_read():
    layer = nn.TransformerEncoderLayer(32, 4, 128)
    model = nn.Sequential(
        nn.Embedding(50, 32), nn.TransformerEncoder(layer, 5, enable_nested_tensor=False), nn.Linear(32, 50)
    )

    found = detect_model(model)

    assert (found.fields["layers"], found.fields["heads"], found.fields["ffn"]) == (5, 4, 128)


def test_compiled_and_checkpointed_blocks_are_unwrapped():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = Decoder()
    model.layers = nn.ModuleList(checkpoint_wrapper(layer) for layer in model.layers)

    assert detect_model(torch.compile(model)).fields["heads"] == 8


def test_frozen_parameters_are_counted_apart():
    model = Decoder()
    model.layers.requires_grad_(False)

    found = detect_model(model)

    assert found.trainable_parameters == 512 * 64 * 2 + 32 * 64


class Convolutional(nn.Module):
    """A module that is no transformer; it counts its own calls, as user code may."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 16 * 16, 10, bias=False)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.last(torch.dropout(self.norm(self.first(images)).relu(), 0.5, train=True).flatten(1))


def watched(model: nn.Module, batch: torch.Tensor) -> BatchWatch:
    watch = BatchWatch(model)
    model(batch)
    watch.remove()
    return watch


def test_other_modules_are_counted_on_the_meta_device_without_touching_them():
    model = Convolutional()
    hooked = []
    model.first.register_forward_hook(lambda *_: hooked.append(1))
    watch = watched(model, torch.zeros(4, 3, 16, 16))
    state, random = [b.clone() for b in model.buffers()], torch.random.get_rng_state()

    found = detect_model(model, example=watch.example, deadline_s=time.thread_time() + 30)

    assert found.counted is not None
    assert found.counted.forward_flops_per_sample == 2 * (3 * 9 * 8 * 16 * 16 + 8 * 16 * 16 * 10)
    assert found.counted.activation_bytes_per_sample > 4 * 4 * 8 * 16 * 16
    assert found.counted.kernels >= 5
    assert (model.calls, len(hooked)) == (1, 1)
    assert all(torch.equal(a, b) for a, b in zip(state, model.buffers(), strict=True))
    assert torch.equal(random, torch.random.get_rng_state())


def test_counting_gives_up_in_time():
    model = Convolutional()
    watch = watched(model, torch.zeros(4, 3, 16, 16))

    found = detect_model(model, example=watch.example, deadline_s=time.thread_time() - 1)

    assert found.counted is None
    assert "counting took too long" in found.source


class DataDependent(Convolutional):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) if images.sum() >= 0 else images


def test_module_that_needs_data_is_confessed_as_unknown():
    model = DataDependent()
    watch = watched(model, torch.zeros(4, 3, 16, 16))

    found = detect_model(model, example=watch.example, deadline_s=time.thread_time() + 30)

    assert (found.fields, found.counted) == ({}, None)
    assert "not counted" in found.source


def test_one_stage_of_a_pipeline_is_marked_as_partial():
    found = detect_model(Decoder(), elsewhere=STAGE)

    assert found.partial
    assert "layers" not in found.fields


def test_parameters_that_a_framework_knows_come_before_those_counted_here():
    found = detect_model(Decoder(), parameters=(10**9, 10**6))

    assert (found.parameters, found.trainable_parameters) == (10**9, 10**6)
    assert "parameters, but the module has 1,000,000,000" in found.source


class Mixture(nn.Module):
    """Experts as tensors of three dimensions, gate and up fused or apart, or as a list of modules."""

    def __init__(self, form: str, *, top_k: int | None = 2, shared: int = 0) -> None:
        super().__init__()
        self.router = nn.Linear(64, 8, bias=False)
        if top_k is not None:
            self.top_k = top_k
        if form == "list":
            self.experts = nn.ModuleList(self.expert(96) for _ in range(8))
        elif form == "fused":
            self.gate_up, self.down = nn.Parameter(torch.zeros(8, 64, 192)), nn.Parameter(torch.zeros(8, 96, 64))
        else:
            shapes = {"gate": (8, 96, 64), "up": (8, 96, 64), "down": (8, 64, 96)}
            for name in shapes if form == "gated" else ("up", "down"):
                self.register_parameter(name, nn.Parameter(torch.zeros(shapes[name])))
        if shared:
            self.shared = self.expert(shared)

    @staticmethod
    def expert(width: int) -> nn.Module:
        expert = nn.Module()
        expert.gate, expert.up, expert.down = (
            nn.Linear(*size, bias=False) for size in [(64, width)] * 2 + [(width, 64)]
        )
        return expert


def sparse(form: str, *, layers: int = 4, dense: tuple[int, ...] = (), **options: int | None) -> Decoder:
    model = Decoder(layers=layers)
    for number, block in enumerate(model.layers):
        if number not in dense:
            del block.gate, block.up, block.down
            block.mixture = Mixture(form, **options)
    return model


@pytest.mark.parametrize("form", ["gated", "plain", "fused", "list"])
def test_mixture_of_experts_is_read_from_the_structure(form):
    found = detect_model(sparse(form))

    assert found.fields["moe"] == MixtureOfExperts(experts=8, top_k=2, expert_ffn=96)
    assert (found.fields["gated"], found.fields["ffn"], found.fields["kv_heads"]) == (form != "plain", 96, 2)


def test_dense_layers_before_the_sparse_ones_and_shared_experts_are_read():
    found = detect_model(sparse("gated", layers=5, dense=(0, 1), shared=32))

    assert found.fields["moe"] == MixtureOfExperts(
        experts=8, top_k=2, expert_ffn=96, shared_ffn=32, first_dense_layers=2
    )
    assert found.fields["ffn"] == 160


def test_dense_layers_between_the_sparse_ones_are_read():
    found = detect_model(sparse("list", layers=6, dense=(0, 2, 4)))

    assert found.fields["moe"] == MixtureOfExperts(experts=8, top_k=2, expert_ffn=96, every=2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sparse("gated", top_k=None), "no attribute that tells how many experts a token takes"),
        (sparse("gated", layers=6, dense=(0, 3)), "sparse layers without a rule: 1, 2, 4, 5"),
    ],
)
def test_mixture_that_is_not_understood_is_confessed(model, reason):
    found = detect_model(model)

    assert found.fields == {}
    assert reason in found.source


def test_experts_of_one_rank_are_not_taken_for_all():
    found = detect_model(sparse("list"), elsewhere=EXPERTS)

    assert found.partial
    assert not {"moe", "ffn"} & found.fields.keys()
    assert found.fields["layers"] == 4


@pytest.mark.parametrize(("form", "looped"), [("gated", False), ("plain", False), ("fused", False), ("list", True)])
def test_a_list_of_experts_is_a_loop_and_a_tensor_of_all_experts_is_a_grouped_product(form, looped):
    found = experts_in_a_loop(sparse(form, layers=5, dense=(0, 1), shared=32))

    assert (found.value, "layers.2.mixture" in found.source) == (looped, True)


def test_a_model_without_experts_shows_no_loop():
    assert experts_in_a_loop(Decoder()) is None


def test_a_list_of_shared_experts_and_convolutions_are_no_routed_experts():
    model = Decoder()
    for block in model.layers:
        block.shared_experts = nn.ModuleList(Mixture.expert(32) for _ in range(2))
        block.short = nn.Conv1d(64, 64, 3)

    assert experts_in_a_loop(model) is None


@pytest.mark.parametrize(("form", "looped"), [("eager", True), ("grouped_mm", False)])
def test_transformers_says_in_its_configuration_whether_it_loops_over_experts(form, looped):
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, vocab_size=64,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM._from_config(config, experts_implementation=form)

    found = experts_in_a_loop(model)

    assert (found.value, found.source) == (looped, f"config._experts_implementation {form}")


def test_low_rank_adapters_do_not_hide_the_structure():
    model = Decoder()
    for block in model.layers:
        block.requires_grad_(False)
        block.q.lora_A, block.q.lora_B = nn.Linear(64, 48, bias=False), nn.Linear(48, 64, bias=False)
    without = detect_model(model).fields["adapter_dropout"]
    model.layers[0].q.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.05)})

    found = detect_model(model)

    assert (found.fields["heads"], found.fields["ffn"]) == (8, 160)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trainable_parameters < found.parameters
    assert found.fields["adapters"] == "query_value"
    assert (without, found.fields["adapter_dropout"]) == (0, 0.05)


@pytest.mark.parametrize(
    ("holders", "adapters"),
    [
        (["self_attn.q_proj", "self_attn.v_proj"], "query_value"),
        (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "query_key_value"),
        (["attn.c_attn"], "query_key_value"),
        (["self_attention.linear_qkv"], "query_key_value"),
        (["self_attn.q_proj", "self_attn.o_proj"], "attention"),
        (["attn.output_proj"], "attention"),
        (["self_attn.q_proj", "mlp.down_proj"], "all_matrices"),
        (["block_sparse_moe.experts.0.w1"], "all_matrices"),
        ([], None),
    ],
)
def test_the_matrices_that_have_adapters_are_read_from_the_names_of_their_modules(holders, adapters):
    model = nn.Module()
    model.add_module("norm", nn.LayerNorm(4))
    for holder in holders:
        part = model
        for name in ("layers", "0", *holder.split(".")):
            if name not in part._modules:
                part.add_module(name, nn.Module())
            part = part._modules[name]
        part.lora_A, part.lora_B = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    assert adapted_matrices(model) == adapters


def packed_by_a_stand_in(layer: nn.Linear) -> nn.Module:
    """Return a layer whose frozen weight is packed as bitsandbytes packs it, because the tests do not depend on that
    package.
    """
    packed: Any = nn.Parameter(torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=torch.Size((layer.out_features, layer.in_features)))
    layer.weight = packed
    return layer


def packed_by_bitsandbytes(layer: nn.Linear) -> nn.Module:
    layers = pytest.importorskip("bitsandbytes").nn
    return layers.Linear4bit(layer.in_features, layer.out_features, bias=False).to("cpu")


@pytest.mark.parametrize("packed", [packed_by_a_stand_in, packed_by_bitsandbytes])
def test_a_frozen_base_in_4_bits_counts_with_its_size_before_packing(packed):
    layer = packed(nn.Linear(64, 32, bias=False))
    layer.lora_A = nn.Linear(64, 4, bias=False)

    assert layer.weight.numel() == 64 * 32 // 2
    assert count_parameters(layer) == (64 * 32 + 64 * 4, 64 * 4)
