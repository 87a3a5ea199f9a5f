"""A run from a file, from flags, and from flags over a file: what is derived, assumed and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.spec.hardware.profiles import PROFILES_VARIABLE, load_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec, load_run_spec
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.stack import STACKS, Stack
from carbon_plugin.spec.training import PRECISION_NAMES
from tests.pages import blocks_of

RUN = """\
name: eight-b
model: llama3-8b
cluster:
  accelerator: h100-sxm
  nodes: 2
layout:
  tp: 2
  dp_shard: 8
  zero_stage: 3
training:
  seq_len: 4096
  global_batch_size: 64
  tokens: 15e12
site: {zone: FRA}
"""

LEAST: dict[str, Any] = {
    "model": "llama3-8b",
    "cluster": {"accelerator": "h100-sxm", "nodes": 2},
    "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 1000},
    "site": {"zone": "FRA"},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the run above, with one part of its text replaced."""

    def written(old: str = "", new: str = "") -> Path:
        assert old in RUN
        path = tmp_path / "run.yaml"
        path.write_text(RUN.replace(old, new, 1))
        return path

    return written


def with_changes(**changes: Any) -> dict[str, Any]:
    return LEAST | changes


def assumed(run) -> dict[str, str]:
    return {assumption.field: assumption.value for assumption in run.assumptions}


