"""Activations against what autograd really keeps of small models, and what each technique leaves of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carbon_plugin.predict.activations import first_stage_layers, layer_activation_bytes
from carbon_plugin.predict.case.from_spec import NARROW_BYTES, layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.adapters import Adapters
from carbon_plugin.spec.models.model import MixtureOfExperts, MultiLatentAttention, TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import GPT, LLAMA

MakeRates = Callable[..., Rates]
SEQ_LEN, BATCH = 128, 2
RANK = 8
MIXTURE = TransformerModel(
    name="mixture",
    layers=4,
    hidden=256,
    heads=8,
    kv_heads=8,
    head_dim=32,
    ffn=1024,
    vocab=1000,
    gated=True,
    moe=MixtureOfExperts(experts=8, top_k=2, expert_ffn=512, shared_ffn=512),
    mla=MultiLatentAttention(q_lora_rank=64, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32),
    source="test",
)


def kept_by_autograd(attention: str, *, llama: bool, recompute: bool = False, gelu: str = "gelu") -> float:
    """Return the bytes a token that one layer of a Hugging Face model keeps: those of two layers less those of one,
    without parameters.
    """
    one, two = (_kept(layers, attention, llama=llama, recompute=recompute, gelu=gelu) for layers in (1, 2))
    return (two - one) / (SEQ_LEN * BATCH)


def _kept(
    layers: int, attention: str, *, llama: bool, recompute: bool, every: int | None = None, gelu: str = "gelu"
) -> int:
    """Return the bytes that the layers keep; `every` recomputes each layer whose number from 1 on is a multiple."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if llama:
        config = transformers.LlamaConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_hidden_layers=layers,
            vocab_size=1000,
            attn_implementation=attention,
        )
    else:
        config = transformers.GPT2Config(
            n_embd=256,
            n_inner=1024,
            n_head=8,
            n_layer=layers,
            vocab_size=1000,
            activation_function=gelu,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            attn_implementation=attention,
        )
    model = transformers.AutoModel.from_config(config).to(torch.bfloat16).train()
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    if every is not None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        for number in range(every - 1, layers, every):  # as torchtitan's layer policy counts
            model.layers[number] = checkpoint_wrapper(model.layers[number], preserve_rng_state=False)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def pack(tensor):  # type: ignore[no-untyped-def]
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.randint(0, 1000, (BATCH, SEQ_LEN)), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def predicted(
    model: TransformerModel,
    rates: Rates,
    layout: ParallelLayout | None = None,
    stack: Stack | None = None,
    precision: str = "bf16",
    *,
    sparse: bool = False,
) -> float:
    """Return the predicted bytes a token that one layer keeps."""
    training = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=8, steps=1, precision=precision)
    work = work_of(training, stack or Stack())
    size = layer_activation_bytes(shape_of(model), layout_of(layout or ParallelLayout()), work, rates, sparse=sparse)
    return float(size) / SEQ_LEN


def test_a_plain_llama_layer_keeps_what_autograd_keeps_of_it(rates: MakeRates) -> None:
    # What is left out is one number a token and norm, and one a head: 0.3 % of this small layer.
    assert predicted(LLAMA, rates()) == pytest.approx(kept_by_autograd("sdpa", llama=True), rel=0.005)


def test_a_plain_llama_layer_whose_scores_go_through_memory_keeps_what_autograd_keeps_of_it(rates: MakeRates) -> None:
    single = rates(attention_unfused=1.0, attention_eager=1.0)

    assert predicted(LLAMA, single) == pytest.approx(kept_by_autograd("eager", llama=True), rel=0.005)


def test_a_plain_gpt_layer_keeps_what_autograd_keeps_of_it(rates: MakeRates) -> None:
    assert predicted(GPT, rates()) == pytest.approx(kept_by_autograd("sdpa", llama=False), rel=0.005)


def test_a_gelu_by_its_formula_keeps_three_results_more(rates: MakeRates) -> None:
    written = msgspec.structs.replace(GPT, written_gelu=True)
    assert predicted(written, rates()) == pytest.approx(
        kept_by_autograd("sdpa", llama=False, gelu="gelu_new"), rel=0.005
    )
    fused = predicted(written, rates(), stack=Stack(fused=True))
    assert fused == predicted(GPT, rates(), stack=Stack(fused=True))


