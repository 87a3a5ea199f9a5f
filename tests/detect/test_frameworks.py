"""Layouts of jobs of the frameworks: every axis, and what of theirs states it. A launch of four processes each."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.sampling import cases_of, sampled

JOB = Path(__file__).parent / "jobs" / "frameworks.py"
NEEDED = {
    "deepspeed": ("deepspeed",),
    "lightning": ("lightning",),
    "megatron": ("megatron",),
    "meshes": ("accelerate", "torchtitan", "spmd_types"),
    "transformers": ("accelerate", "transformers"),
}
"""Packages that the jobs of a framework need, by the name of its module in `jobs`."""
LATER = {"deepspeed": ("torch._inductor.compile_fx",), "megatron": ("megatron.core.models.gpt",)}
"""What a framework imports when a model is built, which is most of what its jobs would cost each rank."""
MISSING = {job: [name for name in names if find_spec(name) is None] for job, names in NEEDED.items()}

REST = "the other axes account for all 4 ranks"
LLAMA_PARAMETERS = 39136
"""Of the Llama in `jobs/frameworks_meshes.py`: 2*128*32 embeddings, 3*(4*32*32 + 3*32*64 + 2*32), 32."""


def seen(**axes: tuple[Any, str]) -> dict[str, list[Any]]:
    return {axis: list(value) for axis, value in axes.items()}


def deepspeed(*, dp: int = 4, stage: int = 0, tp: tuple[int, str] = (1, "engine.mp_world_size"), **others: Any) -> Any:
    source = f"DeepSpeed engine, ZeRO stage {stage} over {dp} ranks"
    shard, replicate = (dp, 1) if stage else (1, dp)
    return seen(
        **{
            "tp": tp,
            "cp": (1, "engine.sequence_parallel_size"),
            "pp": (1, "class DeepSpeedEngine"),
            "dp_shard": (shard, source),
            "dp_replicate": (replicate, source),
            "zero_stage": (stage, source),
        }
        | others
    )


def state(name: str) -> str:
    return f"parallel_state.get_{name}_world_size"


def megatron(*, tp: int = 1, pp: int = 1, cp: int = 1, dp: int = 1, ep: int = 1, **others: Any) -> Any:
    axes: dict[str, Any] = {
        "tp": (tp, state("tensor_model_parallel")),
        "pp": (pp, state("pipeline_model_parallel")),
        "cp": (cp, state("context_parallel")),
        "ep": (ep, state("expert_model_parallel")),
        "dp_replicate": (dp, state("data_parallel")),
        "dp_shard": (1, state("data_parallel")),
        "zero_stage": (0, "no distributed optimizer"),
    }
    if tp > 1:
        axes |= {
            "sequence_parallel": (False, "config.sequence_parallel"),
            "async_tp": (False, "config.tp_comm_overlap"),
        }
    if ep > 1:
        axes["expert_tp"] = (1, state("expert_tensor_parallel"))
    return seen(**axes | others)


def staged(kind: str, stages: int) -> dict[str, tuple[Any, str]]:
    source = state("virtual_pipeline_model_parallel")
    return {"pipeline_schedule": (kind, source), "virtual_stages": (stages, source)}


def accelerate(**degrees: int) -> dict[str, tuple[int, str]]:
    names = {"tp": "tp_size", "cp": "cp_size", "dp_replicate": "dp_replicate_size", "dp_shard": "dp_shard_size"}
    return {axis: (degrees.get(axis, 1), f"ParallelismConfig.{name}") for axis, name in names.items()} | {
        "pp": (1, REST)
    }


def titan(**degrees: int) -> dict[str, tuple[int, str]]:
    axes = ("tp", "cp", "pp", "dp_replicate", "dp_shard", "ep")
    return {axis: (degrees.get(axis, 1), f"ParallelDims.{axis}") for axis in axes}


FSDP2 = "FSDP2 FSDPMeshInfo of 4 parameter groups"
LLAMA_FSDP2 = "FSDP2 FSDPMeshInfo of 6 parameter groups"
SP = {"sequence_parallel": (True, "config.sequence_parallel"), "async_tp": (True, "config.tp_comm_overlap")}
NO_SP = {"sequence_parallel": (False, "no norm weight is on the tp axis")}
STRATEGY = "axis 'tensor_parallel' of the mesh of ModelParallelStrategy"
LONE = {"pp": (1, "axis 'pp' of the root mesh")}
PLAIN = {"zero_stage": (0, "nothing is sharded over data-parallel ranks")}
BF16_PIPELINE = "DeepSpeed engine, ZeRO stage 0 over 2 ranks and BF16_Optimizer, which shards states"
EXPECTED = {
    "deepspeed_zero0": deepspeed(),
    "deepspeed_zero1": deepspeed(stage=1),
    "deepspeed_zero2": deepspeed(stage=2),
    "deepspeed_zero3": deepspeed(stage=3),
    "deepspeed_offload": deepspeed(stage=3),
    "deepspeed_pipeline": deepspeed(
        dp=2,
        tp=(1, "engine.grid"),
        pp=(2, "engine.grid"),
        pipeline_schedule=("1f1b", "TrainSchedule of PipelineEngine"),
        virtual_stages=(1, "PipelineEngine"),
    ),
    "deepspeed_pipeline_in_bf16": deepspeed(
        dp=2,
        tp=(1, "engine.grid"),
        pp=(2, "engine.grid"),
        pipeline_schedule=("1f1b", "TrainSchedule of PipelineEngine"),
        virtual_stages=(1, "PipelineEngine"),
        dp_shard=(2, BF16_PIPELINE),
        dp_replicate=(1, BF16_PIPELINE),
        zero_stage=(1, BF16_PIPELINE),
    ),
    "deepspeed_hpz": deepspeed(stage=3),
    "deepspeed_quantised": deepspeed(stage=3),
    "deepspeed_ulysses": deepspeed(
        dp=2,
        stage=1,
        cp=(2, "engine.sequence_parallel_size"),
        context_parallel_kind=("all_to_all", "DeepSpeed-Ulysses"),
    ),
    "deepspeed_mpu": deepspeed(dp=2, stage=1, tp=(2, "engine.mp_world_size")),
    "deepspeed_auto_tp": deepspeed(dp=2, stage=1, tp=(2, "AutoTP of DeepSpeed, engine.autotp_size()")),
    "megatron_tp_dp": megatron(tp=2, dp=2),
    "megatron_tp_sp_sharded": megatron(
        tp=2,
        dp_replicate=(1, f"{state('data_parallel')}, instances of the distributed optimizer"),
        dp_shard=(2, state("data_parallel")),
        zero_stage=(1, "ddp_config.use_distributed_optimizer is True"),
        **SP,
    ),
    "megatron_tp_pp": megatron(tp=2, pp=2, **staged("1f1b", 1)),
    "megatron_tp_cp": megatron(tp=2, cp=2, context_parallel_kind=("all_to_all", "config.cp_comm_type a2a")),
    "megatron_interleaved": megatron(pp=2, dp=2, **staged("interleaved", 2)),
    "megatron_ep_dp": megatron(ep=2, dp=4),
    "megatron_tp_ep": megatron(tp=2, ep=2, dp=2, **SP),
    "accelerate_ddp": seen(
        dp_replicate=(4, "process group of DDP"),
        dp_shard=(1, "process group of DDP"),
        zero_stage=(0, "process group of DDP"),
        **dict.fromkeys(("tp", "cp", "pp"), (1, REST)),
    ),
    "accelerate_hsdp": seen(
        **accelerate(dp_replicate=2, dp_shard=2), zero_stage=(3, "FSDP2 HSDPMeshInfo of 4 parameter groups")
    ),
    "accelerate_tp_fsdp": seen(**accelerate(dp_shard=2, tp=2), zero_stage=(3, FSDP2), **NO_SP),
    "accelerate_cp_fsdp": seen(
        **accelerate(dp_shard=2, cp=2),
        zero_stage=(3, f"{FSDP2}, 4 shards over dp_shard x cp"),
        context_parallel_kind=("ring", "ParallelismConfig.cp_backend torch"),
    ),
    "lightning_ddp": seen(
        dp_replicate=(4, "process group of DDP"),
        dp_shard=(1, "process group of DDP"),
        zero_stage=(0, "process group of DDP"),
        **dict.fromkeys(("tp", "cp", "pp"), (1, REST)),
    ),
    **{
        name: seen(
            dp_shard=(4, f"FSDP1 {kind}"),
            dp_replicate=(1, f"FSDP1 {kind}"),
            zero_stage=(stage, f"FSDP1 {kind}"),
            **dict.fromkeys(("tp", "cp", "pp"), (1, REST)),
        )
        for name, kind, stage in (
            ("lightning_fsdp1", "FULL_SHARD", 3),
            ("lightning_fsdp1_grad_op", "SHARD_GRAD_OP", 2),
        )
    },
    "lightning_fsdp2_tp": seen(
        tp=(2, STRATEGY),
        dp_shard=(2, FSDP2),
        dp_replicate=(1, FSDP2),
        zero_stage=(3, FSDP2),
        **dict.fromkeys(("cp", "pp"), (1, REST)),
        **NO_SP,
    ),
    "lightning_tp": seen(
        tp=(4, STRATEGY),
        dp_replicate=(1, "axis 'data_parallel' of the root mesh, along which nothing is sharded"),
        **dict.fromkeys(("cp", "pp", "dp_shard"), (1, REST)),
        **NO_SP,
        **PLAIN,
    ),
    "transformers_tp": seen(
        tp=(4, "DistributedConfig.tp_size"),
        dp_replicate=(1, "axis 'dp_replicate' of the root mesh"),
        **dict.fromkeys(("cp", "dp_shard"), (1, REST)),
        **LONE,
        **NO_SP,
        **PLAIN,
    ),
    "transformers_fsdp_tp": seen(
        tp=(2, "DistributedConfig.tp_size"),
        dp_shard=(2, "DistributedConfig.fsdp_size"),
        dp_replicate=(1, LLAMA_FSDP2),
        zero_stage=(3, LLAMA_FSDP2),
        cp=(1, REST),
        **LONE,
        **NO_SP,
    ),
    "torchtitan_tp_fsdp": seen(**titan(tp=2, dp_shard=2), zero_stage=(3, FSDP2), **NO_SP),
    "torchtitan_hsdp_cp": seen(**titan(dp_replicate=2, cp=2), **PLAIN),
    "torchtitan_pp_ep": seen(**titan(pp=2, dp_shard=2, ep=2), zero_stage=(3, FSDP2)),
}
USUAL = frozenset(
    {
        "megatron_tp_dp",
        "megatron_tp_pp",
        "megatron_tp_cp",
        "megatron_ep_dp",
        "megatron_tp_ep",
        "accelerate_hsdp",
        "torchtitan_hsdp_cp",
    }
)
"""The others are exhaustive. DeepSpeed, Lightning and transformers take seconds to import, and their layouts stand in
tests/integrations too."""
SAID = {
    "deepspeed_offload": [["layout", "DeepSpeed keeps parameters in host memory; predicted as on the device"]],
    "deepspeed_hpz": [["layout", "hpZ of ZeRO++ keeps second shards among 2 ranks; predicted without"]],
    "deepspeed_quantised": [
        ["layout", "qwZ of ZeRO++ quantises the weights that it sends; predicted as not quantised"],
        ["layout", "qgZ of ZeRO++ quantises the gradients that it sends; predicted as not quantised"],
    ],
    # transformers keeps the last block of parameters whole after the forward pass, where the backward pass begins.
    "transformers_fsdp_tp": [
        ["conflict", "FSDP2 ZeRO stages differ between parameter groups: 3, 2; the one with most parameters counts"]
    ],
}


def module_of(name: str) -> str:
    """Return the name of the module in `jobs` that has a job, without what all of them begin with."""
    framework = name.partition("_")[0]
    return framework if framework in NEEDED else "meshes"


@pytest.fixture(scope="module")
def found(request, torchrun, tmp_path_factory) -> dict[str, Any]:
    """Return what is detected in each job that a selected test asks for. A framework that keeps a mesh or a group for
    the life of its process has a process of its own.
    """
    names = [name for name in EXPECTED if name in USUAL | cases_of(request, "name")]
    results: dict[str, Any] = {}
    for framework, packages in NEEDED.items():
        jobs = [name for name in names if module_of(name) == framework]
        if jobs and not MISSING[framework]:
            out = tmp_path_factory.mktemp(framework) / "found.json"
            modules = (*packages, *LATER.get(framework, ()), "carbon_plugin.detect.live")
            torchrun(JOB, out, framework, *jobs, processes=4, imported_once=modules)
            results |= json.loads(out.read_text())
    return results


def of_job(found: dict[str, Any], name: str) -> dict[str, Any]:
    missing = MISSING[module_of(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; `make test` installs them")
    return found[name]


OLDER = {"transformers_tp": {"dp_replicate": [1, REST]}}
"""Axes as releases of transformers before 5.24 show them: their root mesh has no axis of that name."""


@pytest.mark.parametrize("name", sampled(EXPECTED, USUAL))
def test_every_axis_comes_from_the_object_of_its_framework(found, name):
    job = of_job(found, name)

    assert job["axes"] in (EXPECTED[name], EXPECTED[name] | OLDER.get(name, {}))
    assert job["unexplained"] == 1


@pytest.mark.parametrize("name", sampled(EXPECTED, USUAL))
def test_only_what_a_layout_has_no_field_for_is_said_and_no_hook_stays(found, name):
    job = of_job(found, name)

    assert job["problems"] == SAID.get(name, [])
    assert job["hooks_left"] == 0


@pytest.mark.parametrize(
    "name",
    sampled([name for name in EXPECTED if "zero" in name or name.startswith(("accelerate", "lightning"))], USUAL),
)
def test_parameters_are_counted_whole_under_any_stage(found, name):
    assert of_job(found, name)["parameters"] == found["parameters"]


@pytest.mark.parametrize("name", sampled(["transformers_tp", "transformers_fsdp_tp"], USUAL))
def test_model_that_transformers_sharded_is_read_from_its_config(found, name):
    job = of_job(found, name)

    assert job["parameters"] == LLAMA_PARAMETERS
    assert job["model_source"] == "config of LlamaForCausalLM (llama)"


@pytest.mark.parametrize("name", sampled([name for name in EXPECTED if name.startswith("megatron")], USUAL))
def test_shape_of_a_megatron_decoder_is_that_of_its_config_and_not_of_the_ranks_part(found, name):
    job = of_job(found, name)
    layers = 4 if name in ("megatron_tp_pp", "megatron_interleaved") else 3

    assert job["model_source"] == "config of GPTModel, a TransformerConfig"
    assert job["model"].items() >= {"layers": layers, "hidden": 32, "heads": 4, "ffn": 64, "vocab": 128}.items()
    assert (job["model"]["moe"] is not None) == ("ep" in name.split("_"))
    assert job["partial"] == (name in ("megatron_tp_pp", "megatron_interleaved")), "only stages are not the whole model"


def test_tensor_parallel_parts_and_experts_of_megatron_are_counted_whole(found):
    dense = of_job(found, "megatron_tp_dp")["parameters"]

    assert of_job(found, "megatron_tp_cp")["parameters"] == dense
    # Four experts of two matrices for one, and a router of four rows, in each of three layers.
    assert of_job(found, "megatron_ep_dp")["parameters"] == dense + 3 * (3 * 2 * 32 * 64 + 4 * 32)
    assert of_job(found, "megatron_tp_ep")["parameters"] == of_job(found, "megatron_ep_dp")["parameters"]


@pytest.mark.parametrize("name", sampled([name for name in EXPECTED if name.startswith("deepspeed")], USUAL))
def test_deepspeed_states_accumulation_precision_and_offload(found, name):
    fields = of_job(found, name)["fields"]

    assert (fields["layout.micro_batch_size"], fields["training.micro_batches"]) == (2, 2)
    assert fields["training.precision"] == ("fp32" if name in ("deepspeed_zero0", "deepspeed_pipeline") else "bf16")
    assert fields.get("training.optimizer_offload", False) == (name == "deepspeed_offload")


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("lightning_fsdp1", "flat"),
        ("lightning_fsdp2_tp", "layer"),
        ("deepspeed_zero3", "bucket"),
        ("deepspeed_zero0", None),
    ],
)
def test_what_is_gathered_at_a_time_is_seen_where_parameters_are_sharded(found, name, unit):
    assert of_job(found, name)["fields"].get("stack.shard_unit") == unit


def test_megatron_states_batches_recomputation_and_precision(found):
    fields = of_job(found, "megatron_tp_pp")["fields"]

    assert (fields["layout.micro_batch_size"], fields["training.micro_batches"]) == (2, 2)
    assert (fields["layout.recompute"], fields["training.precision"]) == ("selective", "bf16")
    assert tuple(fields["layout.recompute_modules"]) == ("core_attn", "layernorm")
    some = of_job(found, "megatron_tp_ep")["fields"]
    assert (some["layout.recompute"], some["layout.recompute_share"]) == ("full", 1 / 3)  # the first of three layers


@pytest.mark.parametrize(
    ("name", "graphs", "fused"), [("megatron_ep_dp", "none", False), ("megatron_tp_ep", "scoped", True)]
)
def test_megatron_states_what_is_captured_and_whether_experts_are_fused(found, name, graphs, fused):
    fields = of_job(found, name)["fields"]

    assert (fields["stack.cuda_graphs"], fields["stack.fused_experts"]) == (graphs, fused)
    # Its local layers have no grouped products: an expert is a module, which takes its part of sorted tokens.
    assert (fields["stack.expert_loop"], fields["stack.sorted_loop"]) == (True, True)
    assert fields["stack.expert_dispatch"] == ("hybridep" if name == "megatron_tp_ep" else "all_to_all")


@pytest.mark.skipif(bool(MISSING["megatron"]), reason="megatron-core is not installed")
@pytest.mark.exhaustive
def test_all_axes_of_megatron_at_once(tmp_path) -> None:
    out = tmp_path / "found.json"
    job = JOB.with_name("megatron_all_axes.py")

    done = subprocess.run([sys.executable, job, out], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    expected = megatron(
        tp=2,
        pp=2,
        cp=2,
        dp=2,
        ep=2,
        expert_tp=(2, state("expert_tensor_parallel")),
        sequence_parallel=(True, "config.sequence_parallel"),
        context_parallel_kind=("ring", "config.cp_comm_type p2p"),
        **staged("1f1b", 1),
    )
    assert found["axes"] == expected
    assert found["unexplained"] == 1
