"""One job has one predicted step time, whether it is a spec, flags, arguments of the API or a row of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import carbon_plugin
from carbon_plugin.calibrate.rows.rows import parse_rows
from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.frameworks import FRAMEWORKS, WHOLE_NAMES, framework_named, names_of_frameworks
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_stack
from carbon_plugin.spec.layout import DEGREES
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec, with_layout
from carbon_plugin.spec.stack import STACKS
from carbon_plugin.spec.writing import write_run_spec
from tests.conftest import CommandLine

SOFTWARE = sorted({*STACKS, *names_of_frameworks()})
"""All names by which a plan and a row may call their software."""
SPLIT = {name for name in SOFTWARE if (found := framework_named(name)) is not None and found.local_batch_is_split}
"""Software that splits a local batch over the stages of a pipeline, so that its rows state another micro-batch."""
MODELS = ("llama3-8b", "llama3-70b", "llama2-7b", "gpt3-5b", "mpt-7b", "qwen3-8b", "qwen2.5-32b")
SHARDING = ("DDP", "ZeRO-1", "ZeRO-2", "FSDP")
Job = dict[str, Any]


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw what a user knows of a job: model, devices, degrees, batch and software."""
    stack = draw(st.sampled_from(SOFTWARE))
    nodes = draw(st.sampled_from((1, 2, 8, 32)))
    tp = draw(st.sampled_from((1, 2, 4, 8)))
    stages_of = (1, 2, 4)[: 1 if stack in SPLIT else min(nodes, 3)]
    pp = draw(st.sampled_from(stages_of))
    dp = 8 * nodes // (tp * pp)
    size, rounds = draw(st.sampled_from((1, 2))), draw(st.sampled_from((1, 2, 4)))
    # Megatron's relatives exchange gradients once under a pipeline, and DeepSpeed's optimizer for bf16 shards its
    # states there without a stage of ZeRO, which a spec states.
    by_pipeline = (1, 3) if stack.startswith("megatron-deepspeed") else (0, 1, 3)
    stages = by_pipeline if pp > 1 else (0, 1, 2, 3)
    return {
        "stack": stack,
        "model": draw(st.sampled_from(MODELS)),
        "accelerator": draw(st.sampled_from(("h100-sxm", "a100-sxm-80gb", "h200-sxm", "mi300x"))),
        "nodes": nodes,
        "tp": tp,
        "pp": pp,
        "dp": dp,
        "stage": draw(st.sampled_from(stages)) if dp > 1 else 0,
        "sp": tp > 1 and draw(st.booleans()),
        "size": size,
        "batch": dp * size * rounds * pp,
        "seq_len": draw(st.sampled_from((1024, 2048))),
        "recompute": draw(st.sampled_from(("none", "selective", "full"))),
        "kernel": draw(st.sampled_from(("flash", "flash2", "cudnn"))),
    }


def spec_of(job: Job) -> dict[str, Any]:
    """Return the spec file of a job."""
    shards = {"dp_replicate": job["dp"]} if job["stage"] == 0 else {"dp_shard": job["dp"], "zero_stage": job["stage"]}
    return {
        "model": {"preset": job["model"], "dropout": 0},
        "cluster": {"accelerator": job["accelerator"], "nodes": job["nodes"], "devices_per_node": 8},
        "layout": {
            "tp": job["tp"],
            "pp": job["pp"],
            **shards,
            "micro_batch_size": job["size"],
            "recompute": job["recompute"],
            "sequence_parallel": job["sp"],
            "pipeline_schedule": "1f1b",
        },
        "training": {
            "seq_len": job["seq_len"],
            "global_batch_size": job["batch"],
            "steps": 1,
            "precision": "bf16",
        },
        "site": {"zone": "FRA"},
        "stack": {"preset": job["stack"], "attention_kernel": job["kernel"]},
    }


def row_of(job: Job) -> dict[str, Any]:
    """Return the row of a job for `validate --records`."""
    return {
        "id": "mine-1", "source": "our cluster", "framework": job["stack"], "arch": job["model"],
        "gpu": job["accelerator"], "n_gpus": 8 * job["nodes"], "gpus_per_node": 8, "tp": job["tp"], "pp": job["pp"],
        "vp": 1, "sp": job["sp"], "sharding": SHARDING[job["stage"]], "mbs": job["size"], "gbs": job["batch"],
        "seq_len": job["seq_len"], "precision": "bf16", "recompute": job["recompute"],
        "attention_kernel": job["kernel"], "dropout": 0, "step_time_s": 1e4,
    }  # fmt: skip


def seconds(spec: RunSpec) -> float:
    return predict_step(spec).step_time_s.value