def test_a_file_is_read_in_full(write):
    run = load_run_spec(write())

    assert (run.name, run.model.name, run.cluster.devices, run.site.zone) == ("eight-b", "llama3-8b", 16, "FRA")
    assert run.layout == ParallelLayout(tp=2, dp_shard=8, zero_stage=3)
    assert run.training.total_steps == -(-15e12 // (4096 * 64))


def test_the_example_of_the_documentation_is_a_valid_run(tmp_path: Path):
    example, *others = blocks_of("docs/spec.md", "yaml")
    (tmp_path / "run.yaml").write_text(example.code)

    run = load_run_spec(tmp_path / "run.yaml")

    assert run.role == "final"
    assert run.cluster.devices == 128
    assert others


def test_what_was_not_stated_is_assumed_with_a_reason(write):
    run = load_run_spec(write())

    assert assumed(run) == {
        "cluster.node": "dgx-h100",
        "cluster.devices_per_node": "8",
        "training.precision": "bf16",
        "training.optimizer": "adamw",
        "training.master_weights": "true",
        "training.optimizer_state_dtype": "fp32",
        "layout.micro_batch_size": "1",
        "layout.recompute": "none",
        "layout.sequence_parallel": "false",
        "layout.async_tp": "false",
        "stack": "ordinary software, plain PyTorch",
    }
    assert all(assumption.source for assumption in run.assumptions)


@pytest.mark.parametrize(
    ("device", "compiled"), [("h100-sxm", False), ("tpu-v5p", True), ("gaudi2", True), ("trainium2", True)]
)
def test_a_plan_that_names_no_stack_has_fused_chains_where_the_device_compiles_graphs(device, compiled):
    run = build_run_spec(with_changes(cluster={"accelerator": device, "nodes": 2}))

    assert run.stack.population == "ordinary"
    assert (run.stack.fused, run.stack.cross_entropy == "compiled") == (compiled, compiled)
    assert ("plain PyTorch" in assumed(run)["stack"]) is not compiled


@pytest.mark.parametrize(
    ("stated", "held"),
    [
        ("  tp: 2\n", {"tp": 2}),
        ("  tp: 2\n  recompute: full\n", {"tp": 2, "recompute": "full"}),
        ("  dp_shard: 16\n", {"dp_shard": 16}),
        ("  dp_shard: 8\n  zero_stage: 3\n", {"dp_shard": 8, "zero_stage": 3}),
        ("  micro_batch_size: 2\n", {"micro_batch_size": 2}),
    ],
)
def test_a_layout_that_leaves_devices_over_is_held_and_the_rest_is_searched(write, stated, held):
    run = load_run_spec(write("  tp: 2\n  dp_shard: 8\n  zero_stage: 3\n", stated))

    assert run.layout is None
    assert run.layout_held == held


def test_degrees_that_use_all_devices_are_the_whole_layout(write):
    run = load_run_spec(write("  tp: 2\n  dp_shard: 8\n  zero_stage: 3\n", "  tp: 8\n  pp: 2\n"))

    assert run.layout == ParallelLayout(tp=8, pp=2)
    assert run.layout_held == {}


@pytest.mark.parametrize(
    ("accelerator", "nodes", "node", "devices"),
    [("l40s", 1, "pcie-8", 8), ("l40s", 16, "pcie-8", 128), ("t4", 2, "pcie-8", 16), ("rtx-a6000", 1, "workstation", 1),
     ("rtx-a6000", 16, "pcie-8", 128), ("rtx4090", 16, "workstation", 16), ("h100-sxm", 2, "dgx-h100", 16)],
)  # fmt: skip
def test_nodes_of_unstated_size_are_servers_except_of_cards_for_desktop_computers(accelerator, nodes, node, devices):
    run = build_run_spec(with_changes(cluster={"accelerator": accelerator, "nodes": nodes}, layout="auto"))

    assert (run.cluster.node.name, run.cluster.devices) == (node, devices)
    why = next(item.source for item in run.assumptions if item.field == "cluster.node")
    assert ("reference design" in why) == (node == "pcie-8")


@pytest.mark.parametrize(
    ("accelerator", "devices", "node"),
    [("l40s", 4, "pcie-8"), ("rtx4090", 2, "pcie-8"), ("rtx4090", 1, "workstation"), ("a10", 8, "pcie-8"),
     ("h100-sxm", 4, "dgx-h100"), ("h100-pcie", 2, "h100-pcie-8")],
)  # fmt: skip
def test_several_cards_of_a_workstation_sit_in_a_server_that_holds_them(accelerator, devices, node):
    run = build_run_spec(
        with_changes(cluster={"accelerator": accelerator, "nodes": 1, "devices_per_node": devices}, layout="auto")
    )

    assert (run.cluster.node.name, run.cluster.devices) == (node, devices)
    assert assumed(run)["cluster.node"] == node


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"accelerator": "gh200", "devices_per_node": 4}, "expected 1 to 1, which gh200-1 holds, got 4; name one"),
        ({"accelerator": "l40s", "devices_per_node": 4, "node": "workstation"}, "--node (cluster.node): pcie-8, "),
        ({"accelerator": "h100-pcie", "devices_per_node": 4, "node": "workstation"}, "h100-pcie-8, pcie-8, sxm-8"),
        ({"accelerator": "h100-sxm", "devices_per_node": 16}, "no known node holds more; spread the devices"),
    ],
)  # fmt: skip
def test_a_node_that_holds_too_few_devices_names_those_that_would_do(cluster, words):
    with pytest.raises(SpecError, match=r"cluster\.devices_per_node: ") as error:
        build_run_spec(with_changes(cluster={"nodes": 1} | cluster))

    assert words in str(error.value)


def test_what_was_stated_is_not_assumed():
    run = build_run_spec(
        with_changes(
            cluster={"accelerator": "h100-sxm", "nodes": 1, "node": "dgx-h100", "devices_per_node": 4},
            training=LEAST["training"]
            | {"precision": "fp8", "optimizer": "sgd", "overhead_fraction": 0.1}
            | {"master_weights": True, "optimizer_state_dtype": "fp32"},
            stack="torchtitan",
        )
    )

    assert run.assumptions == ()
    assert run.cluster.devices == 4


@pytest.mark.parametrize(("accelerator", "precision"), [("h100-sxm", "bf16"), ("v100", "fp16"), ("t4", "fp16")])
def test_the_assumed_precision_is_one_that_the_device_has(accelerator, precision):
    run = build_run_spec(with_changes(cluster={"accelerator": accelerator, "nodes": 1}))

    assert run.training.precision == precision