@pytest.mark.parametrize(
    ("adapters", "matrices"),
    [("query_value", 2), ("query_key_value", 3), ("attention", 4), ("all_matrices", 7)],
)
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_a_frozen_layer_with_adapters_keeps_what_autograd_keeps_of_it(
    rates: MakeRates, adapters: Adapters, matrices: int, dropout: float
) -> None:
    model = msgspec.structs.replace(LLAMA, adapters=adapters, adapter_dropout=dropout, trainable_fraction=0.01)
    narrow = 2 * RANK * matrices  # what each adapter passes from its first matrix to its second one
    uncounted = 4 * LLAMA.heads + 2 * 4  # a logarithm a head, and a deviation a norm

    assert predicted(model, rates()) == _kept_with_adapters(matrices, dropout) - narrow - uncounted


def test_modules_before_megatron_core_keep_a_gates_activation_and_a_copy_of_what_the_core_returns(
    rates: MakeRates,
) -> None:
    """Four peaks of Megatron-LM of 2023 (its pull request 482) are 5 to 9 % above our count without them."""
    core, legacy = Stack(fused=True), Stack(fused=True, legacy_modules=True)

    more = predicted(LLAMA, rates(), stack=legacy) - predicted(LLAMA, rates(), stack=core)
    assert more == 2 * LLAMA.ffn + 2 * LLAMA.heads * LLAMA.head_dim


