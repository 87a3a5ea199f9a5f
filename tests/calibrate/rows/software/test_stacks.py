"""Which software a published row ran: what its framework has on the device that it ran on."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows
from carbon_plugin.predict.rates.laws import default_attention_kernel
from carbon_plugin.predict.step import predict_step


@pytest.mark.parametrize(("gpu", "plain"), [("A100-80GB-SXM", None), ("MI300X", None), ("Max-1550 (tile)", True)])
def test_relatives_of_megatron_run_plain_modules_where_no_cuda_kernel_compiles(gpu: str, plain: bool | None) -> None:
    row = {
        "id": "a", "model": "Llama", "layers": 24, "hidden": 2048, "ffn": 8192, "heads": 16, "mlp": "swiglu",
        "seq_len": 2048, "precision": "bf16", "gpu": gpu, "n_gpus": 8, "tp": 2, "pp": 1, "sharding": "ZeRO-1", "mbs": 1,
        "gbs": 8, "framework": "Megatron-DeepSpeed (2024)", "step_time_s": 10.0,
    }  # fmt: skip

    (found,), _ = parse_rows([row], {})

    assert found.spec.stack.plain_modules is plain


MODEL: dict[str, Any] = {"layers": 12, "hidden": 1024, "ffn": 4096, "heads": 16, "mlp": "swiglu"}


EXPERTS: dict[str, Any] = {"n_experts": 16, "top_k": 2}


def read(**changes: Any) -> PublishedRow:
    """Return a row on eight devices with changes as it is read."""
    row = {
        "id": "a", "model": "Llama", **MODEL, "seq_len": 4096, "precision": "bf16", "gpu": "A100-80GB-SXM", "n_gpus": 8,
        "tp": 1, "pp": 1, "sharding": "DDP", "mbs": 1, "gbs": 8, "framework": "PyTorch", "step_time_s": 10.0, **changes,
    }  # fmt: skip
    (found,), _ = parse_rows([row], {})
    return found


def test_levanter_computes_the_whole_square_on_tpus_where_splash_attention_does_not_take_the_heads() -> None:
    tpu = {"framework": "Levanter", "gpu": "TPUv5p"}

    assert read(**tpu, heads=16).spec.stack.attention_kernel == "eager"
    assert read(**tpu, heads=8).spec.stack.attention_kernel != "eager"
    assert read(framework="Levanter", gpu="H100-SXM", heads=16).spec.stack.attention_kernel != "eager"


@pytest.mark.parametrize("words", ["one repeated word, padded", "every token is the same (zeros)"])
def test_a_row_whose_tokens_are_all_alike_says_so_and_its_products_are_faster(words: str) -> None:
    usual, alike = read(), read(notes=f"Liger kernels; {words}")

    assert (usual.spec.stack.uniform_tokens, alike.spec.stack.uniform_tokens) == (False, True)


def test_a_power_cap_of_a_row_slows_a_device_that_was_calibrated_too() -> None:
    large = {"mbs": 8, "gbs": 64, "framework": "torchtitan"}
    free, capped = read(**large), read(**large, gpu_power_cap_w=250)

    assert predict_step(capped.spec).step_time_s.value > 1.05 * predict_step(free.spec).step_time_s.value


def test_transformers_of_before_gates_drop_a_tenth_of_their_states_and_later_ones_none() -> None:
    plain = {"mlp": "gelu", "framework": "HF Trainer"}

    assert read(**plain).spec.model.dropout == 0.1
    assert read(**plain | {"mlp": "swiglu"}).spec.model.dropout == 0
    assert read(**plain | {"framework": "PyTorch"}).spec.model.dropout == 0


@pytest.mark.parametrize(("notes", "blocking"), [("", False), ("CUDA_LAUNCH_BLOCKING=1, by its log", True)])
def test_a_row_says_that_its_host_waited_for_every_kernel(notes: str, blocking: bool) -> None:
    row = {
        "id": "a", "model": "GPT", "layers": 24, "hidden": 2048, "ffn": 8192, "heads": 16, "seq_len": 2048,
        "precision": "bf16", "gpu": "A100-80GB-SXM", "n_gpus": 8, "tp": 2, "pp": 1, "sharding": "ZeRO-1", "mbs": 1,
        "gbs": 8, "framework": "Megatron-DeepSpeed (2022)", "step_time_s": 10.0, "notes": notes,
    }  # fmt: skip

    (found,), _ = parse_rows([row], {})

    assert found.spec.stack.launch_blocking is blocking


EXPERTS = {
    "layers": 8, "hidden": 2048, "ffn": 768, "heads": 32, "n_experts": 128, "top_k": 8, "vocab": 151936,
    "mlp": "swiglu",
}  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "notes", "in_turn"),
    [
        ("NeMo Automodel", "", True),
        ("NeMo Automodel", "natural routing", False),
        ("torchtitan", "routing balanced by force", True),
        ("torchtitan", "", False),
        ("Megatron-Core", "routing balanced by force", False),
        ("Megatron-Core", "routing balanced by force, in turn", True),
    ],
)
def test_a_benchmark_that_deals_tokens_out_in_turn_is_known_by_its_framework_or_its_words(
    framework: str, notes: str, in_turn: bool
) -> None:
    assert read(**EXPERTS, framework=framework, notes=notes).spec.stack.round_robin is in_turn


@pytest.mark.parametrize(
    ("notes", "field", "value"),
    [
        ("sync-free experts", "token_counts", "device"),
        ("fused experts (cuteDSL)", "fused_experts", True),
        ("permutation not fused by its command", "plain_dispatch", True),
    ],
)
def test_words_of_a_row_say_which_kernels_its_experts_have(notes: str, field: str, value: object) -> None:
    stacks = [read(**EXPERTS, framework="Megatron-Core (2025)", notes=words).spec.stack for words in ("", notes)]

    assert [getattr(stack, field) == value for stack in stacks] == [False, True]


@pytest.mark.parametrize(
    ("framework", "single"),
    [
        ("Megatron-LM (2024)", True),
        ("Megatron-core 0.9 (October 2024)", True),
        ("NeMo 24.12 (2024)", True),
        ("Megatron-core (2025)", False),
        ("Megatron-core", False),
        ("PyTorch torch.compile (grouped products, 2024)", False),
    ],
)
def test_megatron_sorts_tokens_by_single_operations_until_2024(framework: str, single: bool) -> None:
    assert read(**EXPERTS, framework=framework).spec.stack.plain_dispatch is single


@pytest.mark.parametrize(
    ("notes", "graphs"), [("", "scoped"), ("no CUDA graphs", "none"), ("full-iteration CUDA graphs", "iteration")]
)
def test_graphs_that_a_row_states_come_before_those_of_the_recipe(notes: str, graphs: str) -> None:
    row = EXPERTS | {"gpu": "GB300", "framework": "Megatron-Bridge, NeMo container 26.04", "precision": "bf16"}

    assert read(**row, notes=notes).spec.stack.cuda_graphs == graphs


@pytest.mark.parametrize("gpu", ["B300", "GB200", "GB300"])
@pytest.mark.parametrize(
    ("notes", "graphs", "of_the_recipe"),
    [
        ("", "iteration", True),
        ("full-iteration CUDA graphs", "iteration", True),
        ("CUDA graphs of router and preprocessing", "scoped", False),
        ("no CUDA graphs", "none", False),
    ],
)
def test_a_row_that_states_other_graphs_has_nothing_of_the_recipe_for_whole_iterations(
    gpu: str, notes: str, graphs: str, of_the_recipe: bool
) -> None:
    row = read(
        **EXPERTS | {"gpu": gpu, "framework": "Megatron-Bridge, NeMo container 26.06", "precision": "mxfp8", "ep": 8},
        notes=f"natural routing, dropless; HybridEP; {notes}",
    )
    stack, layout = row.spec.stack, row.spec.layout

    assert stack.cuda_graphs == graphs
    assert {stack.fused_experts, stack.attention_kernel == "cudnn_fp8", layout.expert_overlap} == {of_the_recipe}
    assert any("CUDA graphs" in line for line in row.assumed) is of_the_recipe


@pytest.mark.parametrize(
    ("framework", "counts"),
    [
        ("JaxPP (somebody, JAX, 2026)", "device"),
        ("JAX (own code, 2026)", "device"),
        ("Equinox on JAX", "device"),
        ("PyTorch (own code, 2026)", "exchange"),
        ("own code", "exchange"),
    ],
)
def test_no_count_of_tokens_reaches_the_host_inside_a_function_that_jax_compiles(framework: str, counts: str) -> None:
    assert read(**EXPERTS | {"framework": framework, "sharding": "FSDP"}).spec.stack.token_counts == counts


@pytest.mark.parametrize(
    ("model", "framework", "everything"),
    [
        ("Llama 4 Scout", "Hugging Face transformers 4.51", True),
        ("Llama 4 Scout", "Hugging Face transformers 5.0", False),
        ("Qwen3 30B-A3B", "Hugging Face transformers 4.51", False),
    ],
)
def test_every_expert_of_llama_4_takes_every_token_before_version_5_of_transformers(
    model: str, framework: str, everything: bool
) -> None:
    stack = read(**EXPERTS | {"n_experts": 16, "top_k": 1}, model=model, framework=framework).spec.stack

    assert (stack.capacity_factor == 16, stack.static_dispatch) == (everything, everything)
    assert not (everything and stack.expert_loop)


def test_software_that_nobody_here_knows_is_compiled_where_a_row_says_so() -> None:
    plain, compiled = (read(framework="a trainer", overlap=words).spec.stack for words in ("", "torch.compile"))

    assert (plain.population, compiled) == ("ordinary", read(framework="ordinary", overlap="torch.compile").spec.stack)


def test_software_that_nobody_knows_is_compiled_on_tpus_where_nothing_else_runs() -> None:
    there, here = (read(framework="JAX (somebody)", gpu=gpu) for gpu in ("TPUv6e", "A100-80GB-SXM"))

    assert (there.spec.stack.fused, here.spec.stack.fused) == (True, False)
    assert there.spec.layout is not None
    assert there.spec.layout.recompute == "none"
    assert there.spec.stack.cross_entropy == "compiled"
    assert {row.spec.stack.population for row in (there, here)} == {"ordinary"}
    assert all("ordinary software" in row.assumed for row in (there, here))


@pytest.mark.parametrize(
    "said", ["flash_attention_2", "FlashAttention-2", "flash-attn 2", "FA2", "flash_attn_v2", "flash2"]
)
def test_flash_attention_is_read_under_the_names_that_people_give_it(said: str) -> None:
    kernels = [read(attention_kernel=name).spec.stack.attention_kernel for name in (said, said.replace("2", "3"))]

    assert kernels == ["flash2", "flash3"]


@pytest.mark.parametrize("said", ["flash4", "FA4", "flash_attention_4"])
def test_flash_attention_4_is_as_fast_as_cudnn_on_the_devices_that_it_was_written_for(said: str) -> None:
    assert read(gpu="B300", attention_kernel=said).spec.stack.attention_kernel == "cudnn"


@pytest.mark.parametrize(
    ("framework", "notes", "kernel"),
    [
        ("HF Trainer (Axolotl)", "packed documents", "masked"),
        ("Hugging Face transformers 5", "sample packing", "masked"),
        ("HF Trainer", "", None),
        ("PyTorch", "packed documents", None),
    ],
)
def test_transformers_hands_pytorchs_attention_a_mask_for_packed_documents(
    framework: str, notes: str, kernel: str | None
) -> None:
    found = read(framework=framework, attention_kernel="sdpa", notes=notes).spec.stack.attention_kernel

    assert found == kernel


@pytest.mark.parametrize("loss", ["cut cross entropy", "Liger fused linear cross entropy"])
def test_kernels_of_head_and_loss_alone_leave_the_layers_as_they_are(loss: str) -> None:
    stack = read(framework="HF Trainer", notes=loss).spec.stack

    assert (stack.cross_entropy, stack.fused) == ("chunked", False)


@pytest.mark.parametrize(("optimizer", "dtype"), [("AdamW, states in bf16", "bf16"), ("AdamW", "fp32")])
def test_states_of_an_optimizer_have_the_width_that_is_said_of_them(optimizer: str, dtype: str) -> None:
    assert read(optimizer=optimizer).spec.training.optimizer_state_dtype == dtype


@pytest.mark.parametrize("framework", ["HF Trainer (2024)", "Optimum Habana (2024)", "PyTorch FSDP"])
def test_what_runs_on_a_gaudi_is_compiled_as_a_graph(framework: str) -> None:
    there, here = (read(framework=framework, gpu=gpu).spec.stack for gpu in ("Gaudi2", "A100-80GB-SXM"))

    assert (there.fused, here.fused) == (True, False)
    assert (there.cross_entropy, there.population) == ("compiled", "ordinary")


@pytest.mark.parametrize(
    ("framework", "bare"),
    [("Surogate (CUDA and C++, 2026)", True), ("somebody (CUDA and C)", True), ("nmoe (PyTorch, CUDA kernels)", False)],
)
def test_a_program_without_a_framework_costs_what_llm_c_costs(framework: str, bare: bool) -> None:
    known, found = (read(framework=name).spec.stack for name in ("llm.c", framework))

    assert (found == known) is bare


def test_the_softmax_of_plain_attention_is_one_kernel_in_software_with_fused_kernels() -> None:
    unfused = {"framework": "DeepSpeed (2020)", "attention_kernel": "unfused"}
    plain, own = (read(**unfused, notes=words).spec.stack for words in ("fused norm", "fused kernels of its own"))

    assert (plain.attention_kernel, own.attention_kernel) == ("eager", "unfused")


@pytest.mark.parametrize(("sharding", "hooked"), [("none", False), ("DDP", False), ("ZeRO-1", True), ("ZeRO-3", True)])
def test_deepspeed_hooks_nothing_where_it_splits_nothing(sharding: str, hooked: bool) -> None:
    stack = read(framework="DeepSpeed (2024)", sharding=sharding).spec.stack

    assert (stack.shard_host_ops > 0) is hooked


def test_pytorch_has_plain_attention_on_the_gpus_of_intel_unless_the_row_names_a_kernel() -> None:
    intel = {"gpu": "Max-1550 (tile)"}
    said = {"attention_kernel": "flash2"}

    kernels = [
        read(**changes).spec.stack.attention_kernel
        for changes in (
            {**intel, "framework": "torchtitan (2026-05)"},
            {**intel, **said, "framework": "torchtitan (2026-05)"},
            {**intel, "framework": "Megatron-DeepSpeed (2024)"},
            {"framework": "torchtitan (2026-05)"},
        )
    ]
    assert kernels == ["eager", "flash2", *kernels[2:]]
    assert "eager" not in kernels[2:]
    assert default_attention_kernel(read(**intel).spec.cluster.accelerator) == "eager"


def test_gpt_neox_is_ordinary_software_like_its_relative_under_deepspeed() -> None:
    stacks = [read(framework=name).spec.stack for name in ("GPT-NeoX (2022)", "Megatron-DeepSpeed (2024)")]

    assert {stack.population for stack in stacks} == {"ordinary"}


@pytest.mark.parametrize(
    ("said", "optimizer"),
    [("muon", "muon"), ("Muon + AdamW", "muon"), ("Adam fp32", "adam"), ("LAMB", "adamw"), (None, "adamw")],
)
def test_the_optimizer_of_a_row_is_read_where_its_cost_is_known(said: str | None, optimizer: str) -> None:
    assert read(optimizer=said).spec.training.optimizer == optimizer


@pytest.mark.parametrize(
    ("changes", "autocast", "fused"),
    [
        ({}, None, None),
        ({"precision": "fp16 (amp)"}, True, None),
        ({"precision": "bf16 (autocast, fp32 weights)"}, True, None),
        ({"precision": "bf16-true"}, False, None),
        ({"framework": "HF Trainer (2022)"}, True, None),
        ({"framework": "HF Trainer + DeepSpeed (2023)"}, None, None),
        ({"framework": "Lightning (DDP, 2022)"}, True, None),
        ({"framework": "PyTorch (NVIDIA DeepLearningExamples BERT)", "precision": "fp16 (amp)"}, False, True),
        ({"notes": "fused AdamW"}, None, True),
        ({"notes": "not compiled, optimizer not fused"}, None, False),
        ({"notes": "optimizer in one kernel"}, None, True),
        ({"precision": "bf16 (amp O1)"}, True, None),
        ({"precision": "bf16 (amp O2)"}, False, None),
        ({"framework": "PaddleNLP", "precision": "fp16 (amp O2)"}, False, True),
        ({"framework": "torchtune"}, None, True),
        ({"framework": "torchtune (compile, packed)", "overlap": "torch.compile"}, None, True),
        ({"framework": "torchtune", "notes": "optimizer not fused"}, None, False),
    ],
)
def test_a_row_says_who_casts_to_16_bit_and_how_many_kernels_update_a_parameter(
    changes: dict[str, Any], autocast: bool | None, fused: bool | None
) -> None:
    stack = read(**changes).spec.stack

    assert (stack.autocast, stack.fused_optimizer) == (autocast, fused)


def test_software_that_is_not_pytorch_has_kernels_for_its_norms_unless_the_row_says_that_they_are_not_fused() -> None:
    fused, apart = (read(framework="PaddleNLP", notes=said) for said in ("", "norms are not fused"))

    assert fused.spec.stack.plain_modules is False
    assert apart.spec.stack.plain_modules is True


@pytest.mark.parametrize(
    ("framework", "tuned_for"),
    [
        ("torchtitan (2025)", "nvidia"),
        ("Megatron-LM (rocm/megatron-lm v26.1, 2026-06)", "nvidia"),
        ("NeMo (MLPerf v5.1, ROCm, 2025)", None),
        ("Primus (Megatron-LM, 2026-10)", None),
        ("MaxText (ROCm, 2026-06)", None),
        ("AXLearn", None),
    ],
)
def test_software_of_a_maker_or_of_a_benchmark_counts_as_tuned_for_its_device(
    framework: str, tuned_for: str | None
) -> None:
    assert read(framework=framework, gpu="MI325X").spec.stack.tuned_for == tuned_for


@pytest.mark.parametrize("framework", ["fairseq ({})", "DeepSpeed ({})", "Mesh TensorFlow ({})", "own code, {}"])
def test_no_software_had_a_fused_attention_before_flash_attention_was_published(framework: str) -> None:
    kernels = {year: read(framework=framework.format(year)).spec.stack.attention_kernel for year in (2019, 2021, 2024)}

    assert (kernels[2019], kernels[2021]) == ("eager", "eager")
    assert kernels[2024] != "eager"
    assert read(framework=framework.format(2021), attention_kernel="flash2").spec.stack.attention_kernel == "flash2"
    assert read(framework="PyTorch (MLPerf 2021)").spec.stack.attention_kernel != "eager"


@pytest.mark.parametrize("words", ["full fine-tuning", "SFT of chats", "fine-tuning over packed documents"])
def test_fine_tuning_in_megatron_bridge_has_neither_chunks_nor_hidden_collectives_nor_a_dispatcher_of_its_own(
    words: str,
) -> None:
    large = {"framework": "Megatron-Bridge (2026)", "n_gpus": 64, "tp": 2, "pp": 2, "ep": 16, "gbs": 512, **EXPERTS}
    trained, tuned = (read(**large, notes=notes).spec for notes in ("", words))

    assert (trained.layout.virtual_stages > 1, trained.layout.async_tp) == (True, True)
    assert (tuned.layout.virtual_stages, tuned.layout.async_tp) == (1, False)
    assert (trained.stack.expert_dispatch, tuned.stack.expert_dispatch) == (
        "deepep",
        read(**EXPERTS).spec.stack.expert_dispatch,
    )
    assert read(**large, vp=3, notes=words).spec.layout.virtual_stages == 3
    assert read(**large, notes=f"{words}; DeepEP").spec.stack.expert_dispatch == "deepep"
    in_a_rack = {**large, "gpu": "GB200", "framework": "Megatron-Bridge (container 26.06)", "model": "Qwen3"}
    dispatchers = [read(**in_a_rack, notes=notes).spec.stack.expert_dispatch for notes in ("", words)]
    assert dispatchers == ["hybridep", read(**EXPERTS).spec.stack.expert_dispatch]


@pytest.mark.parametrize("precision", ["bf16", "mxfp8"])
@pytest.mark.parametrize(("notes", "captured"), [("", True), ("packed documents", True), ("full fine-tuning", False)])
def test_recipes_of_megatron_bridge_capture_graphs_on_blackwell_and_those_for_fine_tuning_capture_none(
    precision: str, notes: str, captured: bool
) -> None:
    """Documents that are packed are no sign of fine-tuning."""
    spec = read(
        **EXPERTS, framework="Megatron-Bridge (container 26.06)", gpu="GB200", precision=precision, notes=notes
    ).spec

    assert (spec.stack.cuda_graphs != "none") is captured
    assert spec.stack.interleaves is captured


@pytest.mark.parametrize("framework", ["HF Trainer (2026)", "TRL", "Accelerate", "Lightning (2025)", "axolotl"])
def test_a_trainer_copies_models_that_fit_whole_and_shards_larger_ones_where_a_row_does_not_say(framework: str) -> None:
    small = read(framework=framework, sharding=None, tp=None, pp=None)
    large = read(framework=framework, sharding=None, tp=None, pp=None, layers=48, hidden=4096, ffn=16384, heads=32)

    assert (small.spec.layout.zero_stage, small.spec.layout.dp_replicate) == (0, 8)
    assert (large.spec.layout.zero_stage, large.spec.layout.dp_shard) == (3, 8)
    assert "sharding ZeRO-0" in small.assumed
    assert "sharding ZeRO-3: whole copies do not fit in the device" in large.assumed


def test_fsdp_that_offloads_gathers_layer_by_layer_on_one_device_too() -> None:
    stages = [
        read(n_gpus=1, sharding=said).spec.layout.zero_stage
        for said in ("FSDP, CPU offload", "FSDP", "ZeRO-3, CPU offload of the optimizer")
    ]

    assert stages == [3, 0, 0]