@pytest.mark.parametrize("layout", ["auto", None])
def test_an_automatic_layout_is_left_to_the_search(layout):
    assert build_run_spec(with_changes(layout=layout)).layout is None
    assert build_run_spec(LEAST).layout is None


def test_norway_is_a_zone(write):
    assert load_run_spec(write("zone: FRA", "zone: NO")).site.zone == "NO"


def test_a_run_without_a_name_is_called_after_its_file(write):
    assert load_run_spec(write("name: eight-b\n", "")).name == "run"


def test_a_model_is_given_by_fields_that_its_shape_completes():
    model = build_run_spec(
        with_changes(model={"layers": 2, "hidden": 128, "heads": 4, "ffn": 256, "vocab": 1000})
    ).model

    assert model == TransformerModel(
        name="custom", layers=2, hidden=128, heads=4, kv_heads=4, head_dim=32, ffn=256, vocab=1000
    )


def test_fields_are_laid_over_a_preset_and_said():
    model = build_run_spec(
        with_changes(model={"preset": "mixtral-8x7b", "moe": {"imbalance": 1.2}, "layers": 16})
    ).model

    assert isinstance(model, TransformerModel)
    assert model.moe is not None
    assert (model.layers, model.moe.experts, model.moe.imbalance) == (16, 8, 1.2)
    assert model.source.endswith("with other moe, layers")


@pytest.mark.parametrize(
    ("model", "nodes", "seq_len", "batch"),
    [
        ("llama3-8b", 2, 4096, 1024),
        ("llama3-8b", 3, 4096, 768),
        ("gpt2", 2, 1024, 4096),
        ("llama3-8b", 125, 4096, 1000),
    ],
)
def test_length_and_batch_that_nobody_states_are_the_usual_ones_and_named(write, model, nodes, seq_len, batch):
    path = write(RUN[RUN.index("layout:") :], "training: {steps: 10}\nsite: {zone: FRA}\n")
    cluster = {"accelerator": "h100-sxm", "nodes": nodes}

    of_file = load_run_spec(path, overrides={"model": model, "cluster": cluster})
    of_flags = build_run_spec(with_changes(model=model, cluster=cluster, training={"steps": 10}))

    for run in (of_file, of_flags):
        assert (run.training.seq_len, run.training.global_batch_size) == (seq_len, batch)
        assert assumed(run)["training.seq_len"] == str(seq_len)
        assert assumed(run)["training.global_batch_size"] == str(batch)
        reasons = [one.source for one in run.assumptions if one.field == "training.global_batch_size"]
        assert reasons == ["about 4 Mi tokens a step, usual for LLMs (Llama 2, arXiv 2307.09288); not stated"]


def test_a_run_of_flags_alone_has_the_name_of_its_model():
    assert build_run_spec(LEAST).name == "llama3-8b"
    assert build_run_spec(with_changes(name="mine")).name == "mine"


def test_an_assumed_batch_follows_a_stated_length():
    run = build_run_spec(with_changes(training={"steps": 10, "seq_len": 32768}))

    assert run.training.global_batch_size == 128
    assert "training.seq_len" not in assumed(run)


def test_no_batch_is_usual_for_a_model_that_reads_no_text():
    images = {"layers": 12, "hidden": 768, "heads": 12, "ffn": 3072, "vocab": 0, "outputs": 1000, "input_tokens": 197}

    with pytest.raises(SpecError, match="training: field global_batch_size is missing: no batch is usual for"):
        build_run_spec(with_changes(model=images, training={"steps": 10}))


def test_a_counted_model_is_planned_at_the_length_of_its_count():
    counted = {
        "type": "counted", "parameters": 10, "trainable_parameters": 9, "forward_flops_per_sample": 1e9,
        "activation_bytes_per_sample": 1e6, "kernels": 5, "seq_len": 77,
    }  # fmt: skip

    run = build_run_spec(with_changes(model=counted, training={"steps": 10, "global_batch_size": 64}))

    assert run.training.seq_len == 77
    assert "the length at which" in next(one.source for one in run.assumptions if one.field == "training.seq_len")