def _kept_with_adapters(matrices: int, dropout: float) -> float:
    """Return the bytes a token that one frozen layer keeps, with adapters on its first matrices in this order."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    names = ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")[:matrices]

    class Adapted(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base = base
            self.narrow = torch.nn.Linear(base.in_features, RANK, bias=False, dtype=torch.bfloat16)
            self.wide = torch.nn.Linear(RANK, base.out_features, bias=False, dtype=torch.bfloat16)

        def forward(self, x: Any) -> Any:
            taken = torch.native_dropout(x, dropout, True)[0] if dropout else x  # with a mask of bytes, as on GPUs
            return self.base(x) + self.wide(self.narrow(taken)) * 2.0

    def kept(layers: int) -> int:
        config = transformers.LlamaConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_hidden_layers=layers,
            vocab_size=64,
            attn_implementation="sdpa",
        )
        model = transformers.LlamaModel(config).to(torch.bfloat16).train().requires_grad_(False)
        for layer in model.layers:
            for name in names:
                part = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
                setattr(part, name, Adapted(getattr(part, name)))
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        found = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                found[storage._cdata] = storage
            return tensor

        embedded = torch.randn(BATCH, SEQ_LEN, 256, dtype=torch.bfloat16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(inputs_embeds=embedded, use_cache=False)
        return sum(storage.nbytes() for storage in found.values())

    return (kept(3) - kept(1)) / 2 / (SEQ_LEN * BATCH)


def test_full_recompute_keeps_the_input_of_a_layer_and_no_more() -> None:
    assert kept_by_autograd("sdpa", llama=True, recompute=True) == 2 * LLAMA.hidden


def test_fused_chains_keep_less_of_a_gated_layer_and_as_much_of_another(rates: MakeRates) -> None:
    fused = Stack(fused=True)

    # A written-out RMSNorm keeps 4 bytes more a unit of width, twice; a gate of its own 2 bytes a unit of the block.
    saved = 8 * LLAMA.hidden + 2 * LLAMA.ffn
    assert predicted(LLAMA, rates()) - predicted(LLAMA, rates(), stack=fused) == pytest.approx(saved)
    assert predicted(GPT, rates()) == predicted(GPT, rates(), stack=fused)
    stated = Stack(cross_entropy="fused", plain_modules=True)
    assert predicted(LLAMA, rates(), stack=stated) == predicted(LLAMA, rates())


@pytest.mark.parametrize("precision", NARROW_BYTES)
def test_transformer_engine_keeps_inputs_of_products_in_the_narrow_precision(rates: MakeRates, precision: str) -> None:
    wide = predicted(GPT, rates(), stack=Stack(fused=True), precision=precision)
    narrow = predicted(GPT, rates(), stack=Stack(fused=True, narrow_inputs=True), precision=precision)

    # Both norms' outputs and the activation become narrow; the core's output is kept in both.
    each = NARROW_BYTES[precision]
    assert wide - narrow == pytest.approx((2 - each) * (2 * GPT.hidden + GPT.ffn) - each * GPT.hidden)


@pytest.mark.parametrize("precision", NARROW_BYTES)
def test_narrow_copies_that_serve_the_backward_pass_too_replace_the_wide_ones(rates: MakeRates, precision: str) -> None:
    inputs, everything = (
        predicted(LLAMA, rates(), stack=Stack(fused=True, narrow_inputs=True, narrow_kept=kept), precision=precision)
        for kept in (False, True)
    )

    # The gate and the first product become narrow, and of the core's output only one copy is left.
    each = NARROW_BYTES[precision]
    assert inputs - everything == pytest.approx((2 - each) * 2 * LLAMA.ffn + 2 * LLAMA.heads * LLAMA.head_dim)


def test_inputs_of_products_stay_wide_in_16_bit(rates: MakeRates) -> None:
    assert predicted(GPT, rates(), stack=Stack(narrow_inputs=True)) == predicted(GPT, rates())


@pytest.mark.parametrize(
    ("module", "dropped"),
    [
        ("layernorm", 2 * 2 * 256),
        ("moe_act", 2 * (2 * 512 + 512)),
        ("mla_up_proj", 2 * 8 * (48 + 48 + 32)),
        ("shared_experts", 6 * 512),
    ],
)
def test_each_recomputed_module_drops_what_it_can_build_again(rates: MakeRates, module: str, dropped: int) -> None:
    stack = Stack(fused=True)
    layout = ParallelLayout(recompute="selective", recompute_modules=(module,))
    whole = predicted(MIXTURE, rates(), stack=stack, sparse=True)

    assert whole - predicted(MIXTURE, rates(), layout, stack, sparse=True) == pytest.approx(dropped)


def test_recomputed_experts_leave_norms_and_attention(rates: MakeRates) -> None:
    stack = Stack(fused=True)
    layout = ParallelLayout(recompute="selective", recompute_modules=("moe",))
    left = predicted(MIXTURE, rates(), layout, stack, sparse=True)

    mla = 2 * (8 * (48 + 48 + 32) + 8 * 32 + 2 * (64 + 32 + 16))
    assert left == pytest.approx(8 * MIXTURE.hidden + mla)
    assert predicted(MIXTURE, rates(), layout, stack) == predicted(
        MIXTURE, rates(), stack=stack
    )  # dense layers keep all


def test_a_weighted_activation_saves_what_experts_return(rates: MakeRates) -> None:
    plain, weighted = (
        predicted(MIXTURE, rates(), stack=Stack(fused=True, weighted_experts=said), sparse=True)
        for said in (False, True)
    )

    assert plain - weighted == pytest.approx(2 * 2 * MIXTURE.hidden)


def parts(model: TransformerModel, rates: Rates, layout: ParallelLayout, stack: Stack, **plan) -> dict[str, float]:
    """Return the parts at the peak, which is at the loss, because the optimizer updates without a copy."""
    training = TrainingPlan(**({"seq_len": SEQ_LEN, "global_batch_size": 64, "steps": 1} | plan))
    stack = msgspec.structs.replace(stack, fused_optimizer=True)
    found = memory_bytes(shape_of(model), layout_of(layout), work_of(training, stack), rates)
    return {name: float(size) for name, size in found.items()}


def test_layers_whose_activations_are_offloaded_leave_the_device(rates: MakeRates) -> None:
    kept, half, none = (
        parts(GPT, rates(), ParallelLayout(), Stack(), activation_offload=share)["activations"] for share in (0, 0.5, 1)
    )

    assert half == pytest.approx(kept / 2)
    assert none == 0


def test_offloaded_activations_are_said_to_cost_no_time() -> None:
    document = {
        "model": "llama3-8b",
        "cluster": {"accelerator": "h100-sxm", "nodes": 1},
        "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1},
        "training": {"seq_len": 2048, "global_batch_size": 8, "steps": 1, "activation_offload": 0.5},
        "site": {"zone": "FRA"},
    }
    spec = build_run_spec(document, origin="test")

    assert "training.activation_offload" in {one.field for one in predict_step(spec).assumptions}


def test_deepspeed_adds_16_bit_gradients_up_in_fp32_beside_them_under_a_pipeline(rates: MakeRates) -> None:
    alone = ParallelLayout(dp_shard=8, zero_stage=1)
    piped = ParallelLayout(dp_shard=4, zero_stage=1, pp=2)
    beside = Stack(accumulates_beside=True)

    def gradients(layout: ParallelLayout, stack: Stack, precision: str = "bf16") -> float:
        return parts(GPT, rates(), layout, stack, precision=precision)["gradients"]

    assert gradients(piped, beside) == pytest.approx(6 / 4 * gradients(piped, Stack()))
    assert gradients(alone, beside) == pytest.approx(2 / 4 * gradients(alone, Stack()))
    assert gradients(piped, beside, "fp16") == gradients(piped, beside) / 3  # its fp16 optimizer adds up in fp16


def test_policies_of_selective_recompute_keep_less_in_order(rates: MakeRates) -> None:
    layout = ParallelLayout(recompute="operators")
    kept = [
        parts(LLAMA, rates(), layout, Stack(operators_keep=what))["activations"]
        for what in ("products", "projections", "inputs")
    ]
    full = parts(LLAMA, rates(), ParallelLayout(recompute="full"), Stack())["activations"]

    assert kept[0] > kept[1] > kept[2] == pytest.approx(full)


def test_what_a_product_that_no_list_knows_returns_is_not_kept(rates: MakeRates) -> None:
    """The NVFP4 rows of a GB200's torchtitan hold 36.6 kB a token and layer less than those in bf16."""
    layout, stack = ParallelLayout(recompute="operators"), Stack()
    wide, narrow = (
        parts(LLAMA, rates(), layout, stack, precision=precision)["activations"] for precision in ("bf16", "nvfp4")
    )

    assert narrow == pytest.approx(2 * (LLAMA.hidden + LLAMA.heads * LLAMA.head_dim) * SEQ_LEN * LLAMA.layers)
    assert narrow < wide


