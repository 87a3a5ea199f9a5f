"""Published rows become runs, or say what is missing; nothing is guessed silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.calibrate.rows import rows as rows_module
from carbon_plugin.calibrate.rows.device_names import accelerator_name
from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import DESCRIPTIVE, READ, next_step, parse_rows, read_rows, unknown_fields
from carbon_plugin.calibrate.rows.software.conventions import conventions_of
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.rates.datasheet import datasheet
from carbon_plugin.predict.rates.islands import island_size
from carbon_plugin.predict.rates.laws import gemm_share_law
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.stack import (
    BALANCED_SPREAD,
    ROUTING_SPREAD,
    STACKS,
    Stack,
    factor_of,
    issues_on_dtensors,
    routing_spread_of,
)
from carbon_plugin.validate.step.step_time import validate

ROW = """
rows:
- {id: mine-1, kind: benchmark, arch: llama3_8b, seq_len: 8192, precision: bf16, gpu: H100-80GB-SXM, n_gpus: 16,
   gpus_per_node: 8, tp: 1, pp: 1, sharding: FSDP2 (ZeRO-3), mbs: 1, gbs: 16, framework: torchtitan, step_time_s: 1.9}
"""

RECORD: dict[str, Any] = {
    "id": "mine-1",
    "kind": "benchmark",
    "arch": "llama3_8b",
    "seq_len": 8192,
    "precision": "bf16",
    "gpu": "H100-80GB-SXM",
    "n_gpus": 16,
    "gpus_per_node": 8,
    "tp": 2,
    "pp": 2,
    "sharding": "FSDP",
    "mbs": 1,
    "gbs": 16,
    "framework": "torchtitan",
    "step_time_s": 1.9,
}


def parsed(**changes: Any):
    """Return the one row of `RECORD` with changes: a row that can be predicted, or a skipped one."""
    rows, skipped = parse_rows([{**RECORD, **changes}], {})
    return (*rows, *skipped)[0]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.yaml"
    path.write_text(text)
    return path


def test_a_row_becomes_the_run_that_it_describes_and_names_what_was_assumed(tmp_path) -> None:
    (row,), skipped = read_rows(write(tmp_path, ROW))
    assert not skipped
    assert row.spec.layout is not None
    assert (row.spec.layout.dp_shard, row.spec.layout.zero_stage) == (16, 3)
    assert row.spec.model.parameters == pytest.approx(8.03e9, rel=0.01)
    assert row.measured_step_time_s == 1.9
    assert "recompute none" in row.assumed
    assert any(text.startswith("network") for text in row.assumed)


@pytest.mark.parametrize("field", ["seq_len", "n_gpus", "gpu"])
def test_a_row_without_a_needed_field_is_skipped_with_its_name(tmp_path, field) -> None:
    text = ROW.replace(f"{field}:", f"x_{field}:")
    rows, (skipped,) = read_rows(write(tmp_path, text))
    assert not rows
    assert field in skipped.reason


def test_a_layout_that_cannot_be_is_skipped_with_the_rule(tmp_path) -> None:
    _, (skipped,) = read_rows(write(tmp_path, ROW.replace("gbs: 16", "gbs: 17")))
    assert "global_batch_size 17 is not a multiple of" in skipped.reason


def test_step_time_follows_from_tokens_per_second(tmp_path) -> None:
    text = ROW.replace("step_time_s: 1.9", "tokens_per_s_per_gpu: 4096")
    (row,), _ = read_rows(write(tmp_path, text))
    assert row.measured_step_time_s == pytest.approx(16 * 8192 / (4096 * 16))


@pytest.mark.parametrize("text", ["- a list", "rows: 3", "rows: [1]", "rows: [: ]]"])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, text) -> None:
    with pytest.raises(SpecError, match=r"rows\.yaml") as caught:
        read_rows(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_nearly_all_shipped_rows_can_be_predicted() -> None:
    rows, skipped = published_rows()
    first = [row for row in rows if row.collection == "first"]
    assert len(first) >= 1756
    assert len(rows) - len(first) >= 275
    assert len([row for row in skipped if row.source in {row.source for row in first}]) <= 18
    assert all(row.reason for row in skipped)
    assert len({row.id for row in rows}) == len(rows)


def test_a_field_that_is_read_in_any_published_row_counts_as_known() -> None:
    folder = Path(rows_module.__file__).parent / "published"
    stated = {
        str(record["id"]): {name for name, value in record.items() if value not in (None, "")}
        for path in folder.glob("*collection.yaml")
        for record in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["rows"]
    }
    rows, _ = published_rows()
    read = set().union(*(stated[row.id] - set(row.not_read) for row in rows if row.id in stated))

    assert read
    assert read <= READ | DESCRIPTIVE


@pytest.mark.parametrize(("name", "layers"), [("llama3-8b", 32), ("Llama3_8B", 32), ("olmo2-13b", 40)])
def test_an_architecture_is_found_under_any_spelling_and_among_the_presets(name, layers) -> None:
    row = parsed(arch=name)

    assert row.spec.model.layers == layers


def test_a_shape_of_the_file_comes_before_a_shipped_one_and_a_preset() -> None:
    ours = {"LLAMA3-8B": {"layers": 3, "hidden": 4096, "ffn": 14336, "heads": 32}}
    (row,), _ = parse_rows([RECORD | {"arch": "llama3-8b"}], ours)

    assert row.spec.model.layers == 3


def test_a_dimension_of_a_preset_that_a_row_repeats_changes_nothing() -> None:
    plain = parsed(arch="qwen3-32b", step_time_s=99).spec.model
    assert plain.head_dim * plain.heads != plain.hidden

    assert parsed(arch="qwen3-32b", step_time_s=99, hidden=plain.hidden, heads=plain.heads).spec.model == plain
    halved = parsed(arch="qwen3-32b", step_time_s=99, hidden=plain.hidden // 2).spec.model
    assert halved.head_dim == halved.hidden // plain.heads


def test_a_preset_is_trained_as_the_row_says() -> None:
    row = parsed(arch="qwen2.5-7b", kind="lora_benchmark", adapters="attention", lora_rank=8)

    assert row.spec.model.adapters == "attention"
    assert 0 < row.spec.model.trainable_fraction < 0.005


def test_a_row_without_a_measured_time_is_told_every_field_that_has_one() -> None:
    said = next_step(parsed(step_time_s=None).reason)

    assert said.startswith("state what was measured, one of step_time_s, tokens_per_s_per_gpu,")


def test_a_row_that_comes_twice_counts_once_and_the_other_is_named() -> None:
    rows, skipped = parse_rows([RECORD, {**RECORD, "gbs": 32}, {**RECORD, "id": "mine-2"}], {})

    assert [row.id for row in rows] == ["mine-1", "mine-2"]
    assert [(row.id, row.reason.partition(";")[0], row.memory) for row in skipped] == [
        ("mine-1", "an earlier row has this id", None)
    ]


def test_a_skipped_row_names_its_unknown_fields_too() -> None:
    skipped = parsed(n_gpus=None, n_gpu=16, colour="green")

    assert (skipped.reason, skipped.not_read) == ("n_gpus is not stated", ("n_gpu", "colour"))
    assert unknown_fields(skipped.not_read) == ("fields that nothing here knows: n_gpu (did you mean n_gpus?), colour")


ODD = st.sampled_from(
    [None, "", 0, -1, 1.5, "8", "eight", 1e30, float("nan"), float("inf"), True, False, [1], {"a": 1}, 10**20, 3]
)


@pytest.mark.parametrize(("gpu", "precision"), [("A100-80GB-SXM", "bf16"), ("V100-32GB", "fp16")])
def test_a_row_that_states_no_precision_has_one_that_its_device_has(gpu, precision) -> None:
    row = parsed(gpu=gpu, precision=None, step_time_s=60)

    assert row.spec.training.precision == precision
    assert f"precision {precision}" in row.assumed


@given(st.dictionaries(st.sampled_from(sorted(RECORD)), ODD, min_size=1, max_size=3))
@settings(max_examples=150)
def test_no_odd_value_stops_the_reader(changes) -> None:
    found = parsed(**changes)
    assert "\n" not in getattr(found, "reason", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": "many"}, "layers is 'many', expected a positive number"),
        ({"gbs": 16.5}, "gbs is 16.5, expected a positive integer"),
        ({"tp": 3}, "tp 3 * pp 2 * cp 1 does not divide n_gpus 16"),
        ({"precision": "int8?"}, "precision 'int8?' is not one that the model knows"),
        ({"gpu": "A100-80GB-SXM", "precision": "fp8"}, "precision fp8 is not supported by a100-sxm-80gb"),
        ({"gpu": "V100-32GB", "precision": "bf16"}, "precision bf16 is not supported by v100-sxm2-32gb"),
        ({"gpu": "Abacus 9"}, "gpu 'Abacus 9' has no profile"),
        ({"gpu": "MI999X (GCD)"}, "gpu 'MI999X (GCD)' counts parts of a module"),
        ({"step_time_s": 0.001}, "TFLOP/s a device, expected at most the bf16 peak of h100-sxm"),
        ({"padded": True}, "padded: sequences are shorter than seq_len"),
        (
            {"arch": "abacus9"},
            "'abacus9' is not among the architectures of the file or of this package, nor among its",
        ),
        ({"arch": "deepseek_v33"}, "presets; nearest: deepseek-v3, deepseek-v2"),
        ({"gpu": "H1000-80GB"}, "gpu 'H1000-80GB' has no profile"),
        ({"sharding": "ZeRO-9"}, "sharding 'ZeRO-9' names a stage 9 of ZeRO, expected 0, 1, 2 or 3"),
        ({"arch": "deepseek_v3", "attention": "MLA q_lora 1"}, "kv_lora of attention 'MLA q_lora 1' is not stated"),
        ({"kind": "oom_probe", "oom": True}, "did not fit in memory, no step time"),
        ({"kind": "full_run"}, "a whole run, no step time"),
        ({"step_time_s": None}, "step_time_s is not stated"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes, reason) -> None:
    assert reason in parsed(**changes).reason


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H100-PCIe-80GB", "h100-pcie"),
        ("A100-80GB-PCIe", "a100-pcie-80gb"),
        ("A100 SXM 40GB", "a100-sxm-40gb"),
        ("A800-80GB-SXM", "a800-sxm-80gb"),
        ("H800-80GB-SXM", "h800-sxm"),
        ("GB300 NVL72", "gb300-nvl72"),
        ("H20-96GB", "h20-sxm"),
        ("AMD MI300X", "mi300x"),
        ("TPU v5e", "tpu-v5e"),
        ("RTX 4090", "rtx4090"),
        ("RTX-4090-24GB", "rtx4090"),
        ("RTX-5090", "rtx5090"),
        ("RTX-A6000-48GB", "rtx-a6000"),
        ("Gaudi2-96GB", "gaudi2"),
        ("MI325X", "mi325x"),
        ("MI350X", "mi350x"),
        ("MI250X (GCD)", "mi250x-gcd"),
        ("Max-1550 (tile)", "max-1550-tile"),
        ("Trainium1 (NeuronCore)", "trainium1-core"),
    ],
)
def test_devices_are_known_by_the_names_that_sources_use(gpu, profile) -> None:
    assert accelerator_name(gpu) == profile


@pytest.mark.parametrize(
    ("text", "stage", "recompute", "read"),
    [
        ("DDP", 0, "none", "none"),
        ("DeepSpeed ZeRO-2", 2, True, "full"),
        ("zero3", 3, False, "none"),
        ("DDP + distributed optimizer (ZeRO-1)", 1, "selective (attention core)", "selective"),
        ("HSDP", 3, "per-op SAC", "operators"),
    ],
)
def test_phrases_for_sharding_and_recompute_are_understood(text, stage, recompute, read) -> None:
    layout = parsed(sharding=text, recompute=recompute).spec.layout
    assert (layout.zero_stage, layout.recompute) == (stage, read)


def test_a_pipeline_of_megatron_deepspeed_in_bf16_shards_states_without_a_stage() -> None:
    """DeepSpeed's bf16 optimizer shards them itself, which its fp16 optimizer does not."""
    framework = {"framework": "Megatron-DeepSpeed (2023)", "tp": 2, "sharding": "none", "n_gpus": 16, "gbs": 64}

    def stage(**changes: Any) -> int:
        return parsed(**framework | {"pp": 4, "precision": "bf16"} | changes).spec.layout.zero_stage

    assert stage() == 1
    assert stage(pp=1) == stage(precision="fp16") == stage(framework="Megatron-LM 2021") == 0