def test_a_counted_model_is_given_by_its_counts():
    fields = {
        "type": "counted",
        "name": "net",
        "parameters": 10_000_000,
        "trainable_parameters": 1e7,
        "forward_flops_per_sample": 2e9,
        "activation_bytes_per_sample": 1e6,
        "kernels": 100,
    }

    model = build_run_spec(with_changes(model=fields)).model

    assert isinstance(model, CountedModel)
    assert model.trainable_parameters == 10_000_000


def test_a_model_whose_family_is_not_known_is_planned_once_its_feed_forward_layer_is_stated(write, tmp_path: Path):
    config = {
        "model_type": "brandnew",
        "auto_map": {"AutoConfig": "configuration_brandnew.Config"},
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 12,
        "vocab_size": 32000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(SpecError, match=r"model_type brandnew .* is not known here"):
        load_run_spec(write("model: llama3-8b", "model: {config: config.json}"))
    model = load_run_spec(write("model: llama3-8b", "model: {config: config.json, gated: false}")).model

    assert isinstance(model, TransformerModel)
    assert (model.gated, model.ffn_parameters(model.ffn)) == (False, 2 * 1024 * 4096)


def test_a_config_is_found_beside_the_file_that_names_it(write, tmp_path: Path):
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))

    for stated in ("model: ours", "model: ./ours", "model: ours/config.json", "model: {config: ours}"):
        assert load_run_spec(write("model: llama3-8b", stated)).model.name == "ours"
    frozen = load_run_spec(write("model: llama3-8b", "model: {config: ours, trainable_fraction: 0.1}")).model
    assert isinstance(frozen, TransformerModel)
    assert (frozen.hidden, frozen.trainable_fraction) == (768, 0.1)


def test_a_config_given_by_a_flag_is_found_from_the_working_directory(write, tmp_path: Path, monkeypatch):
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "small.json").write_text(json.dumps(config))
    monkeypatch.chdir(elsewhere)

    assert load_run_spec(write(), overrides={"model": "small.json"}).model.name == "small"


def test_a_stack_is_named_or_overridden_or_spelled_out():
    titan = STACKS["torchtitan"]

    assert build_run_spec(LEAST).stack == Stack()
    assert build_run_spec(with_changes(stack="torchtitan")).stack == titan
    fused = build_run_spec(with_changes(stack={"preset": "torchtitan", "fused": True})).stack
    assert (fused.fused, fused.attention_kernel) == (True, titan.attention_kernel)
    assert build_run_spec(with_changes(stack={"framework_factor": 1.1})).stack == Stack(framework_factor=1.1)


def test_flags_replace_fields_of_the_file(write):
    run = load_run_spec(write(), overrides={"cluster": {"nodes": 4}, "layout": {"dp_shard": 16}})

    assert (run.cluster.nodes, run.cluster.devices) == (4, 32)
    assert run.layout == ParallelLayout(tp=2, dp_shard=16, zero_stage=3)


def test_a_flag_voids_what_contradicts_it(write):
    path = write("site: {zone: FRA}", "site: {zone: FRA, intensity_g_per_kwh: 50}")

    steps = load_run_spec(path, overrides={"training": {"steps": 10}})
    assert (steps.training.steps, steps.training.tokens) == (10, None)
    moved = load_run_spec(path, overrides={"site": {"zone": "SWE"}})
    assert (moved.site.zone, moved.site.intensity_g_per_kwh) == ("SWE", None)


def test_another_accelerator_brings_its_own_node(write):
    path = write("  nodes: 2", "  nodes: 2\n  node: dgx-h100")

    assert load_run_spec(path, overrides={"cluster": {"accelerator": "b200"}}).cluster.node.name == "dgx-b200"