@settings(max_examples=100, deadline=None)
@given(job=jobs())
def test_a_row_and_a_spec_of_one_job_are_predicted_alike(job: Job) -> None:
    check_alike(job)


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("name", SOFTWARE)
def test_a_row_and_a_spec_that_name_one_software_are_predicted_alike(name: str, stage: int) -> None:
    """Every stack and framework, with whole copies and sharded, and with layers that tensor parallelism splits."""
    check_alike({**EXAMPLE, "stack": name, "stage": stage})


def check_alike(job: Job) -> None:
    spec = build_run_spec(spec_of(job), origin="test")
    (rows, skipped) = parse_rows([row_of(job)], {})

    assert not skipped, skipped[0].reason
    (row,) = rows
    if "pure 16-bit states" in " ".join(row.assumed):
        return  # a row has run, so that states which cannot fit were smaller; a plan refuses them
    assert kept(row.spec) == kept(spec)
    assert seconds(row.spec) == pytest.approx(seconds(spec), rel=1e-9)


def kept(spec: RunSpec) -> tuple[Any, ...]:
    """Return what the software decides of a run: its states and how its pipeline is cut and scheduled."""
    training, layout = spec.training, spec.layout
    assert layout is not None
    states = (training.master_weights, training.optimizer_state_dtype)
    return (*states, layout.balanced_stages, layout.pipeline_schedule, layout.virtual_stages)


@pytest.mark.parametrize("batch", [256, 24])
@pytest.mark.parametrize("name", SOFTWARE)
def test_a_row_and_a_spec_leave_the_schedule_of_a_pipeline_to_the_software(name: str, batch: int) -> None:
    """With many micro-batches, and with too few of them for a pipeline that is fed from both ends."""
    job = {**EXAMPLE, "stack": name, "tp": 1, "pp": 4, "dp": 4, "stage": 1, "batch": batch, "sp": False}
    stated, row = spec_of(job), row_of(job)
    del stated["layout"]["pipeline_schedule"], row["vp"]
    spec = build_run_spec(stated, origin="test")
    (rows, skipped) = parse_rows([row], {})

    assert not skipped, skipped[0].reason
    assert kept(rows[0].spec) == kept(spec)
    if name == "hai-llm":
        assert kept(spec)[3:] == ("dualpipe" if batch == 256 else "1f1b", 1)
    said = {item.field for item in spec.assumptions}
    assert "layout.balanced_stages" in said
    assert said & {"layout.pipeline_schedule", "layout.virtual_stages"}


@pytest.mark.parametrize("name", ["torchtune", "nemo-automodel"])
@pytest.mark.parametrize(
    ("stated", "held"),
    [
        ({}, (False, "bf16")),
        ({"master_weights": True}, (True, "fp32")),
        ({"optimizer_state_dtype": "fp8"}, (False, "fp8")),
        ({"precision": "tf32"}, (True, "fp32")),
    ],
)
def test_software_without_a_master_copy_keeps_16_bit_states_where_nobody_states_others(
    name: str, stated: dict[str, Any], held: tuple[bool, str], tmp_path: Path
) -> None:
    document = spec_of({**EXAMPLE, "stack": name})
    spec = build_run_spec({**document, "training": {**document["training"], **stated}}, origin="test")
    write_run_spec(spec, tmp_path / "run.yaml")

    assert kept(spec)[:2] == held
    assert carbon_plugin.load_run_spec(tmp_path / "run.yaml").training == spec.training
    states = {"training.master_weights", "training.optimizer_state_dtype"}
    filled = states - {f"training.{field}" for field in stated} if "precision" not in stated else set()
    assert filled == {item.field for item in spec.assumptions} & states


def test_every_stack_can_be_named_by_a_row() -> None:
    """None of them is taken for software that nobody knows, or for a framework whose name merely begins alike."""
    for stack in STACKS:
        (rows, skipped) = parse_rows([{**row_of(EXAMPLE), "framework": stack}], {})
        assert not skipped
        assert rows[0].framework == stack


def test_a_name_stands_once_in_the_table_of_frameworks_and_leads_to_a_stack() -> None:
    starts = [name for name, _ in FRAMEWORKS]

    assert len({*starts, *WHOLE_NAMES}) == len(starts) + len(WHOLE_NAMES)
    assert {found.name for found in (*dict(FRAMEWORKS).values(), *WHOLE_NAMES.values())} <= set(STACKS)
    assert all(framework_named(name) is not None for name in SOFTWARE)