def test_expert_tensor_parallelism_and_adapters_are_read() -> None:
    experts = parsed(arch="mixtral_8x7b", framework="NeMo 25.05", tp=2, ep=4, etp=2, pp=1, sharding=None)
    assert experts.spec.layout.expert_tp == 2
    adapters = parsed(kind="lora_benchmark")
    assert adapters.source == "mine-lora"
    assert adapters.spec.model.trainable_fraction == 0.005
    assert "trainable_fraction 0.005" in adapters.assumed


@pytest.mark.parametrize(
    ("release", "gpu", "precision", "graphs", "overlapped"),
    [
        ("25.09", "GB200", "fp8", "none", False),
        ("25.11", "GB200", "bf16", "scoped", False),
        ("26.06", "GB200", "mxfp8", "iteration", True),
        ("26.06", "GB200", "bf16", "scoped", False),
        ("26.06", "B300", "mxfp8", "iteration", True),
        ("26.04", "B200", "mxfp8", "none", False),
        ("26.06", "H100", "fp8", "none", False),
    ],
)
def test_recipes_for_experts_follow_the_release_and_are_named(release, gpu, precision, graphs, overlapped) -> None:
    row = parsed(
        arch="mixtral_8x7b",
        framework=f"Megatron-Bridge, NeMo container {release}",
        gpu=gpu,
        precision=precision,
        gpus_per_node=4 if gpu.startswith("GB") else 8,
        tp=1,
        ep=8,
        pp=1,
        sharding=None,
    )
    stack = row.spec.stack

    assert (stack.cuda_graphs, row.spec.layout.expert_overlap) == (graphs, overlapped)
    assert (stack.fused_experts, stack.attention_kernel == "cudnn_fp8") == (overlapped, overlapped)
    assert any("CUDA graphs" in line for line in row.assumed) == (graphs != "none")


def test_a_framework_that_shards_by_default_needs_no_degrees_and_others_do() -> None:
    unstated = {"tp": None, "pp": None, "sharding": None}
    assert "tp 1" in parsed(**unstated, framework="MaxText").assumed
    assert parsed(**unstated, framework="Megatron-LM").reason == "tp is not stated"
    assert parsed(**unstated, framework=None).reason == "tp is not stated"


@pytest.mark.parametrize(
    ("framework", "name"),
    [("Megatron-LM 23e00ed0", "megatron-lm"), ("HF Accelerate/FSDP", "hf-accelerate-fsdp"), (None, "unknown")],
)
def test_a_framework_that_we_know_nothing_of_keeps_its_name(framework, name) -> None:
    assert parsed(framework=framework, tp=1, pp=1).framework == name


def test_a_rate_is_read_in_the_convention_of_the_row() -> None:
    rate = {"step_time_s": None, "recompute": "full", "framework": "Megatron-LM"}
    causal = parsed(**rate, tflops_per_gpu=400, attn_flops="causal_half").measured_step_time_s
    full = parsed(**rate, tflops_per_gpu=400, attn_flops="full")
    unsaid = parsed(**rate, tflops_per_gpu=400)
    hardware = parsed(**rate, tflops_per_gpu=400, attn_flops="full", tflops_kind="hardware (4x fwd)")
    share = parsed(**rate, hfu_pct=40, attn_flops="full")
    assert causal < full.measured_step_time_s == unsaid.measured_step_time_s
    assert "attn_flops full" in unsaid.assumed
    assert "attn_flops full" not in full.assumed
    assert hardware.measured_step_time_s == pytest.approx(4 / 3 * full.measured_step_time_s, rel=0.05)
    assert share.measured_step_time_s == pytest.approx(hardware.measured_step_time_s * 400e12 / (0.4 * 989.4e12))


def test_vtrain_rows_and_the_schema_are_one_reader(tmp_path) -> None:
    path = tmp_path / "vtrain.csv"
    path.write_text(
        "# comment\nn_gpus,gbs,mbs,hidden,heads,layers,seq_len,tp,dp,pp,step_time_ms\n"
        "8,32,4,1024,16,24,1024,2,2,2,219.7\n8,32,4,wide,16,24,1024,2,2,2,219.7\n8,32\n"
    )
    (row,), skipped = read_rows(path)
    assert row.measured_step_time_s == pytest.approx(0.2197)
    assert (row.framework, row.spec.training.precision) == ("megatron-deepspeed-2022", "fp16")
    assert [item.reason for item in skipped] == [
        "hidden is 'wide', expected a positive number",
        "layers is not stated",
    ]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match=r"vtrain\.csv: no column hidden, layers"):
        read_rows(path)


def test_a_row_survives_its_own_encoding() -> None:
    row = parsed()
    assert msgspec.json.decode(msgspec.json.encode(row.spec), type=type(row.spec)) == row.spec