def test_profiles_named_in_the_file_are_relative_to_it(write, tmp_path: Path):
    folder = tmp_path / "profiles" / "nodes"
    folder.mkdir(parents=True)
    node = msgspec.to_builtins(load_node("dgx-h100")) | {"name": "ours"}
    (folder / "ours.yaml").write_text(yaml.safe_dump(node))

    path = write("  nodes: 2", "  nodes: 2\n  node: ours\n  profiles: [profiles]")

    assert load_run_spec(path).cluster.node.name == "ours"


@pytest.mark.parametrize(("name", "precision"), PRECISION_NAMES.items())
def test_a_precision_has_the_names_that_frameworks_give_it(write, name, precision):
    for word in (f"'{name}'", f"'{name.upper()}'"):
        assert (
            load_run_spec(write("tokens: 15e12", f"tokens: 15e12\n  precision: {word}")).training.precision == precision
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tp: 2", "tp: eight", "run.yaml:7: layout.tp: expected int, got 'eight'"),
        ("tp: 2", "tpp: 2", "run.yaml:7: layout.tpp: unknown field; nearest: "),
        ("training:", "trainign:", "run.yaml:10: trainign: unknown field; nearest: training"),
        ("model: llama3-8b", "model: llama3-9b", "run.yaml:2: model: unknown model 'llama3-9b'; nearest: llama3-8b"),
        ("model: llama3-8b\n", "", "run.yaml:1: field model is missing, expected text or a mapping"),
        ("model: llama3-8b", "model: 8", "run.yaml:2: model: expected text or a mapping, got 8"),
        ("model: llama3-8b", "model: ./no.json", "no.json: no such file, expected a Hugging Face config.json"),
        ("model: llama3-8b", "model: {preset: gpt2, config: x}", "run.yaml:2: model: give preset or config, not both"),
        ("model: llama3-8b", "model: {preset: gpt9}", "run.yaml:2: model: unknown model 'gpt9'; nearest: "),
        ("model: llama3-8b", "model: {layers: 2}", "run.yaml:2: model: field hidden is missing, expected int"),
        ("model: llama3-8b", "model: {preset: gpt2, layres: 2}", "model.layres: unknown field; nearest: layers"),
        (
            "model: llama3-8b",
            "model: {preset: gpt2, hidden_size: 2}",
            "model.hidden_size: unknown field; nearest: hidden",
        ),
        ("model: llama3-8b", "model: {preset: gpt2, n_embd: 2}", "model.n_embd: unknown field; nearest: hidden"),
        ("model: llama3-8b", "model: {preset: gpt2, num_experts: 2}", "model.num_experts: unknown field; nearest: moe"),
        ("h100-sxm", "h10", "run.yaml:4: cluster.accelerator: unknown accelerator 'h10'; nearest: h100-sxm"),
        ("nodes: 2", "nodes: 0", "run.yaml:3: cluster: nodes is 0, expected a positive integer"),
        ("nodes: 2", "nodes: 2\n  node: dgx", "run.yaml:6: cluster.node: unknown node 'dgx'; nearest: dgx-"),
        ("nodes: 2", "nodes: 2\n  node: dgx-a100", "cluster.node: dgx-a100 holds a100-sxm-80gb, not h100-sxm"),
        (
            "nodes: 2",
            "nodes: 2\n  devices_per_node: 9",
            "cluster.devices_per_node: expected 1 to 8, which dgx-h100 holds, got 9",
        ),
        ("nodes: 2", "nodes: 2\n  profiles: [gone]", "run.yaml:6: cluster.profiles: "),
        ("  nodes: 2\n", "", "run.yaml:3: cluster: field nodes is missing, expected int"),
        ("layout:\n  tp: 2", "layout: best\nx:\n  tp: 2", "run.yaml:7: x: unknown field"),
        ("tokens: 15e12", "tokens: '15e12'", "run.yaml:13: training.tokens: expected number, got '15e12'"),
        ("tokens: 15e12", "tokens: 15T", "training.tokens: expected number, got '15T'; write 15e12"),
        ("tokens: 15e12", "tokens: 1.5 trillion", "training.tokens: expected number, got '1.5 trillion'; write 1.5e12"),
        ("seq_len: 4096", "seq_len: 4k", "training.seq_len: expected int, got '4k'; write 4e3, or 4096"),
        ("nodes: 2", "nodes: 2\n  power_cap_w: 600 W", "got '600 W'; write the number without 'W', in the unit of"),
        ("tokens: 15e12", "tokens: 15e12\n  steps: 3", "training: give steps or tokens, exactly one; got steps=3"),
        ("  tokens: 15e12\n", "", "run.yaml:10: training: give steps or tokens, exactly one"),
        ("tokens: 15e12", "tokens: 1e12\n  precision: bf17", "training.precision: expected one of bf16, fp16, fp8"),
        ("zone: FRA", "pue: 1.1", "run.yaml:14: site: give zone (for instance FRA"),
        ("zone: FRA", "zone: FRA, pue: 0.5", "run.yaml:14: site: pue is 0.5, expected 1 to 10"),
        ("zone: FRA", "zone: FRA, pue: 12", "run.yaml:14: site: pue is 12, expected 1 to 10"),
        ("tokens: 15e12", "tokens: .nan", "run.yaml:13: training.tokens: expected number, got '.nan'"),
        ("tokens: 15e12", "tokens: 1e400", "run.yaml:13: training.tokens: expected number, got inf"),
        ("tokens: 15e12", "tokens: 1e30", "run.yaml:10: training: tokens is 1e+30, expected at most 1e+18"),
        ("tokens: 15e12", "tokens: -1", "run.yaml:10: training: tokens is -1, expected a positive number"),
        ("tokens: 15e12", "tokens: 0.3", "run.yaml:10: training: tokens is 0.3, expected at least 1, such as 15e12"),
        ("tokens: 15e12", "steps: 0", "run.yaml:10: training: steps is 0, expected a positive integer"),
        ("seq_len: 4096", "seq_len: 1e20", "run.yaml:11: training.seq_len: expected int up to 1e+15, got 1000"),
        ("tokens: 15e12", "steps: 9\n  overhead_fraction: 1e3", "overhead_fraction is 1000, expected 0 to 100"),
        ("nodes: 2", "nodes: 2e12", "run.yaml:3: cluster: nodes is 2000000000000, expected at most 1e+12"),
        ("nodes: 2", "nodes: 2\n  power_cap_w: 60", "power_cap_w is 60, expected above 122 and at most 700"),
        ("name: eight-b", "price_usd_per_device_hour: -2", "run.yaml:1: price_usd_per_device_hour: expected 0 or more"),
        ("name: eight-b", "name: a\nname: b", "run.yaml:2: name: given twice, first at "),
        ("name: eight-b", "role: fnal", "role: expected one of final, ablation, failed, sweep, evaluation, data, got"),
        ("name: eight-b", "stack: titan", "run.yaml:1: stack: unknown stack 'titan'; nearest: torchtitan"),
        ("name: eight-b", "stack: {preset: [1]}", "run.yaml:1: stack.preset: unknown stack '[1]'; known: "),
        ("name: eight-b", "stack: {fused: 2}", "run.yaml:1: stack.fused: expected true or false, got 2"),
        ("name: eight-b", "stack: {host_op_time_s: -1}", "stack: host_op_time_s is -1, expected 0 or more"),
    ],
)
def test_a_mistake_is_refused_with_place_field_value_and_expectation(write, old, new, message):
    with pytest.raises(SpecError) as refused:
        load_run_spec(write(old, new))

    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["accelerator: h100-sxm", "accelerator: h100-sxm\n  node: dgx-h100"])