def test_the_head_stays_gathered_where_layers_are_gathered_one_by_one(rates: MakeRates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3)
    wide, wider = (msgspec.structs.replace(LLAMA, vocab=vocab, tied_embeddings=False) for vocab in (50_000, 60_000))

    def grown(unit: str) -> float:
        """Return what more tokens add to the parameters beyond the sharded tables themselves."""
        small, large = (parts(model, rates(), layout, Stack(shard_unit=unit)) for model in (wide, wider))
        return large["parameters"] - small["parameters"]

    assert grown("layer") == pytest.approx(2 * 10_000 * LLAMA.hidden)
    assert grown("weight") == grown("bucket") == 0


def test_a_classifier_has_no_head_that_stays_gathered(rates: MakeRates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3)
    classifier = msgspec.structs.replace(LLAMA, vocab=50_000, outputs=0)
    layer, weight = (
        parts(classifier, rates(), layout, Stack(shard_unit=unit))["parameters"] for unit in ("layer", "weight")
    )

    assert layer - weight < 2 * 50_000 * LLAMA.hidden


def test_blocks_that_recomputed_layers_free_before_the_logits_are_reserved_and_not_needed(rates: MakeRates) -> None:
    """The logits are larger than the results of a layer's products, or its scores, and find no room in them."""
    scores = rates(attention_unfused=1.0, attention_eager=1.0)

    def freed(recompute: str, kernel: Rates, vocab: int = 50_000, share: float = 1.0) -> float:
        training = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=64, steps=1)
        layout, work = (
            layout_of(ParallelLayout(recompute=recompute, recompute_share=share)),
            work_of(training, Stack(fused=True)),
        )
        model = shape_of(msgspec.structs.replace(LLAMA, vocab=vocab))
        found = memory_parts(model, layout, work, kernel)
        assert "freed" not in memory_bytes(model, layout, work, kernel)
        return float(found["freed"])

    assert freed("none", rates()) == freed("none", scores) == 0
    assert freed("full", rates()) == pytest.approx(2 * 3 * LLAMA.ffn * SEQ_LEN)
    assert freed("full", rates(), share=0.5) == freed("full", rates())  # every second layer, one at a time
    assert freed("operators", rates()) == pytest.approx(2 * 2 * LLAMA.ffn * SEQ_LEN)
    assert freed("full", scores) == pytest.approx(2 * 4 * LLAMA.heads * SEQ_LEN * SEQ_LEN)
    assert freed("full", scores, vocab=100) == 0  # the backward pass of a layer needs more than the loss, and as much


def test_gathering_weight_by_weight_holds_less_than_layer_by_layer(rates: MakeRates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3)
    layer, weight = (parts(LLAMA, rates(), layout, Stack(shard_unit=unit)) for unit in ("layer", "weight"))

    assert layer["communication"] > 2 * weight["communication"]
    assert weight["communication"] == pytest.approx(6 * LLAMA.hidden * LLAMA.ffn)