def test_open_inputs_of_a_row_are_filled_by_the_same_rules_and_named() -> None:
    deep = {"arch": "gpt3_175b", "framework": "NeMo 24.07", "seq_len": 2048, "n_gpus": 64, "tp": 8, "pp": 8, "gbs": 64}
    deep |= {"step_time_s": 5.0}
    row = parsed(**deep, sharding=None, precision=None)
    assert row.spec.layout.virtual_stages == 6
    assert row.spec.training.precision == "bf16"
    assert {"precision bf16", "virtual_stages 6: interleaved as far as the layers allow"} <= set(row.assumed)
    plain = parsed(**deep, sharding=None, overlap="1F1B")
    assert plain.spec.layout.virtual_stages == 1


def test_hybrid_groups_and_lists_of_recomputed_parts_are_read() -> None:
    groups = parsed(sharding="ZeRO-1 within groups of 2 GPUs", tp=1, pp=1)
    assert (groups.spec.layout.dp_shard, groups.spec.layout.dp_replicate) == (2, 8)
    hybrid = parsed(sharding="HSDP", tp=1, pp=1)
    assert (hybrid.spec.layout.dp_shard, hybrid.spec.layout.dp_replicate) == (8, 2)
    for strategy, stage in (("HYBRID_SHARD", 3), ("hybrid_shard", 3), ("_HYBRID_SHARD_ZERO2", 2)):
        layout = parsed(sharding=strategy, tp=1, pp=1).spec.layout
        assert (layout.zero_stage, layout.dp_shard, layout.dp_replicate) == (stage, 8, 2)
    listed = parsed(recompute="layernorm, mlp").spec.layout
    assert (listed.recompute, listed.recompute_modules) == ("selective", ("layernorm", "mlp"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("selective (every second layer)", 16 / 32),
        ("selective ac 2", 16 / 32),
        ("every 3rd layer", 10 / 32),
        ("full, 8 of 32 layers", 8 / 32),
        ("full AC", 1.0),
    ],
)
def test_a_stride_of_layers_is_read_as_the_share_of_whole_layers_that_are_recomputed(text: str, share: float) -> None:
    layout = parsed(recompute=text).spec.layout

    assert (layout.recompute, layout.recompute_share) == ("full", share)


def test_selective_recompute_of_torchtitan_is_its_policy_by_operation() -> None:
    """Megatron's is that of the attention core, which torchtitan does not have."""
    row = {"recompute": "selective", "tp": 1, "pp": 1}
    assert parsed(framework="torchtitan", **row).spec.layout.recompute == "operators"
    assert parsed(framework="Megatron-LM", **row).spec.layout.recompute == "selective"


@pytest.mark.parametrize("text", ["8 of 40 layers", "every 64th layer", "every odd layer"])
def test_a_stride_that_the_model_cannot_have_is_refused(text: str) -> None:
    assert parsed(recompute=text).reason == f"recompute {text!r} does not match the 32 layers of the model"


def test_a_year_and_a_release_choose_the_kernels_of_their_time() -> None:
    kernel = {
        framework: parsed(framework=framework, sharding=None).spec.stack.attention_kernel
        for framework in (
            *("Megatron-LM @8aa4619f (2021)", "NeMo 23.03", "NeMo 24.07", "NeMo 25.09"),
            *("Megatron-DeepSpeed (BigScience, 2022-02)", "Megatron-DeepSpeed (2024)"),
            *("Megatron-LM (somebody, 2023)", "Megatron-LM (somebody, 2024)"),
            *("Paxml 23.08", "Paxml 23.08 (Transformer Engine)"),
            *("AXLearn (JAX, 2024)", "AXLearn (JAX, 2025)"),
        )
    }
    assert list(kernel.values()) == [
        *("unfused", "unfused", "cudnn", "flash3", "unfused", "flash2", "unfused", "cudnn", "eager", "cudnn"),
        *("eager", None),
    ]


def test_megatrons_own_modules_of_2023_drop_out_a_tenth_unless_the_row_says_otherwise() -> None:
    old, new = (parsed(framework=f"Megatron-LM ({year})", sharding="none").spec.model for year in (2023, 2024))
    assert (old.dropout, new.dropout) == (0.1, 0.0)
    without = parsed(framework="Megatron-LM (2023)", sharding="none", dropout=0)
    assert without.spec.model.dropout == 0.0


def test_experts_of_a_stated_capacity_take_fixed_rows_and_those_of_torchtitan_are_sorted_by_single_operations() -> None:
    common = {"arch": "qwen3_30b_a3b", "tp": 1, "pp": 1, "ep": 8}
    dropping = parsed(**common, framework="Megatron-Core", notes="tokens dropped at capacity factor 1").spec.stack
    unpadded = parsed(
        **common, framework="Megatron-Core", notes="tokens dropped at a capacity factor of 1.25, not padded"
    ).spec.stack
    one_hot = parsed(**common, framework="MaxText", notes="capacity factor 1.5, one-hot dispatch").spec.stack
    dropless = parsed(**common, framework="Megatron-Core").spec.stack
    titan = parsed(**common, framework="torchtitan").spec.stack
    taken = [(stack.static_dispatch, stack.capacity_factor) for stack in (dropping, unpadded, one_hot, dropless)]
    assert taken == [(True, 1.0), (False, 1.25), (True, 1.5), (False, None)]
    assert (one_hot.one_hot_dispatch, dropless.one_hot_dispatch) == (True, False)
    assert (titan.plain_dispatch, dropless.plain_dispatch) == (True, False)


def test_recipes_of_nemo_2_drop_tokens_of_the_mixtures_that_they_do_it_for() -> None:
    rows = (
        {"framework": "NeMo 25.07", "model": "Grok-1"},
        {"framework": "NeMo 2 (2025)", "model": "DeepSeek V3"},
        {"framework": "NeMo 24.12", "model": "Grok-1"},
        {"framework": "NeMo 25.07", "model": "Llama 4 Scout"},
        {"framework": "NeMo 25.07", "model": "Mixtral 8x7B", "notes": "dropless"},
        {"framework": "Megatron-Core", "model": "Grok-1"},
    )
    stacks = [parsed(**row, arch="qwen3_30b_a3b", tp=1, pp=1, ep=8).spec.stack for row in rows]

    assert [stack.capacity_factor for stack in stacks] == [1.0, 1.0, None, None, None, None]
    assert [stack.static_dispatch for stack in stacks] == [True, True, False, False, False, False]


def test_a_row_says_that_nothing_hides_the_collectives_of_tensor_parallelism_and_that_activations_are_dropped() -> None:
    said, plain = (
        parsed(framework="NeMo 24.07", tp=4, pp=1, **more).spec
        for more in ({"notes": "no overlap in tensor parallelism", "dropout": 0.1}, {})
    )

    assert (said.layout.async_tp, plain.layout.async_tp) == (False, True)
    assert (said.model.dropout, plain.model.dropout) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("framework", "dispatch"),
    [
        ("Megatron-DeepSpeed (2023)", (True, True)),
        ("Mesh TensorFlow (2021)", (True, False)),
        ("Megatron-Core", (False, False)),
    ],
)
def test_experts_of_deepspeed_and_mesh_tensorflow_are_reached_by_one_hot_matrices_over_a_micro_batch_or_a_sequence(
    framework: str, dispatch: tuple[bool, bool]
) -> None:
    stack = parsed(arch="qwen3_30b_a3b", tp=1, pp=1, ep=8, framework=framework, sharding="none").spec.stack

    assert (stack.one_hot_dispatch, stack.one_hot_batch) == dispatch


def test_relatives_of_maxtext_are_compiled_and_have_not_the_factor_of_its_recipes() -> None:
    names = ("MaxText", "Levanter (Marin speedrun, 2025)", "Paxml 23.08 (JAX-Toolbox)", "AXLearn (JAX)")
    factors = [factor_of(parsed(framework=name).spec.stack) for name in names]
    assert factors[0] < factors[1] == factors[2] == factors[3] == 1


def test_xla_needs_no_count_on_the_host_and_gathers_ahead_on_gpus_where_recipe_or_flags_say_so() -> None:
    def ahead(framework: str, **changes: str) -> bool:
        spec = parsed(framework=framework, **changes).spec
        assert (spec.stack.token_counts, spec.stack.plain_dispatch) == ("device", True)
        return bool(datasheet(spec.cluster, spec.stack, "bf16").gathers_ahead)

    assert [ahead(name) for name in ("MaxText", "Levanter", "AXLearn (JAX)")] == [True, False, False]
    assert ahead("Levanter", overlap="pipelined collectives")
    assert not ahead("MaxText", overlap="latency hiding alone, no pipelined collectives")
    assert ahead("Levanter", gpu="TPUv5p")
    assert parsed(framework="torchtitan").spec.stack.gathers_ahead


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"framework": "Megatron-Core"}, "host"),
        ({"framework": "torchtitan"}, "exchange"),
        ({"framework": "Hugging Face transformers 5.2"}, "exchange"),
        ({"framework": "HF Trainer (4.45) with ScatterMoE"}, "exchange"),
        ({"framework": "HF Trainer (4.45)", "notes": "MegaBlocks"}, "host"),
    ],
)
def test_where_token_counts_are_needed_follows_from_the_kernels_of_the_experts(changes: dict[str, str], needed) -> None:
    assert parsed(tp=1, pp=1, **changes).spec.stack.token_counts == needed