def test_directory_of_profiles_that_is_missing_is_a_fault_of_what_names_it_and_not_of_the_spec(
    field, write, tmp_path, monkeypatch
):
    spec, gone = write("accelerator: h100-sxm", field), tmp_path / "gone"

    with pytest.raises(SpecError, match=rf"^--profiles \(profile_dirs\): {re.escape(str(gone))} is not a directory"):
        load_run_spec(spec, profile_dirs=[gone])
    monkeypatch.setenv(PROFILES_VARIABLE, str(gone))
    with pytest.raises(SpecError, match=rf"^{PROFILES_VARIABLE}: {re.escape(str(gone))} is not a directory"):
        load_run_spec(spec)


TOO_LONG = 300 * "x"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: llama3-8b", f"model: {TOO_LONG}", "run.yaml:2: model: unknown model '"),
        ("model: llama3-8b", f"model: {TOO_LONG}.yaml", "run.yaml:2: model: unknown model '"),
        ("model: llama3-8b", f"model: ./{TOO_LONG}.json", "no such file, expected a Hugging Face config.json"),
        ("model: llama3-8b", f"model: {{config: {TOO_LONG}}}", "no such file, expected a Hugging Face config.json"),
        ("name: eight-b", f"stack: {TOO_LONG}", "run.yaml:1: stack: unknown stack '"),
        ("  nodes: 2", f"  nodes: 2\n  profiles: [{TOO_LONG}]", "is not a directory; expected one with profiles"),
    ],
)
def test_a_name_that_is_too_long_for_a_file_is_an_unknown_name(write, old, new, message):
    with pytest.raises(SpecError) as refused:
        load_run_spec(write(old, new))

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sliding_window": 0}, "sliding_window is 0, expected a positive integer"),
        ({"sliding_window_layers": 4}, "sliding_window_layers is 4, expected sliding_window beside it"),
        ({"sliding_window": 9, "sliding_window_layers": 99}, "sliding_window_layers is 99, expected 0 to layers 32"),
        ({"mtp_layers": -1}, "mtp_layers is -1, expected 0 or more"),
        ({"learned_positions": -1}, "learned_positions is -1, expected 0 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 or more and below 1"),
        ({"moe": {"experts": 8, "top_k": 2, "expert_ffn": -5}}, "moe: expert_ffn is -5, expected a positive integer"),
        ({"moe": {"experts": 8, "top_k": 2, "expert_ffn": 5, "shared_ffn": -1}}, "moe: shared_ffn is -1, expected 0"),
        (
            {"moe": {"experts": 8, "top_k": 2, "expert_ffn": 5, "first_dense_layers": 32}},
            "moe has no sparse layer: first_dense_layers 32 and every 1 of layers 32",
        ),
        ({"preset": "deepseek-v3", "mla": {"kv_lora_rank": 0}}, "mla: kv_lora_rank is 0, expected a positive integer"),
        ({"type": "countd"}, "model.type: expected one of transformer, counted, got 'countd'"),
    ],
)
def test_a_model_of_impossible_numbers_is_refused(fields, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        build_run_spec(with_changes(model={"preset": "llama3-8b"} | fields))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameters": -1}, "trainable_parameters is 9, expected at most parameters -1"),
        ({"trainable_parameters": 11}, "trainable_parameters is 11, expected at most parameters 10"),
        ({"forward_flops_per_sample": -1e9}, "forward_flops_per_sample is -1e+09, expected 0 or more"),
        ({"kernels": -1}, "kernels is -1, expected 0 or more"),
    ],
)
def test_a_count_that_cannot_be_is_refused(changed, message):
    counted = {
        "type": "counted", "parameters": 10, "trainable_parameters": 9, "forward_flops_per_sample": 1e9,
        "activation_bytes_per_sample": 1e6, "kernels": 5,
    }  # fmt: skip

    with pytest.raises(SpecError, match=re.escape(message)):
        build_run_spec(with_changes(model=counted | changed))


