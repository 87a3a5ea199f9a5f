"""Layouts of real training jobs: every axis, and the object that showed it. One launch of four gloo processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.sampling import cases_of, sampled

JOB = Path(__file__).parent / "jobs" / "layouts.py"
REST = "the other axes account for all 4 ranks"
FSDP2 = "FSDP2 FSDPMeshInfo of 4 parameter groups"
HSDP = "FSDP2 HSDPMeshInfo of 4 parameter groups"


def layout(**axes: tuple[int, str]) -> dict[str, list[Any]]:
    """Return the degrees of all axes. Axes that are not named are 1, because the others account for the world."""
    rest = dict.fromkeys(("tp", "cp", "pp", "dp_replicate", "dp_shard"), (1, REST))
    return {axis: list(value) for axis, value in (rest | axes).items()}


def sharded(degree: int, source: str, *, zero: int = 3, replicate: int = 1) -> dict[str, tuple[int, str]]:
    return {"dp_shard": (degree, source), "dp_replicate": (replicate, source), "zero_stage": (zero, source)}


def plain(source: str = "nothing is sharded over data-parallel ranks") -> dict[str, tuple[int, str]]:
    return {"zero_stage": (0, source)}


def copies(degree: int, source: str) -> dict[str, tuple[int, str]]:
    return {"dp_replicate": (degree, source), "dp_shard": (1, source), "zero_stage": (0, source)}


def split(source: str) -> dict[str, tuple[Any, str]]:
    kind = ("ring", f"{source}: keys and values are exchanged")
    return {"cp": (2, source), "context_parallel_kind": kind}


def pipeline(name: str, kind: str, *, stages: int, degree: int = 4, here: int = 1) -> dict[str, tuple[Any, str]]:
    return {
        "pp": (degree, f"{name} over {stages} stages"),
        "pipeline_schedule": (kind, f"class {name}"),
        "virtual_stages": (here, f"stages of {name} on this rank"),
        "pipeline_rounds": (1, f"{name} of 4 micro-batches, 1 a step"),
    }


DDP = "process group of DDP"
NO_SP = {"sequence_parallel": (False, "no norm weight is on the tp axis")}
FOLDED = f"{FSDP2}, 4 shards over dp_shard x cp"
ONE_F_ONE_B = pipeline("Schedule1F1B", "1f1b", stages=2, degree=2)
EXPECTED = {
    "ddp": layout(**copies(4, DDP)),
    "zero1": layout(**sharded(4, "ZeroRedundancyOptimizer over DDP", zero=1)),
    "replicate_of_ddp": layout(**copies(4, "process group of replicate()")),
    "replicate_of_fsdp2": layout(**copies(4, "FSDP2 DDPMeshInfo of 1 parameter groups")),
    "fsdp2": layout(**sharded(4, FSDP2)),
    "fsdp2_without_names": layout(**sharded(4, FSDP2)),
    "fsdp2_zero2": layout(**sharded(4, FSDP2, zero=2)),
    "fsdp2_resharded_to_pairs": layout(**sharded(4, FSDP2)),
    "hsdp": layout(**sharded(2, HSDP, replicate=2)),
    "fsdp1": layout(**sharded(4, "FSDP1 FULL_SHARD")),
    "fsdp1_zero2": layout(**sharded(4, "FSDP1 SHARD_GRAD_OP", zero=2)),
    "fsdp1_hybrid": layout(**sharded(2, "FSDP1 HYBRID_SHARD", replicate=2)),
    "tp": layout(tp=(4, "axis 'tp' of the mesh"), **NO_SP, **plain()),
    "tp_without_names": layout(tp=(4, "placements of blocks.0.q.weight on a mesh without names"), **NO_SP, **plain()),
    "tp_and_fsdp2": layout(tp=(2, "axis 'tp' of the mesh"), **NO_SP, **sharded(2, FSDP2)),
    "tp_and_fsdp2_under_names_of_their_own": layout(
        tp=(2, "placements of blocks.0.q.weight on axis 'inner'"), **NO_SP, **sharded(2, FSDP2)
    ),
    "tp_and_sp": layout(
        tp=(4, "axis 'tp' of the mesh"),
        sequence_parallel=(True, "blocks.0.norm.weight is a DTensor on the tp axis"),
        **plain(),
    ),
    "tp_and_hand_made_dp": layout(
        tp=(2, "axis 'tp' of the mesh"),
        dp_replicate=(2, "axis 'dp' of the root mesh, along which nothing is sharded"),
        **NO_SP,
        **plain(),
    ),
    "tp_and_dp_by_process_groups": layout(
        tp=(2, "process group 'TENSOR_MODEL_PARALLEL_GROUP'"),
        dp_replicate=(2, "process group 'DATA_PARALLEL_GROUP'"),
        **plain(),
    ),
    "pp_and_fsdp2": layout(pp=(2, "axis 'pp' of the root mesh"), **sharded(2, FSDP2)),
    "cp_folded_into_fsdp2": layout(cp=(2, "axis 'cp' of the root mesh"), **sharded(2, FOLDED)),
    "context_parallel_ddp": layout(
        **split("context_parallel() around the forward pass, over axis 'cp'"),
        **copies(2, f"{DDP}, 4 replicas over dp_replicate x cp"),
    ),
    "context_parallel_fsdp2_without_names": layout(
        **split("context_parallel() around the forward pass"), **sharded(2, FOLDED)
    ),
    "ep_and_fsdp2": layout(ep=(2, "axis 'ep' of the mesh"), **sharded(4, FSDP2)),
    "ep_without_names": layout(
        ep=(4, "placements of module.blocks.0.experts.up on a mesh without names"), **copies(4, DDP)
    ),
    "ep_by_process_groups": layout(ep=(2, "process group 'EXPERT_MODEL_PARALLEL_GROUP'"), **copies(4, DDP)),
    "gpipe": layout(**pipeline("ScheduleGPipe", "gpipe", stages=4), **plain()),
    "one_forward_one_backward": layout(**pipeline("Schedule1F1B", "1f1b", stages=4), **plain()),
    "interleaved": layout(**pipeline("ScheduleInterleaved1F1B", "interleaved", stages=8, here=2), **plain()),
    "interleaved_zero_bubble": layout(
        **pipeline("ScheduleInterleavedZeroBubble", "zero_bubble", stages=8, here=2), **plain()
    ),
    "v_shaped_zero_bubble": layout(**pipeline("ScheduleZBVZeroBubble", "zero_bubble", stages=8, here=2), **plain()),
    "pipeline_and_fsdp2": layout(**ONE_F_ONE_B, **sharded(2, "FSDP2 FSDPMeshInfo of 3 parameter groups")),
    "pipeline_and_ddp": layout(**ONE_F_ONE_B, **copies(2, DDP)),
    "schedule_that_nobody_told": layout(**pipeline("ScheduleGPipe", "gpipe", stages=4), **plain()),
}
USUAL = frozenset(
    {
        "ddp",
        "zero1",
        "fsdp2_resharded_to_pairs",
        "hsdp",
        "fsdp1",
        "tp_and_sp",
        "context_parallel_ddp",
        "tp_and_dp_by_process_groups",
        "ep_and_fsdp2",
        "ep_by_process_groups",
        "gpipe",
        "interleaved",
        "nothing",
        "held_back_by_ddp",
    }
)
"""One layout of each kind, of the cheaper ones where several are as good; the others are exhaustive."""
PIPELINES = [name for name, axes in EXPECTED.items() if "pipeline_schedule" in axes]
SPARSE = [name for name in EXPECTED if name.startswith("ep_")]
WHOLE = [name for name in EXPECTED if name not in PIPELINES]


@pytest.fixture(scope="module")
def found(request, torchrun, tmp_path_factory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("layouts") / "found.json"
    names = sorted(USUAL | cases_of(request, "name"))
    torchrun(JOB, results, *names, processes=4, imported_once=("torch.distributed.optim", "carbon_plugin.detect.live"))
    return json.loads(results.read_text())


@pytest.mark.parametrize("name", sampled(EXPECTED, USUAL))
def test_every_axis_comes_from_the_object_that_holds_it(found, name):
    assert found[name]["axes"] == EXPECTED[name]
    assert found[name]["unexplained"] == 1


def test_ranks_that_nothing_explains_are_shown_and_not_guessed(found):
    assert found["nothing"]["axes"] == {}
    assert found["nothing"]["unexplained"] == 4


@pytest.mark.parametrize("name", sampled([*EXPECTED, "nothing"], USUAL))
def test_step_is_seen_under_any_layout_and_no_hook_stays(found, name):
    fields = found[name]["fields"]

    assert fields["layout.micro_batch_size"] == 2
    assert fields["training.micro_batches"] == (4 if name in PIPELINES else 2)
    assert fields.get("training.seq_len") == (None if name == "cp_folded_into_fsdp2" else 16)
    assert fields["training.precision"] == "fp32"
    assert fields["training.optimizer"] == "adamw"
    assert fields["training.optimizer_state"] == "fp32"
    assert fields["layout.recompute"] == "none"
    assert found[name]["hooks_left"] == 0


@pytest.mark.parametrize(
    ("name", "wraps", "unit"),
    [
        ("tp", "eager", None),
        ("tp_without_names", "eager", None),
        ("tp_and_fsdp2", "eager", "layer"),
        ("tp_and_dp_by_process_groups", None, None),
        ("fsdp2", None, "layer"),
        ("fsdp1", None, "flat"),
        ("replicate_of_fsdp2", None, None),
        ("ddp", None, None),
    ],
)
def test_weights_that_tensor_parallelism_wraps_and_the_form_of_fsdp_are_seen(found, name, wraps, unit):
    fields = found[name]["fields"]

    assert (fields.get("stack.wraps_weights"), fields.get("stack.shard_unit")) == (wraps, unit)


@pytest.mark.parametrize(("name", "dtype"), [("fsdp2", "fp32"), ("fsdp1", "fp32"), ("ddp", None), ("tp", None)])
def test_fsdp_without_a_policy_reduces_gradients_in_the_dtype_of_the_parameters(found, name, dtype):
    assert found[name]["fields"].get("stack.grad_reduce_dtype") == dtype


@pytest.mark.parametrize(
    "name", sampled([name for name in (*EXPECTED, "nothing") if name != "fsdp2_resharded_to_pairs"], USUAL)
)
def test_nothing_is_complained_about_where_everything_is_plain(found, name):
    assert found[name]["problems"] == []


@pytest.mark.parametrize("name", sampled(["held_back_by_ddp", "held_back_by_fsdp1", "held_back_by_fsdp2"], USUAL))
def test_micro_batches_that_keep_their_gradients_back_are_counted(found, name):
    assert found[name]["fields"]["training.micro_batches"] == 2
    assert found[name]["sources"]["training.micro_batches"].endswith(", 1 without gradient synchronisation")


def test_resharding_to_a_part_of_the_ranks_is_said(found):
    remark = "FSDP2 reshards after forward to 2 of 4 ranks; predicted as all"
    assert found["fsdp2_resharded_to_pairs"]["problems"] == [["layout", remark]]


@pytest.mark.parametrize("name", sampled([*WHOLE, "nothing"], USUAL))
def test_full_size_of_the_model_is_counted_under_any_sharding(found, name):
    assert found[name]["parameters"] == found["parameters"]["SparseBlock" if name in SPARSE else "Block"]


@pytest.mark.parametrize("name", sampled(PIPELINES, USUAL))
def test_stages_of_a_pipeline_on_this_rank_are_counted_whole(found, name):
    assert found[name]["parameters"] == found[name]["parameters_here"]


@pytest.mark.parametrize(
    "name", sampled([name for name in WHOLE if not name.startswith("fsdp1") and name not in SPARSE], USUAL)
)
def test_shape_is_read_from_the_structure(found, name):
    shape = {"hidden": 32, "vocab": 128, "ffn": 64, "gated": False, "heads": 4, "kv_heads": 4, "head_dim": 8}
    layers = {} if name == "pp_and_fsdp2" else {"layers": 3}

    assert found[name]["model"].items() >= (shape | layers).items()


@pytest.mark.parametrize("name", sampled(["ep_and_fsdp2", "ep_without_names"], USUAL))
def test_mixture_of_experts_is_read_whole_from_its_shards(found, name):
    moe = found[name]["model"]["moe"]

    assert (moe["experts"], moe["top_k"], moe["expert_ffn"]) == (4, 2, 64)
    assert found[name]["model"]["layers"] == 3


def test_experts_in_plain_tensors_under_expert_parallelism_may_be_a_part_of_all(found):
    assert not {"moe", "ffn"} & found["ep_by_process_groups"]["model"].keys()


@pytest.mark.parametrize("name", sampled(["pp_and_fsdp2", *PIPELINES], USUAL))
def test_a_stage_is_not_taken_for_the_model(found, name):
    assert not {"layers", "tied_embeddings"} & found[name]["model"].keys()
    assert found[name]["model"]["hidden"] == 32


def test_flattened_parameters_of_fsdp1_show_no_structure(found):
    assert found["fsdp1"]["model"] == {}
    assert "structure of Model" in found["fsdp1"]["model_source"]


def test_page_on_layouts_names_every_job():
    page = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text()
    table = page.partition("## Layouts, verified")[2].partition("\n\n`ep` divides")[0]
    named = {
        name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row.split("|")[3])
    }

    assert named == set(EXPECTED)