def test_levanter_keeps_the_inputs_of_layers_alone_and_its_relatives_the_results_of_products() -> None:
    kinds = [
        parsed(framework=name, recompute=None).spec.layout.recompute for name in ("Levanter", "AXLearn", "MaxText")
    ]
    assert kinds == ["full", "operators", "operators"]


def test_a_row_that_is_labelled_tokendrop_pads_to_the_mean_and_exchanges_plainly_with_graphs_where_it_says_so() -> None:
    common = {"arch": "qwen3_235b_a22b", "framework": "Megatron-Bridge", "tp": 1, "pp": 1, "ep": 16}
    label = "MoE: token-drop variant as labelled; row label: Qwen3_235B_a22B "
    notes = ("(tokendrop)", "(dropless)", "(tokendrop); full-iteration CUDA graphs", "; CUDA graphs of router")
    stacks = [parsed(**common, notes=label + note).spec.stack for note in notes]

    assert [stack.capacity_factor for stack in stacks] == [1.0, None, 1.0, None]
    assert [stack.static_dispatch for stack in stacks] == [True, False, True, False]
    assert [stack.expert_dispatch for stack in stacks] == ["all_to_all", "deepep", "all_to_all", "deepep"]
    assert [stack.cuda_graphs for stack in stacks] == ["none", "none", "iteration", "scoped"]


@pytest.mark.parametrize(
    ("framework", "sharding", "unit"),
    [
        ("PyTorch", "FSDP2 (ZeRO-3)", "layer"),
        ("NeMo AutoModel (PyTorch FSDP2)", "FSDP", "layer"),
        ("PyTorch FSDP (2.0, minGPT, 2023)", "FSDP", "flat"),
        ("PyTorch FSDP (2026)", "FSDP", None),
        ("PyTorch FSDP", "FSDP", "flat"),
        ("PyTorch (2026)", "FSDP1", "flat"),
        ("somebody's code", "FSDP", None),
        ("HF Trainer (2026)", "FSDP", "flat"),
        ("HF Trainer (2026)", "FSDP2", "layer"),
        ("OLMo-core 1.5", "FSDP", "flat"),
        ("OLMo-core 2.4", "FSDP", "layer"),
        ("llm-foundry", "FSDP", "flat"),
        ("DeepSpeed", "ZeRO-3", "bucket"),
        ("MaxText", "FSDP", "weight"),
    ],
)
def test_only_the_second_form_of_fsdp_copies_what_it_gathers(framework, sharding, unit) -> None:
    row = parsed(arch="llama2_7b", framework=framework, sharding=sharding, tp=1, pp=1)
    assert row.spec.stack.shard_unit == unit


@pytest.mark.parametrize(
    ("model", "release", "gpu", "notes", "dispatch"),
    [
        ("Qwen3 30B-A3B", "25.11", "GB200", "", "hybridep"),
        ("Qwen3 30B-A3B", "25.11", "GB200", "DeepEP", "deepep"),
        ("DeepSeek-V3 671B", "26.02", "GB300", "", "hybridep"),
        ("Qwen3 30B-A3B", "25.11", "GB200", "plain all-to-all", "all_to_all"),
        ("Qwen3 30B-A3B", "25.11", "GB200", "(tokendrop)", "all_to_all"),
        ("Qwen3 30B-A3B", "25.09", "GB200", "", "all_to_all"),
        ("Qwen3 30B-A3B", "25.11", "B200", "", "all_to_all"),
        ("GPT-OSS 120B", "25.11", "GB200", "", "all_to_all"),
    ],
)
def test_recipes_for_racks_send_a_token_once_to_each_rank(model, release, gpu, notes, dispatch) -> None:
    row = parsed(
        arch="qwen3_30b_a3b",
        model=model,
        framework=f"Megatron-Bridge, NeMo container {release}",
        gpu=gpu,
        gpus_per_node=4 if gpu.startswith("GB") else 8,
        tp=1,
        ep=8,
        pp=1,
        sharding=None,
        notes=notes,
    )

    assert row.spec.stack.expert_dispatch == dispatch


def test_a_row_says_how_its_tokens_are_sent_what_graphs_hold_and_whether_the_exchange_is_hidden() -> None:
    common = {"arch": "qwen3_235b_a22b", "framework": "Megatron-Core (2025)", "tp": 1, "pp": 1, "ep": 16}
    told = parsed(
        **common, notes="HybridEP; CUDA graphs of attention and router; expert exchange overlapped with the other half"
    ).spec
    silent = parsed(**common).spec

    assert (told.stack.expert_dispatch, silent.stack.expert_dispatch) == ("hybridep", "all_to_all")
    assert (told.stack.cuda_graphs, silent.stack.cuda_graphs) == ("scoped", "none")
    assert (told.layout.expert_overlap, silent.layout.expert_overlap) == (True, False)


def test_software_of_2025_has_the_attention_kernels_of_hopper_by_its_name_or_its_paper() -> None:
    common = {"arch": "llama3_8b", "gpu": "H100-80GB-SXM", "tp": 1, "pp": 1}
    named = parsed(**common, framework="Megatron-Core (2025)").spec.stack.attention_kernel
    paper = parsed(**common, framework="Megatron-Core", source="arXiv 2504.14960 Table 3").spec.stack.attention_kernel
    older = parsed(**common, framework="Megatron-Core", source="arXiv 2402.15627").spec.stack.attention_kernel
    assert (named, paper, older) == ("flash3", "flash3", "cudnn")


def test_torchtitan_routes_naturally_and_takes_cudnn_where_pytorch_prefers_it() -> None:
    common = {"arch": "qwen3_30b_a3b", "tp": 1, "pp": 1, "ep": 8, "gpu": "H100-SXM"}
    before, since = (parsed(**common, framework=f"torchtitan ({date})").spec.stack for date in ("2025-11", "2025-12"))
    assert (before.attention_kernel, since.attention_kernel) == ("flash2", "flash3")
    forced = parsed(**common, framework="torchtitan", notes="routing balanced by force").spec.stack
    assert 0 == routing_spread_of(forced) < routing_spread_of(before) < ROUTING_SPREAD
    assert routing_spread_of(STACKS["compiled"]) == ROUTING_SPREAD


def test_torchtitans_policy_did_not_keep_what_cudnn_returns_before_december_2025() -> None:
    common = {"arch": "llama3_8b", "tp": 1, "pp": 1, "gpu": "B200", "recompute": "selective (per operation)"}
    kept = {
        date: parsed(**common, framework=f"torchtitan ({date})").spec.stack.operators_keep
        for date in ("2025-11", "2025-12")
    }

    assert kept == {"2025-11": "products_alone", "2025-12": "products"}
    assert parsed(**common, framework="torchtitan (2025-12)").spec.layout.recompute == "operators"


def test_torchtitans_policy_keeps_the_exchange_of_experts_by_the_list_of_the_model() -> None:
    common = {"arch": "qwen3_30b_a3b", "tp": 1, "pp": 1, "ep": 8, "gpu": "H100-SXM"}

    def kept(model: str, date: str) -> bool:
        return parsed(**common, model=model, framework=f"torchtitan ({date})").spec.stack.keeps_exchange

    assert [kept("DeepSeek-V3", date) for date in ("2025-08", "2025-10", "2026-05")] == [False, True, True]
    assert [kept("Qwen3 30B-A3B", date) for date in ("2025-08", "2025-12", "2026-05")] == [False, False, True]


@pytest.mark.parametrize(
    ("arch", "model", "framework", "alone"),
    [
        ("qwen3_8b", "Qwen3 8B", "Megatron-Bridge (NeMo 25.09)", True),
        ("llama3_8b", "Llama 3 8B", "Megatron-Bridge (NeMo 25.09)", False),
        ("qwen3_30b_a3b", "Qwen3 30B-A3B", "Megatron-Bridge (NeMo 25.09)", False),
        ("qwen3_8b", "Qwen3 8B", "NeMo 25.04", False),
    ],
)
def test_megatron_bridges_dense_qwen_does_not_fuse_the_gate(arch: str, model: str, framework: str, alone: bool) -> None:
    row = parsed(arch=arch, model=model, framework=framework, tp=1, pp=1, gpu="H100-SXM")

    assert row.spec.stack.single_gate == alone