EXAMPLE: Job = {
    "stack": "megatron-core", "model": "llama3-8b", "accelerator": "h100-sxm", "nodes": 2, "tp": 2, "pp": 1, "dp": 8,
    "stage": 1, "sp": True, "size": 1, "batch": 64, "seq_len": 2048, "recompute": "full", "kernel": "cudnn",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stack": "torchtitan", "kernel": "flash2", "stage": 3},
        {"stack": "megatron-deepspeed", "kernel": "flash2", "sp": False},
        {"stack": "hf-trainer", "kernel": "flash2", "sp": False, "stage": 3},
        {"stack": "pytorch", "kernel": "flash2", "sp": False, "stage": 3},
    ],
)
def test_spec_flags_and_api_give_the_seconds_of_the_row(
    command_line: CommandLine, tmp_path: Path, changes: Job
) -> None:
    job, file = EXAMPLE | changes, tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(spec_of(job)))
    flags = (
        f"--model llama3-8b --accelerator h100-sxm --nodes 2 --tp 2 --dp-shard 8 --zero-stage {job['stage']} "
        "--micro-batch-size 1 --recompute full --seq-len 2048 --global-batch-size 64 --steps 1 --precision bf16 "
        f"--zone FRA --stack {job['stack']}"
    )
    (rows, _) = parse_rows([row_of(job)], {})
    found = [
        json.loads(command_line("plan", *words, "--json").stdout)["prediction"]["step_time_s"]["value"]
        for words in ([str(file)], flags.split())
    ]
    found.append(carbon_plugin.predict(carbon_plugin.load_run_spec(file)).step_time_s.value)

    assert found == pytest.approx([seconds(rows[0].spec)] * 3, rel=1e-9)


@pytest.mark.parametrize(("words", "unit"), [("FSDP1", "flat"), ("FSDP2", "layer"), ("FSDP", None)])
@pytest.mark.parametrize("name", ["pytorch", "hf-trainer", "torchtitan", "transformer-engine"])
def test_a_form_of_fsdp_is_the_one_that_is_named_else_that_of_the_software(
    name: str, words: str, unit: str | None
) -> None:
    job = {**EXAMPLE, "stack": name, "stage": 3, "tp": 1, "dp": 16, "sp": False}
    spec = spec_of(job)
    stated = {"preset": name, "attention_kernel": job["kernel"]} | ({} if unit is None else {"shard_unit": unit})
    (rows, _) = parse_rows([{**row_of(job), "sharding": words}], {})

    assert seconds(rows[0].spec) == pytest.approx(seconds(build_run_spec({**spec, "stack": stated}, origin="test")))


def test_both_forms_of_fsdp_have_their_reason_among_the_assumptions() -> None:
    job = {**EXAMPLE, "stack": "pytorch", "stage": 3, "tp": 1, "dp": 16, "sp": False}
    planned = predict_step(build_run_spec(spec_of(job), origin="test")).assumptions
    read = {
        framework: parse_rows([{**row_of(job), "framework": framework}], {})[0][0].assumed
        for framework in ("PyTorch", "PyTorch FSDP (2023)", "PyTorch FSDP (2026)")
    }

    assert [one.value for one in planned if one.field == "stack.shard_unit"] == ["layer, FSDP2"]
    assert "FSDP2" in read["PyTorch"]
    assert "FSDP2" in read["PyTorch FSDP (2026)"]
    assert "FSDP's first form: PyTorch of 2023" in read["PyTorch FSDP (2023)"]


HELD = {"tp": 4, "recompute": "full"}


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_what_a_search_chose_has_the_same_seconds_when_it_is_stated(stack: str, tmp_path: Path) -> None:
    """A written spec is read back, and the degrees alone give the same layout where the software decides the rest."""
    searched = build_run_spec(
        {**spec_of(EXAMPLE), "layout": {"tp": 4, "recompute": "full"}, "stack": stack}, origin="t"
    )
    forecast = make_forecast(searched)
    chosen = forecast.spec.layout
    assert chosen is not None
    write_run_spec(with_layout(searched, chosen), tmp_path / "found.yaml")
    stated = {name: getattr(chosen, name) for name in (*DEGREES, "zero_stage", "micro_batch_size", "recompute")}
    schedule = {"pipeline_schedule": chosen.pipeline_schedule, "virtual_stages": chosen.virtual_stages}
    by_hand = {**spec_of(EXAMPLE), "layout": {**stated, **schedule, "sequence_parallel": True}, "stack": stack}

    assert carbon_plugin.load_run_spec(tmp_path / "found.yaml").layout == chosen
    assert build_run_spec(by_hand, origin="test").layout == chosen