@pytest.mark.parametrize(
    ("layers", "pp", "chunks", "first"),
    [(80, 8, 5, 10), (126, 16, 8, 7), (126, 8, 8, 15), (61, 4, 4, 16), (32, 4, 1, 8), (94, 8, 4, 11)],
)
def test_the_first_stage_holds_fewer_layers_where_embedding_and_head_count_as_layers(
    layers: int, pp: int, chunks: int, first: int
) -> None:
    # Llama 3 405B (126 layers) and Qwen3 235B (94) are dealt out so in Megatron-Bridge.
    layout = ParallelLayout(pp=pp, virtual_stages=chunks, pipeline_schedule="interleaved" if chunks > 1 else "1f1b")

    model = msgspec.structs.replace(GPT, layers=layers)
    assert float(first_stage_layers(shape_of(model), layout_of(layout))) == first


@pytest.mark.parametrize(("pp", "first"), [(1, 24), (2, 14), (4, 7), (8, 4), (16, 2)])
def test_stages_that_are_cut_by_work_hold_more_layers_before_the_one_with_the_head(pp: int, first: int) -> None:
    # nanotron's 1B benchmark: a head of 103 M parameters is the work of 2.5 layers of 42 M.
    model = msgspec.structs.replace(LLAMA, layers=24, hidden=2048, heads=32, kv_heads=32, head_dim=64, ffn=4096)
    model = msgspec.structs.replace(model, vocab=50257)
    layout = ParallelLayout(pp=pp, balanced_stages=True)

    assert float(first_stage_layers(shape_of(model), layout_of(layout))) == first


def test_a_framework_that_keeps_what_it_gathered_divides_less_of_a_layer(rates: MakeRates) -> None:
    layout = ParallelLayout(tp=8, sequence_parallel=True)
    again, kept = (predicted(GPT, rates(), layout, Stack(fused=True, keeps_gathered=said)) for said in (False, True))

    assert kept - again == pytest.approx(2 * 2 * GPT.hidden * (1 - 1 / 8))


def test_no_technique_makes_memory_negative_or_larger_for_any_of_many_layouts(rates: MakeRates) -> None:
    modules = ("core_attn", "layernorm", "moe_act", "mla_up_proj", "mlp", "moe", "shared_experts")
    usual = Stack(fused=True)
    for tp in (1, 2, 8):
        for count in range(len(modules) + 1):
            recompute = "selective" if count else "none"
            layout = ParallelLayout(tp=tp, recompute=recompute, recompute_modules=modules[:count])
            found = parts(MIXTURE, rates(), layout, usual)
            more = parts(MIXTURE, rates(), ParallelLayout(tp=tp), usual)
            assert all(size >= 0 for size in found.values())
            assert found["activations"] <= more["activations"]


def test_a_layout_lists_modules_only_with_selective_recompute() -> None:
    from carbon_plugin.errors import InfeasibleLayoutError

    with pytest.raises(InfeasibleLayoutError, match="recompute_modules mlp need recompute selective, got full"):
        ParallelLayout(recompute="full", recompute_modules=("mlp",))