@pytest.mark.parametrize(
    ("framework", "kept"),
    [
        ("NeMo 24.12", False),
        ("NeMo 25.09", True),
        ("Megatron-Bridge, NeMo container 25.11", True),
        ("Megatron-LM (core 0.14.0, 2026-03)", True),
        ("Megatron-LM (2025-03)", False),
        ("Megatron-LM (ByteDance, 2024)", False),
        ("Megatron-Core", True),
        ("PyTorch", False),
    ],
)
def test_transformer_engine_keeps_empty_gradients_since_2025(framework: str, kept: bool) -> None:
    assert parsed(framework=framework, source="test").spec.stack.gradient_placeholders == kept


def test_a_peak_of_rank_0_is_told_from_that_of_the_fullest_device() -> None:
    common = {"arch": "llama3_8b", "tp": 1, "pp": 1, "gpu": "H100-SXM", "framework": "PyTorch", "mem_gib_per_gpu": 60}

    assert parsed(**common, notes="64.4 GB at the peak of rank 0").memory_of_rank_0
    assert not parsed(**common, notes="mean of all ranks").memory_of_rank_0


def test_torchtitans_recipes_take_the_loss_in_chunks_of_the_head_since_may_2026() -> None:
    common = {"arch": "llama3_8b", "tp": 1, "pp": 1, "gpu": "B200", "recompute": "selective (per operation)"}

    def stack(date: str, overlap: str, **row):
        return parsed(**common, framework=f"torchtitan ({date})", overlap=overlap, **row).spec.stack

    losses = [stack(date, "torch.compile").cross_entropy for date in ("2026-04", "2026-05")]
    assert losses == ["compiled", "chunked_head"]
    assert stack("2026-05", "torch.compile; whole cross entropy").cross_entropy == "compiled"
    traced = stack("2026-07", "torch.compile", notes="CUDA graphs of the whole step (GraphTrainer)")
    assert traced.operators_keep == "every_product"


def test_automodel_and_torchtune_train_in_16_bit_throughout() -> None:
    common = {"arch": "llama3_8b", "tp": 1, "pp": 1, "gpu": "H100-SXM", "precision": "bf16"}
    masters = [
        parsed(**common, framework=name).spec.training.master_weights
        for name in ("NeMo AutoModel (PyTorch FSDP2)", "torchtune", "torchtune (compile)", "torchtitan")
    ]

    assert masters == [False, False, False, True]


def test_a_row_may_state_its_attention_kernel_and_an_unknown_one_is_named() -> None:
    assert parsed(attention_kernel="flash3").spec.stack.attention_kernel == "flash3"
    tpu = {"gpu": "TPUv5e", "framework": "MaxText", "tp": 1, "step_time_s": 99}
    kernels = [parsed(**tpu, attention_kernel=said).spec.stack.attention_kernel for said in ("splash", "dot_product")]
    assert kernels == ["flash", "eager"]
    assert parsed(attention_kernel="fast").reason.startswith("attention_kernel is 'fast', expected one of eager, ")


@pytest.mark.parametrize(
    ("gpu", "framework", "said", "kernel", "assumed"),
    [
        ("A100-80GB-SXM", "HF Trainer", "sdpa", None, "attention kernel flash2"),
        ("B200", "HF Trainer", "SDPA", None, "attention kernel cudnn"),
        ("A100-80GB-SXM", "HF Trainer", "sdpa (its flash kernel)", None, "attention kernel flash2"),
        ("A100-80GB-SXM", "Megatron-Core (2026)", "scaled_dot_product_attention", None, "attention kernel flash2"),
        ("B200", "torchtitan (2026-01)", "sdpa", "cudnn", None),
        ("H100-80GB-SXM", "HF Trainer", "xformers", "flash2", None),
        ("V100", "HF Trainer", "xFormers", "flash", None),
        ("A100-80GB-SXM", "HF Trainer", "flash_attention", "flash2", None),
        ("H100-80GB-SXM", "HF Trainer", "FA3 (its beta)", "flash3", None),
        ("H100-80GB-SXM", "MaxText", "cudnn_flash_te", "cudnn", None),
        ("A100-80GB-SXM", "Megatron-LM (2026)", "fused", "cudnn", None),
    ],
)
def test_a_row_may_name_the_library_that_chooses_its_attention_kernel(gpu, framework, said, kernel, assumed) -> None:
    common = {"gpu": gpu, "precision": "fp16", "tp": 1, "pp": 1, "sharding": "ZeRO-3", "step_time_s": 30.0}
    row = parsed(**common, framework=framework, attention_kernel=said)

    assert row.spec.stack.attention_kernel == kernel
    assert [line for line in row.assumed if line.startswith("attention kernel")] == ([assumed] if assumed else [])


def test_a_policy_that_keeps_q_k_and_v_repeats_the_other_products() -> None:
    common = {"framework": "PyTorch/XLA (2026)", "gpu": "TPUv6e", "tp": 1, "recompute": "selective AC"}
    said = {"activation_offload": "layer inputs, Q, K, V, output projection"}
    kept, plain = parsed(**common, **said).spec, parsed(**common).spec
    assert kept.stack.operators_keep == "projections"
    assert parsed(**common | {"recompute": "selective AC (save_qkv_proj)"}).spec.stack.operators_keep == "projections"
    assert plain.stack.operators_keep == "products"
    same = msgspec.structs.replace(kept, layout=plain.layout)
    assert predict_step(same).step_time_s.value > predict_step(plain).step_time_s.value


@pytest.mark.parametrize(
    ("framework", "said", "wrapped"),
    [
        ("torchtitan (2026-01)", {}, True),
        ("torchtitan", {"source": "our cluster"}, True),
        ("torchtitan (2026-01)", {"overlap": "torch.compile"}, False),
        ("NeMo AutoModel (PyTorch FSDP2)", {}, True),
        ("NeMo AutoModel (PyTorch FSDP2)", {"overlap": "torch.compile"}, False),
        ("PyTorch FSDP2", {"notes": "layers on DTensor", "overlap": "torch.compile"}, False),
        ("Megatron-LM (2026)", {}, False),
        ("Megatron-LM (2026)", {"notes": "layers on DTensor"}, False),
        ("PaddleNLP (2023)", {}, False),
        ("PaddleNLP (2023)", {"notes": "layers on DTensor"}, True),
    ],
)
def test_rows_of_pytorchs_tensor_parallelism_issue_operations_on_dtensors_unless_they_are_compiled(
    framework: str, said: dict[str, Any], wrapped: bool
) -> None:
    common = {"arch": "llama3_8b", "pp": 1, "gpu": "H100-SXM", "gbs": 64, "dp": None, "step_time_s": 99}

    assert issues_on_dtensors(parsed(**common | {"framework": framework, "tp": 8} | said).spec.stack) == wrapped


def test_megatrons_own_fused_loss_needs_more_memory_and_time_than_transformer_engines() -> None:
    common = {"framework": "Megatron-Bridge", "sharding": "ZeRO-1", "tp": 1, "pp": 1, "arch": "llama3_8b"}
    common |= {"recompute": "none"}
    said = "native fused cross entropy"
    own, engines = (parsed(**common, overlap=overlap).spec for overlap in (said, None))
    argument = parsed(**common, notes="--cross-entropy-fusion-impl native").spec
    assert own.stack.cross_entropy == argument.stack.cross_entropy == "vocab_parallel_graphs"
    assert parsed(framework="HF Trainer", overlap=said).spec.stack.cross_entropy == "eager"
    own, engines = predict_step(own), predict_step(engines)
    assert own.step_time_s.value > engines.step_time_s.value
    assert sum(own.memory.parts_bytes.values()) > sum(engines.memory.parts_bytes.values())


def test_a_row_may_state_the_type_in_which_gradients_are_reduced_either_way() -> None:
    common = {"framework": "Megatron-Bridge", "sharding": "ZeRO-1", "tp": 1}
    wide, narrow, usual = (parsed(**common, reduce_dtype=said).spec for said in ("float32", "bf16", None))
    assert [spec.stack.grad_reduce_dtype for spec in (wide, narrow, usual)] == ["fp32", "bf16", "bf16"]
    assert "reduce_dtype is 'int8', expected one of bf16, " in parsed(**common, reduce_dtype="int8").reason
    needs = [sum(predict_step(spec).memory.parts_bytes.values()) for spec in (wide, narrow)]
    assert needs[0] > needs[1]