@pytest.mark.parametrize("stack", ["nemo", "megatron-core", "torchtitan"])
def test_a_layout_that_departs_from_its_stack_survives_being_written(stack: str, tmp_path: Path) -> None:
    departs = {"sequence_parallel": False, "async_tp": False, "recompute_reentrant": False}
    layout = {"tp": 2, "pp": 4, "dp_replicate": 2, "pipeline_schedule": "1f1b", "recompute": "full", **departs}
    spec = build_run_spec({**spec_of(EXAMPLE), "layout": layout, "stack": stack}, origin="test")
    write_run_spec(spec, tmp_path / "run.yaml")

    assert carbon_plugin.load_run_spec(tmp_path / "run.yaml").layout == spec.layout


@pytest.mark.parametrize("layout", [{"dp_replicate": 16}, {"dp_replicate": 8, "tp": 2}])
def test_whole_copies_have_no_hooks_of_sharding(layout: dict[str, int]) -> None:
    """DeepSpeed without a stage of ZeRO hooks nothing, so that its spec is as fast as with none of their slots."""
    stated = {**spec_of(EXAMPLE), "model": "gpt3-5b", "layout": {**layout, "recompute": "full"}}
    hooked = build_run_spec({**stated, "stack": "deepspeed"}, origin="test")
    without = build_run_spec({**stated, "stack": {"preset": "deepspeed", "shard_host_ops": 0}}, origin="test")

    assert STACKS["deepspeed"].shard_host_ops > 0
    assert seconds(hooked) == seconds(without)


def test_a_row_beyond_the_positions_of_its_model_is_skipped_as_a_plan_is_refused() -> None:
    (rows, skipped) = parse_rows([{**row_of(EXAMPLE), "arch": "gpt2-medium", "seq_len": 4096}], {})

    assert not rows
    assert "learned positions holds sequences of at most 1024 tokens" in skipped[0].reason


def test_a_row_may_state_dimensions_of_a_preset_otherwise() -> None:
    cut = {**row_of(EXAMPLE), "arch": "qwen2.5-7b", "layers": 4, "vocab": 32000}
    (rows, skipped) = parse_rows([cut], {})

    assert not skipped
    assert (rows[0].spec.model.layers, rows[0].spec.model.vocab) == (4, 32000)
    assert rows[0].spec.model.qkv_bias
    assert not rows[0].not_read


def test_a_shape_of_the_file_comes_before_a_preset_of_its_name() -> None:
    own = {"layers": 4, "hidden": 1024, "ffn": 4096, "heads": 16, "kv_heads": 16, "vocab": 32000, "mlp": "swiglu"}
    (rows, _) = parse_rows([row_of(EXAMPLE)], {"llama3_8b": own})

    assert rows[0].spec.model.layers == 4


@pytest.mark.parametrize("framework", ["Accelerate", "TRL 0.19", "axolotl", "LLaMA-Factory", "FSDP", "PyTorch"])
def test_trainers_of_transformers_run_the_modules_of_pytorch(framework: str) -> None:
    (rows, skipped) = parse_rows([{**row_of(EXAMPLE), "framework": framework}], {})

    assert not skipped
    assert rows[0].spec.stack.plain_modules is None


def test_the_kernel_that_nobody_states_is_that_of_the_device() -> None:
    assert load_accelerator("h100-sxm").architecture.startswith("hopper")
    spec = {**spec_of(EXAMPLE), "stack": "ordinary"}
    row = {key: value for key, value in row_of({**EXAMPLE, "stack": "ordinary"}).items() if key != "attention_kernel"}

    assert seconds(parse_rows([row], {})[0][0].spec) == pytest.approx(seconds(build_run_spec(spec, origin="t")))


@pytest.mark.parametrize(
    ("name", "planned"),
    [
        ("HF Trainer", "ordinary + wraps_weights eager + shard_unit flat + autocast true"),
        ("olmo-core", "torchtitan"),
        ("megatron-deepspeed", "ordinary-megatron + legacy_modules true + accumulates_beside true"),
        ("FSDP2", "ordinary + wraps_weights eager"),
        ("torchtitan", None),
        ("ordinary", None),
    ],
)
def test_a_plan_says_as_what_it_takes_a_framework_without_a_stack_of_its_own(name: str, planned: str | None) -> None:
    for stated in (name, {"preset": name}):
        spec = build_run_spec({**spec_of(EXAMPLE), "stack": stated}, origin="test")

        said = [one.value for one in spec.assumptions if one.field.startswith("stack")]
        assert said == ([] if planned is None else [planned])
        assert spec.stack == load_stack(name)


def test_a_framework_that_nobody_knows_is_refused_with_names_that_are_near() -> None:
    with pytest.raises(SpecError, match=r"unknown stack 'axolotle'.*axolotl"):
        load_stack("axolotle")