@pytest.mark.parametrize("every", [2, 3])
def test_recompute_of_every_nth_layer_keeps_the_inputs_of_those_and_all_of_the_others(
    rates: MakeRates, every: int
) -> None:
    kept = float(_kept(6, "sdpa", llama=True, recompute=False, every=every))
    whole, inputs = (_kept(6, "sdpa", llama=True, recompute=again) for again in (False, True))
    share = (6 // every) / 6

    assert kept == pytest.approx(share * inputs + (1 - share) * whole, rel=0.001)
    model = msgspec.structs.replace(LLAMA, layers=6)
    none, some, full = (
        parts(model, rates(), layout, Stack())["activations"]
        for layout in (
            ParallelLayout(),
            ParallelLayout(recompute="full", recompute_share=share),
            ParallelLayout(recompute="full"),
        )
    )
    assert some == pytest.approx(share * full + (1 - share) * none)
    assert (none - some) / (none - full) == pytest.approx((whole - kept) / (whole - inputs), rel=0.001)


def test_a_share_of_the_layers_needs_a_recompute_that_takes_layers() -> None:
    from carbon_plugin.errors import InfeasibleLayoutError, SpecError

    with pytest.raises(InfeasibleLayoutError, match=r"recompute_share 0.5 needs recompute full or operators, got none"):
        ParallelLayout(recompute_share=0.5)
    with pytest.raises(SpecError, match="recompute_share is 0, expected more than 0 and at most 1"):
        ParallelLayout(recompute="full", recompute_share=0.0)


def test_a_layer_that_comes_back_is_there_once_beside_its_input(rates: MakeRates) -> None:
    usual, layers = Stack(cross_entropy="chunked"), LLAMA.layers
    layer = predicted(LLAMA, rates(), stack=usual) * SEQ_LEN
    boundary = 2 * LLAMA.hidden * SEQ_LEN
    gradients = 2 * 3 * LLAMA.ffn * SEQ_LEN  # of the activation's result, and of both products before it
    logits = 0.25 * LLAMA.vocab * SEQ_LEN  # at the peak the logits or the layer, whichever is more
    none, full, offloaded = (
        parts(LLAMA, rates(), layout, usual, **plan)
        for layout, plan in (
            (ParallelLayout(), {}),
            (ParallelLayout(recompute="full"), {}),
            (ParallelLayout(), {"activation_offload": 1.0}),
        )
    )

    assert none["activations"] == pytest.approx(layers * layer)
    assert none["working"] == pytest.approx(gradients - logits)
    assert full["activations"] == pytest.approx(layers * boundary)
    assert full["working"] == pytest.approx(layer - boundary + gradients - logits)
    assert offloaded["activations"] == 0
    assert offloaded["working"] == full["working"]


def test_deepspeed_gathers_buckets_which_a_small_layer_does_not_fill(rates: MakeRates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3)
    wide = msgspec.structs.replace(GPT, hidden=25600, ffn=102400, heads=160, kv_heads=160, head_dim=160)
    weight = wide.hidden * wide.ffn

    def moved(model: TransformerModel, unit: str) -> float:
        training = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=8, steps=1)
        work = work_of(training, Stack(shard_unit=unit))
        return float(memory_parts(shape_of(model), layout_of(layout), work, rates())["communication"])

    assert moved(GPT, "bucket") == moved(GPT, "layer")
    assert moved(wide, "bucket") == pytest.approx(6 * weight)
    assert moved(wide, "layer") == pytest.approx(6 * 3 * weight, rel=0.01)


def test_gradients_that_fsdp_reduces_find_room_in_the_logits_and_those_of_buckets_do_not(rates: MakeRates) -> None:
    layout = ParallelLayout(dp_shard=8, zero_stage=3)
    few, many = (msgspec.structs.replace(GPT, vocab=vocab) for vocab in (8, 50_000))

    def moved(model: TransformerModel, unit: str) -> float:
        return parts(model, rates(), layout, Stack(shard_unit=unit))["communication"]

    assert moved(few, "layer") > 0
    assert moved(many, "layer") == 0
    assert moved(many, "bucket") > 0


def test_fsdp_that_offloads_keeps_no_shards_on_the_device_and_deepspeed_keeps_them(rates: MakeRates) -> None:
    plan = TrainingPlan(seq_len=SEQ_LEN, global_batch_size=16, steps=1, optimizer_offload=True)

    def kept(shards: int, unit: str) -> float:
        layout = layout_of(ParallelLayout(dp_shard=shards, zero_stage=3))
        return float(memory_parts(shape_of(GPT), layout, work_of(plan, Stack(shard_unit=unit)), rates())["parameters"])

    assert kept(8, "layer") == kept(16, "layer") < kept(16, "bucket") < kept(8, "bucket")


def test_a_policy_that_does_not_know_the_kernel_of_attention_keeps_less_by_its_output(rates: MakeRates) -> None:
    layout = ParallelLayout(recompute="operators")
    known, alone = (
        parts(LLAMA, rates(), layout, Stack(operators_keep=what))["activations"]
        for what in ("products", "products_alone")
    )

    assert known - alone == pytest.approx(2 * LLAMA.heads * LLAMA.head_dim * SEQ_LEN * LLAMA.layers)


def test_a_policy_that_lists_the_exchange_keeps_what_experts_receive_and_return(rates: MakeRates) -> None:
    mixture = msgspec.structs.replace(MIXTURE, mla=None)

    def kept(ep: int, *, exchange: bool) -> float:
        layout = ParallelLayout(recompute="operators", ep=ep, dp_shard=4, zero_stage=3)
        return parts(mixture, rates(), layout, Stack(keeps_exchange=exchange, routing_spread=0.0))["activations"]

    assert kept(4, exchange=True) - kept(4, exchange=False) == pytest.approx(
        2 * 2 * 2 * mixture.hidden * SEQ_LEN * mixture.layers
    )
    assert kept(1, exchange=True) == kept(1, exchange=False)  # nothing is sent