def test_unfused_attention_has_a_fused_softmax_in_megatron_and_is_a_chain_of_operations_elsewhere() -> None:
    common = {"attention_kernel": "unfused", "sharding": "ZeRO-1"}
    kernels = [parsed(framework=name, **common).spec.stack.attention_kernel for name in ("Megatron-LM", "PyTorch FSDP")]
    assert kernels == ["unfused", "eager"]


def test_plain_pytorch_that_is_compiled_is_compiled_software_and_a_named_framework_keeps_its_stack() -> None:
    plain, compiled, named = (
        parsed(framework=name, overlap=said).spec.stack
        for name, said in (("PyTorch FSDP2", None), ("PyTorch FSDP2", "torch.compile"), ("torchtitan", "torch.compile"))
    )
    assert (plain.population, plain.fused, plain.cross_entropy) == ("ordinary", False, "eager")
    assert (compiled.population, compiled.fused, compiled.cross_entropy) == ("ordinary", True, "compiled")
    assert compiled.fused_optimizer is False
    assert named.attention_kernel == "flash2"


@pytest.mark.parametrize(
    ("source", "loss"),
    [
        ("benchmarks/llama3_h100_202412_torchtitan.md @b5bcd76c66", "eager"),
        ("benchmarks/asyncTP_llama3_h100_2025-06_torchtitan.md @b5bcd76c66", "compiled"),
        ("pull request 1690 (2025-09)", "compiled"),
        ("README.md @f20250612", "eager"),
    ],
)
def test_torchtitan_compiles_its_loss_since_a_date_that_its_sources_have(source, loss) -> None:
    record = {"framework": "torchtitan (2024)", "overlap": "torch.compile", "source": source}
    alone, tensor_parallel = (parsed(**record, tp=tp).spec.stack for tp in (1, 2))
    assert alone.cross_entropy == loss
    assert tensor_parallel.cross_entropy == "eager"


def test_torchtitan_without_any_date_is_that_of_its_stack() -> None:
    assert parsed(framework="torchtitan", source="our cluster").spec.stack == STACKS["torchtitan"]


@pytest.mark.parametrize(
    ("framework", "gpu", "arch", "kernel"),
    [
        ("NeMo 2 (container 25.04.01)", "GB200", "deepseek_v3", "unfused"),
        ("Megatron-Bridge (container 25.09)", "GB200", "deepseek_v3", "cudnn"),
        ("NeMo 2 (container 25.04.01)", "GB200", "llama3_8b", "cudnn"),
        ("NeMo 2 (container 25.04.01)", "H100-80GB-SXM", "deepseek_v3", "flash3"),
        ("NeMo 2", "GB200", "deepseek_v3", "cudnn"),
    ],
)
def test_heads_of_latent_attention_have_no_fused_kernel_on_blackwell_before_cudnn_9_11(
    framework, gpu, arch, kernel
) -> None:
    found = parsed(framework=framework, gpu=gpu, arch=arch, tp=1, pp=1, step_time_s=100).spec.stack
    assert found.attention_kernel == kernel


def test_how_experts_run_is_read_from_framework_and_notes() -> None:
    experts = {"layers": 24, "hidden": 2048, "ffn": 7168, "heads": 16, "n_experts": 16, "top_k": 2, "mlp": "swiglu"}

    def stack(framework: str, notes: str = "", ep: int = 1) -> Stack:
        record = {**RECORD, "arch": "mine", "tp": 1, "pp": 1, "ep": ep, "framework": framework, "notes": notes}
        ((row,), _) = parse_rows([record], {"mine": experts})
        return row.spec.stack

    assert stack("PyTorch FSDP2").expert_loop is None
    assert stack("PyTorch FSDP2", "a Python loop runs one expert after the other").expert_loop
    assert not stack("torchtitan").expert_loop
    assert stack("Megatron-Core").expert_dispatch == "all_to_all"
    assert stack("Megatron-Core", "routing balanced by force; DeepEP").expert_dispatch == "deepep"
    assert stack("HAI-LLM").expert_dispatch == "deepep"
    # The vendor's recipes use it where the exchange leaves the node.
    within, between = (stack("Megatron-Bridge", ep=ep).expert_dispatch for ep in (8, 16))
    assert (within, between) == ("all_to_all", "deepep")
    # transformers sorts its grouped experts by single operations, unless users put another kernel in their place.
    plain = [
        stack("Hugging Face TRL (transformers 5)", notes).plain_dispatch
        for notes in ("grouped products", "grouped kernel of experts (sonic-moe)")
    ]
    assert plain == [True, False]
    assert not stack("HF Trainer (transformers 4)").plain_dispatch
    by_index = [
        stack(f"Hugging Face TRL (transformers {release})", said).indexed_biases
        for release, said in ((5, ""), (5, "ScatterMoE"), (4, ""))
    ]
    assert by_index == [True, False, False]
    # Megatron-core multiplies an expert's activation by its probability since 0.12, of 2025.
    assert [stack(f"Megatron-Core ({year})").weighted_experts for year in (2024, 2025)] == [False, True]
    assert stack("Megatron-Core").routing_spread is None
    assert stack("Megatron-Core", "natural routing").routing_spread == ROUTING_SPREAD
    balanced = [
        stack("Megatron-Core", f"natural routing, {by}")
        for by in ("balanced by biases", "balanced by an auxiliary loss")
    ]
    assert [one.routing_spread for one in balanced] == [BALANCED_SPREAD] * 2


@pytest.mark.parametrize("length", ["16k", "32k", "64k", "128k"])
def test_natural_routing_costs_what_two_runs_of_one_job_differ_by(length) -> None:
    # Qwen3 235B on 256 H100 (best_practice/qwen3/readme.md of yanring/Megatron-MoE-ModelZoo at 020b813)
    rows = {row.id: row for row in published_rows()[0]}
    forced, natural = (rows[f"moezoo-h100-{length}-{kind}"] for kind in ("balanced", "dropless"))

    predicted = [predict_step(row.spec).step_time_s.value for row in (forced, natural)]

    measured = natural.measured_step_time_s / forced.measured_step_time_s
    assert predicted[1] / predicted[0] == pytest.approx(measured, rel=0.07)


def test_an_encoder_sees_the_whole_sequence_and_is_of_a_kind_that_was_measured() -> None:
    shape = {"layers": 24, "hidden": 1024, "ffn": 4096, "heads": 16, "vocab": 30528, "note": "encoder; tied embeddings"}
    record = {**RECORD, "arch": "mine", "tp": 1, "pp": 1, "seq_len": 512}
    (read,), _ = parse_rows([record], {"mine": shape})
    encoder, decoder = read.spec.model, parsed(tp=1, pp=1).spec.model

    assert (encoder.causal, decoder.causal) == (False, True)
    assert encoder.is_validated_kind


def test_what_a_fine_tuning_framework_does_unless_told_otherwise_is_read_and_named() -> None:
    swift = parsed(framework="ms-swift + DeepSpeed", tp=1, pp=1)
    megatron = parsed(framework="Megatron-SWIFT", sharding="distributed optimizer", gbs=64)
    plain = parsed(framework="Megatron-Core", sharding="distributed optimizer", gbs=64)

    assert swift.spec.layout.recompute == "full"
    assert "recompute full" in swift.assumed
    assert (megatron.spec.layout.virtual_stages, plain.spec.layout.virtual_stages) == (1, 8)


def test_a_vocabulary_that_is_not_stated_is_that_of_the_family_and_named() -> None:
    sizes = {}
    for model in ("Qwen1.5-MoE 14B", "Llama 3 8B", "Llama 2 7B", "Mixtral 8x7B", "GPT 20B"):
        shape = {"layers": 24, "hidden": 2048, "ffn": 5504, "heads": 16, "mlp": "swiglu"}
        (row,), _ = parse_rows([{**RECORD, "arch": "mine", "model": model, "tp": 1, "pp": 1}], {"mine": shape})
        sizes[model] = row.spec.model.vocab
        assert f"vocab {row.spec.model.vocab}" in row.assumed
    assert list(sizes.values()) == [151936, 128256, 32000, 32000, 51200]


def test_submissions_to_a_benchmark_are_tuned_whatever_their_software() -> None:
    plain, submitted = (
        parsed(framework=name, sharding="none").spec.stack.population
        for name in ("Megatron-DeepSpeed (Habana)", "Megatron-DeepSpeed (Habana), MLPerf v4.0")
    )
    assert (plain, submitted) == ("ordinary", "tuned")