def test_a_layout_that_is_neither_auto_nor_a_mapping_is_refused():
    with pytest.raises(SpecError, match="layout: expected auto or a mapping, got 'best'"):
        build_run_spec(with_changes(layout="best"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tp: 2", "tp: 4", "run.yaml:6: layout: tp 4 * cp 1 * pp 1 * dp_replicate 1 * dp_shard 8 = 32 ranks, but the "),
        ("tp: 2", "pp: 2\n  virtual_stages: 2", "run.yaml:6: layout: virtual_stages 2 needs pipeline_schedule"),
        (
            "  zero_stage: 3\n",
            "  zero_stage: 0\n",
            "run.yaml:6: layout: dp_shard 8 shards nothing while zero_stage is 0",
        ),
        ("batch_size: 64", "batch_size: 60", "layout: global_batch_size 60 is not a multiple of dp 8"),
        ("tp: 2", "tp: 1\n  ep: 2\n  pp: 2", "layout: ep 2, but llama3-8b has no experts"),
    ],
)
def test_an_impossible_layout_is_refused_with_rule_and_numbers(write, old, new, message):
    with pytest.raises(InfeasibleLayoutError, match=re.escape(message)):
        load_run_spec(write(old, new))


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        ("gpt2", {"cp": 16}, "layout: cp 16 does not divide seq_len 4104"),
        ("gpt2", {"cp": 8, "dp_replicate": 2, "context_parallel_kind": "all_to_all"}, "tp * cp = 8 does not divide"),
        ("gpt2", {"pp": 4, "dp_replicate": 4, "pipeline_schedule": "dualpipe"}, "at least 2 * pp = 8, got 3"),
    ],
)
def test_work_that_a_layout_cannot_share_out_is_refused(model, layout, message):
    training = {"seq_len": 4104, "global_batch_size": 12, "steps": 10}

    with pytest.raises(InfeasibleLayoutError, match=re.escape(message)):
        build_run_spec(with_changes(model=model, training=training, layout=layout))