def test_a_stated_rank_of_adapters_gives_their_share_of_the_parameters() -> None:
    common = {
        "framework": "PyTorch",
        "kind": "lora_benchmark",
        "arch": "llama3_8b",
        "tp": 1,
        "pp": 1,
        "sharding": "FSDP",
    }
    plain, small, large = (parsed(**common, **more) for more in ({}, {"lora_rank": 8}, {"lora_rank": 64}))

    assert plain.spec.model.trainable_fraction == 0.005
    # Rank 8 on all seven matrices of Llama 3 8B: 21 million parameters (PEFT prints 20,971,520).
    assert small.spec.model.trainable_fraction * small.spec.model.parameters == pytest.approx(20_971_520, rel=1e-3)
    assert large.spec.model.trainable_fraction == pytest.approx(8 * small.spec.model.trainable_fraction)


def test_a_row_states_which_matrices_have_adapters() -> None:
    common = {"framework": "PyTorch", "kind": "lora_benchmark", "arch": "llama3_8b", "lora_rank": 16}
    common |= {"tp": 1, "pp": 1, "sharding": "FSDP"}
    plain, stated = (parsed(**common, **more).spec.model for more in ({}, {"adapters": "query_key_value"}))

    assert (plain.adapted, stated.adapted) == ("all_matrices", "query_key_value")
    # Rank 16 beside queries (4096 wide), keys and values (1024 each) of 32 layers of hidden width 4096.
    assert stated.trainable_fraction * stated.parameters == pytest.approx(16 * 32 * (3 * 4096 + 4096 + 2 * 1024))


def test_a_row_of_a_model_of_transformers_may_name_a_gelu_by_its_formula() -> None:
    shape = {"layers": 12, "hidden": 768, "ffn": 3072, "heads": 12, "kv_heads": 12, "vocab": 50257}
    models = [parsed(**shape, arch=None, mlp=f"{name}-2mat").spec.model for name in ("gelu_new", "gelu")]
    assert [model.written_gelu for model in models] == [True, False]


def test_a_row_states_in_how_many_bits_frozen_weights_are_kept() -> None:
    common = {"framework": "NeMo 25.09", "kind": "lora_benchmark", "arch": "llama3_8b", "tp": 1, "pp": 1}
    said = ("", "base weights in 8 bit (inferred from what fits)", "QLoRA")
    rows = [parsed(**common, notes=words, precision="fp8").spec for words in said]
    assert [row.model.frozen_bits for row in rows] == [16, 8, 4]


def test_attention_of_packed_documents_ends_with_a_document() -> None:
    packed, whole = (parsed(arch="llama3_8b", tp=1, pp=1, **more).spec for more in ({"document_len": 512}, {}))

    assert (packed.model.sliding_window, packed.model.sliding_window_layers) == (256, packed.model.layers)
    assert whole.model.sliding_window is None


def test_adapters_of_nemo_are_on_queries_keys_and_values_unless_the_row_says_otherwise() -> None:
    common = {"kind": "lora_benchmark", "arch": "llama3_8b", "tp": 1, "pp": 1, "sharding": "none"}
    nemo, stated = (
        parsed(**common, framework="NeMo 24.12", **more).spec.model for more in ({}, {"adapters": "attention"})
    )

    assert (nemo.adapted, stated.adapted) == ("query_key_value", "attention")


def test_memory_of_a_row_whose_step_is_impossible_is_not_compared() -> None:
    record = {**RECORD, "tp": 1, "pp": 1, "mem_gib_per_gpu": 10, "step_time_s": 1e-4}
    rows, (skipped,) = parse_rows([record], {})

    assert rows == []
    assert "device, batch or recompute is another" in skipped.reason
    assert skipped.memory is None


def test_step_time_follows_from_what_all_devices_do_together() -> None:
    seconds = parsed(step_time_s=None, tokens_per_s_per_gpu=1000).measured_step_time_s
    assert seconds == pytest.approx(16 * 8192 / 16 / 1000)
    assert parsed(step_time_s=None, tokens_per_s_total=16_000).measured_step_time_s == pytest.approx(seconds)
    assert parsed(step_time_s=None, samples_per_s=16_000 / 8192).measured_step_time_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        ("Hugging Face transformers 4 (Axolotl, DeepSpeed ZeRO-3)", "deepspeed"),
        ("HF Trainer with DeepSpeed", "deepspeed"),
        ("Hugging Face TRL (FSDP2)", "ordinary"),
        ("PyTorch, beside DeepSpeed", "ordinary"),
    ],
)
def test_trainers_of_transformers_that_name_deepspeed_run_under_it(framework: str, name: str) -> None:
    assert conventions_of(framework).name == name


def test_kernels_that_users_put_into_transformers_are_read_and_its_experts_are_grouped_since_version_5() -> None:
    def stack(**changes: Any) -> Stack:
        found = parsed(tp=1, pp=1, **changes).spec.stack
        assert isinstance(found, Stack)
        return found

    plain = stack(framework="Hugging Face transformers 4.49")
    assert (plain.fused, plain.cross_entropy, plain.expert_loop) == (False, "eager", True)
    assert (plain.population, stack(framework="our own", overlap="Liger").population) == ("ordinary", "ordinary")
    liger = stack(framework="Hugging Face transformers 5.2", notes="Liger kernels")
    assert (liger.fused, liger.cross_entropy, liger.expert_loop) == (True, "in_place", False)
    assert stack(framework="HF trainer", notes="Liger with its fused loss").cross_entropy == "chunked"
    assert not stack(framework="HF trainer", notes="oligergy").fused


@pytest.mark.parametrize(
    ("changes", "loop"),
    [
        ({"framework": "HF Trainer (4.45) with ScatterMoE"}, False),
        ({"framework": "PyTorch", "notes": "experts in one grouped product"}, False),
        ({"framework": "HF Trainer (4.45)", "notes": "MegaBlocks"}, False),
        ({"framework": "PyTorch", "notes": "ungrouped products"}, True),
        ({"framework": "PyTorch", "overlap": "torch.compile", "notes": "loop over experts"}, True),
        ({"framework": "torchtitan", "notes": "experts run in a loop"}, True),
        ({"framework": "HF Trainer (4.45)"}, True),
        ({"framework": "HF Trainer (2024)"}, True),
        ({"framework": "HF Trainer"}, None),
        ({"framework": "PyTorch FSDP2"}, None),
        ({"framework": "DeepSpeed"}, None),
        ({"framework": "our own code"}, None),
    ],
)
def test_experts_are_a_loop_grouped_or_open_by_what_a_row_says(changes: dict[str, str], loop: bool | None) -> None:
    assert parsed(tp=1, pp=1, **changes).spec.stack.expert_loop is loop


def test_a_row_that_leaves_open_how_its_experts_run_says_so_and_has_a_wider_range(tmp_path: Path) -> None:
    experts = {"layers": 8, "hidden": 2048, "ffn": 7168, "heads": 16, "n_experts": 16, "top_k": 2, "mlp": "swiglu"}
    record = {**RECORD, "arch": "mine", "tp": 1, "pp": 1, "framework": "PyTorch FSDP2"}
    records = [{**record, "id": "open-1"}, {**record, "id": "told-1", "notes": "grouped products"}]
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump({"architectures": {"mine": experts}, "rows": records}), "utf-8")
    opened, told = validate(path).rows

    assert "experts in grouped products" in (opened.assumed or ())
    assert "experts in grouped products" not in (told.assumed or ())
    assert opened.predicted_step_time_s == told.predicted_step_time_s
    assert opened.low_s == told.low_s
    assert (opened.high_s or 0) > 1.2 * (told.high_s or 0)


def test_experts_of_granite_loop_over_sorted_rows_before_version_5_of_transformers() -> None:
    notes = "transformers' own experts of Granite MoE"
    old, new = (parsed(tp=1, pp=1, framework=f"Hugging Face transformers {n}", notes=notes).spec.stack for n in (4, 5))
    assert (old.expert_loop, old.sorted_loop, old.sliced_weights) == (True, True, True)
    assert (new.expert_loop, new.sorted_loop, new.sliced_weights) == (False, False, False)


def test_experts_of_megatron_without_grouped_products_loop_over_sorted_rows_with_weights_of_their_own() -> None:
    stack = parsed(tp=1, pp=1, framework="Megatron-LM (FlagPerf)", notes="ungrouped experts").spec.stack

    assert (stack.expert_loop, stack.sorted_loop, stack.sliced_weights) == (True, True, False)
    assert stack.plain_dispatch


def test_a_script_that_hands_16_bit_logits_to_the_loss_says_so_and_blocks_of_the_head_are_known_by_name() -> None:
    plain = {"tp": 1, "pp": 1, "framework": "Hugging Face transformers 4.49"}
    said = ("", "loss over 16-bit logits", "head and loss in chunks")
    losses = [parsed(**plain, notes=notes).spec.stack.cross_entropy for notes in said]
    assert losses == ["eager", "half", "chunked_head"]
    grug, other = (
        parsed(tp=1, pp=1, framework=f"Levanter ({name})").spec.stack.cross_entropy for name in ("Grug, JAX", "JAX")
    )
    assert (grug, other) == ("chunked", "compiled")
    assert STACKS["llm-foundry"].cross_entropy == "narrow_kernel"