def test_a_layout_that_does_not_divide_the_heads_is_refused():
    run = with_changes(model="gpt2", layout={"tp": 8, "dp_replicate": 2})

    with pytest.raises(InfeasibleLayoutError, match="layout: tp 8 does not divide the model's heads 12"):
        build_run_spec(run)


def test_a_mistake_in_a_flag_is_said_to_come_from_the_command_line(write):
    with pytest.raises(SpecError, match=r"^command line: cluster\.accelerator: unknown accelerator 'h10'"):
        load_run_spec(write(), overrides={"cluster": {"accelerator": "h10"}})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "command line: field model is missing"),
        ({"model": "gpt2"}, "command line: cluster: field accelerator is missing, expected text"),
        (with_changes(site={}), "command line: site: give zone"),
        (with_changes(training={"seq_len": 1}), "command line: training: give steps or tokens"),
    ],
)
def test_flags_alone_name_the_field_that_is_missing(mapping, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        build_run_spec(mapping)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "hello", "42", "~"])
def test_a_file_that_holds_no_run_is_refused(tmp_path: Path, text):
    (tmp_path / "run.yaml").write_text(text)

    with pytest.raises(SpecError, match=r"run\.yaml.*(expected a mapping|is missing)"):
        load_run_spec(tmp_path / "run.yaml", overrides={"cluster": {"nodes": 1}})


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("preset")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)
FIELDS = [("model",), ("layout",), ("stack",), ("site",), ("cluster",), ("training",), ("role",), ("name",)]
FIELDS += [("cluster", key) for key in ("accelerator", "nodes", "node", "devices_per_node", "profiles", "other")]
FIELDS += [("training", key) for key in ("seq_len", "global_batch_size", "steps", "precision", "overhead_fraction")]
FIELDS += [("layout", key) for key in ("tp", "pp", "ep", "zero_stage", "recompute")] + [("stack", "preset")]
FIELDS += [("model", key) for key in ("preset", "config", "layers", "hidden", "heads", "moe", "mla", "type")]


@given(st.sampled_from(FIELDS), ANYTHING)
@settings(max_examples=300)
def test_whatever_is_written_is_a_run_or_a_spec_error(keys, value):
    run = json.loads(json.dumps(LEAST))
    section = run
    for key in keys[:-1]:
        section[key] = section.get(key) if isinstance(section.get(key), dict) else {}
        section = section[key]
    section[keys[-1]] = value

    with suppress(SpecError):
        build_run_spec(run)