def test_relatives_of_megatron_core_of_2025_weight_the_activation_of_experts_and_fp8_of_llm_q_is_kept_narrow() -> None:
    mixture = {"arch": "mixtral_8x7b", "sharding": "distributed optimizer", "mbs": 1}
    weighted = [
        parsed(**mixture, framework=f"Pai-Megatron-Patch {release}").spec.stack.weighted_experts
        for release in ("24.08", "25.04")
    ]
    assert weighted == [False, True]
    assert parsed(tp=1, pp=1, framework="LLM.Q (CUDA and C++)").spec.stack.narrow_inputs


def test_kernels_of_unsloth_and_fms_acceleration_are_fused_by_hand() -> None:
    for changes in (
        {"framework": "HF Trainer", "notes": "Unsloth"},
        {"framework": "HF Trainer (fms-acceleration fused kernels)"},
    ):
        stack = parsed(tp=1, pp=1, **changes).spec.stack
        assert (stack.population, stack.fused, stack.cross_entropy) == ("ordinary", True, "in_place")


def test_unknown_software_that_cuts_a_model_over_many_devices_is_tuned_and_that_is_named() -> None:
    def read(devices: int, **changes: Any) -> tuple[str, tuple[str, ...]]:
        row = parsed(framework="our own", n_gpus=devices, gbs=devices, **changes)
        return row.spec.stack.population, row.assumed

    assert read(512)[0] == "ordinary"
    population, assumed = read(1024)
    assert population == "tuned"
    assert "software priced like megatron-core" in assumed
    assert read(1024, tp=1, pp=1)[0] == "ordinary"


def test_megatron_lm_trains_the_modules_of_its_core_since_2024() -> None:
    assert parsed(framework="Megatron-LM 2024-04").framework == "megatron-core"
    assert parsed(framework="Megatron-LM (2026)").framework == "megatron-core"
    assert parsed(framework="Megatron-LM").framework == "megatron-lm"


def test_a_bridge_joins_two_cards_in_a_chassis_of_eight_and_a_switch_joins_all() -> None:
    bridged, switched = (
        parsed(gpu=gpu, n_gpus=devices, gpus_per_node=devices, precision="fp16", step_time_s=99)
        for gpu, devices in (("RTX-3090", 8), ("V100-SXM3-32GB", 16))
    )
    assert bridged.spec.cluster.accelerator.scaleup.domain == 2
    assert switched.spec.cluster.accelerator.scaleup.domain == 16


@pytest.mark.parametrize(
    "network", ["data-centre network between slices", "ICI torus; multislice DCN", "datacenter network"]
)
def test_links_of_a_tpu_end_at_its_slice(network: str) -> None:
    job = {"gpu": "TPUv5p", "n_gpus": 128, "framework": "MaxText", "tp": 1, "pp": 1, "gbs": 128}
    sliced = parsed(**job, gpus_per_node=64, inter_node=network).spec
    torus = parsed(**job, gpus_per_node=4, inter_node="ICI torus").spec
    assert [island_size(spec.cluster) for spec in (sliced, torus)] == [64, 128]
    inside, across = (msgspec.structs.replace(torus, cluster=spec.cluster) for spec in (torus, sliced))
    assert predict_step(across).step_time_s.value > predict_step(inside).step_time_s.value


def test_a_slice_of_tpus_is_known_by_the_name_that_its_maker_gives_it() -> None:
    job = {"framework": "MaxText", "tp": 1, "pp": 1, "gbs": 256, "step_time_s": 99}
    named = {"v5p-128": 64, "TPU v4-128": 64, "v5litepod-256": 256, "TPU v6e-8": 8}
    for gpu, chips in named.items():
        row = parsed(**job, gpu=gpu, n_gpus=chips, gpus_per_node=chips)
        assert row.spec.cluster.accelerator.kind == "tpu"
        assert f"1 of {gpu}, with {chips} chips each" in row.assumed
    assert "2 of v5p-128, with 64 chips each" in parsed(**job, gpu="v5p-128", n_gpus=128, gpus_per_node=4).assumed
    assert "no multiple of the 64 chips of v5p-128" in str(parsed(**job, gpu="v5p-128", n_gpus=96, gpus_per_node=4))


def test_maxtexts_own_names_and_lightnings_precisions_are_read() -> None:
    named = {name: value for name, value in RECORD.items() if name not in ("mbs", "seq_len", "gbs")}
    row = parse_rows([{**named, "per_device_batch_size": 2, "max_target_length": 2048, "framework": "MaxText"}], {})[0]
    assert (row[0].spec.layout.micro_batch_size, row[0].spec.training.seq_len) == (2, 2048)
    words = {"16-mixed": "fp16", "half": "fp16", "float8": "fp8"}
    assert {said: parsed(precision=said, step_time_s=99).spec.training.precision for said in words} == words


def test_parameters_are_sharded_inside_a_slice_or_a_pod() -> None:
    job = {"gpu": "TPUv5p", "n_gpus": 128, "gpus_per_node": 64, "framework": "MaxText", "tp": 1, "pp": 1, "gbs": 128}
    for words in ("FSDP inside a slice, data parallel between slices", "FSDP inside a pod"):
        assert parsed(**job, sharding=words).spec.layout.dp_shard == 64


def test_policies_of_jax_by_their_names_keep_products_with_weights() -> None:
    def kept(framework: str = "MaxText", **row) -> tuple[str, str]:
        spec = parsed(gpu="TPUv5p", tp=1, pp=1, gbs=16, framework=framework, **row).spec
        return spec.layout.recompute, spec.stack.operators_keep

    assert kept(recompute="minimal") == kept(remat_policy="minimal") == ("operators", "every_product_alone")
    assert kept(recompute="minimal_flash") == ("operators", "every_product")
    assert kept("AXLearn", recompute="dots_saveable") == ("operators", "every_product_alone")
    assert kept(remat_policy="full") == ("operators", "inputs")
    assert kept(recompute="full")[0] == "full"
    assert kept()[1] == kept(remat_policy="custom")[1] == "projections"


def test_no_tpu_executes_more_of_its_peak_in_a_published_run_than_its_products_may() -> None:
    """Whole steps with full recompute are mostly products, so that what they execute bounds the share of the peak."""
    executed: dict[str, float] = {}
    for row in published_rows()[0]:
        device, (layout, stack) = row.spec.cluster.accelerator, (row.spec.layout, row.spec.stack)
        wide = row.spec.training.precision == "bf16" and device.kind == "tpu"
        if row.framework == "maxtext" and wide and layout.recompute == "full":
            shape, work = shape_of(row.spec.model), work_of(row.spec.training, stack)
            flops = float(step_flops(shape, layout_of(layout), work)[1])
            peak = device.peak_flops["bf16"].value * row.spec.cluster.devices
            share = flops / peak / row.measured_step_time_s * factor_of(stack)
            executed[device.name] = max(share, executed.get(device.name, 0.0))

    assert executed.keys() >= {"tpu-v4", "tpu-v5e", "tpu-v5p"}
    for name, share in executed.items():
        device = load_accelerator(name)
        known = device.efficiency.gemm_share
        law = gemm_share_law(device.tdp_w.value, device.peak_flops["bf16"].value, device.architecture)
        assert share < (law if known is None else known.value), name


def test_torchtitan_takes_cudnn_on_blackwell_where_cudnn_takes_the_heads() -> None:
    latent = {"attention": "MLA kv_lora 512 qk_nope 128 qk_rope 64 v 128"}
    assert parsed(gpu="B200-SXM").spec.stack.attention_kernel == "cudnn"
    assert parsed(gpu="B200-SXM", **latent).spec.stack.attention_kernel == "flash2"
    assert parsed(gpu="A100-80GB-SXM").spec.stack.attention_kernel == "flash2"


def test_embedding_and_head_count_as_layers_where_a_pipeline_is_cut_into_chunks() -> None:
    row = {
        "id": "a", "model": "Llama 405B", "layers": 126, "hidden": 16384, "ffn": 53248, "heads": 128, "seq_len": 8192,
        "precision": "bf16", "gpu": "B200-180GB-SXM", "n_gpus": 256, "tp": 4, "pp": 16, "vp": 8, "mbs": 1, "gbs": 1536,
        "framework": "Megatron-Bridge (container 26.02)", "step_time_s": 100.0,
    }  # fmt: skip

    (found,), _ = parse_rows([row], {})

    assert found.spec.layout is not None
    assert found.spec.layout.virtual_stages == 8
