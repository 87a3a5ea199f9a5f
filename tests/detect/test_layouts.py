"""Layouts of real training jobs: every axis, and the object that showed it. One launch of four gloo processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

JOB = Path(__file__).parent / "jobs" / "layouts.py"
REST = "the other axes account for all 4 ranks"
FSDP2 = "FSDP2 FSDPMeshInfo of 4 parameter groups"
HSDP = "FSDP2 HSDPMeshInfo of 4 parameter groups"


@pytest.fixture(scope="module")
def found(torchrun, tmp_path_factory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("layouts") / "found.json"
    torchrun(JOB, results, processes=4)
    return json.loads(results.read_text())


def layout(**axes: tuple[int, str]) -> dict[str, list[Any]]:
    """All axes; those not named are 1 because the others account for the world."""
    rest = dict.fromkeys(("tp", "cp", "pp", "dp_replicate", "dp_shard"), (1, REST))
    return {axis: list(value) for axis, value in (rest | axes).items()}


def sharded(degree: int, source: str, *, zero: int = 3, replicate: int = 1) -> dict[str, tuple[int, str]]:
    return {"dp_shard": (degree, source), "dp_replicate": (replicate, source), "zero_stage": (zero, source)}


def plain(source: str = "nothing is sharded over data-parallel ranks") -> dict[str, tuple[int, str]]:
    return {"zero_stage": (0, source)}


NO_SP = {"sequence_parallel": (False, "no norm weight is on the tp axis")}
FOLDED = f"{FSDP2}, 4 shards over dp_shard x cp"
EXPECTED = {
    "ddp": layout(
        dp_replicate=(4, "process group of DDP"), dp_shard=(1, "process group of DDP"), **plain("process group of DDP")
    ),
    "fsdp2": layout(**sharded(4, FSDP2)),
    "fsdp2_without_names": layout(**sharded(4, FSDP2)),
    "fsdp2_zero2": layout(**sharded(4, FSDP2, zero=2)),
    "hsdp": layout(**sharded(2, HSDP, replicate=2)),
    "fsdp1": layout(**sharded(4, "FSDP1 FULL_SHARD")),
    "fsdp1_zero2": layout(**sharded(4, "FSDP1 SHARD_GRAD_OP", zero=2)),
    "tp": layout(tp=(4, "axis 'tp' of the mesh"), **NO_SP, **plain()),
    "tp_without_names": layout(tp=(4, "placements of blocks.0.q.weight on a mesh without names"), **NO_SP, **plain()),
    "tp_and_fsdp2": layout(tp=(2, "axis 'tp' of the mesh"), **NO_SP, **sharded(2, FSDP2)),
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
    "pp_and_fsdp2": layout(pp=(2, "axis 'pp' of the root mesh"), **sharded(2, FSDP2)),
    "cp_folded_into_fsdp2": layout(cp=(2, "axis 'cp' of the root mesh"), **sharded(2, FOLDED)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_axis_comes_from_the_object_that_holds_it(found, name):
    assert found[name]["axes"] == EXPECTED[name]
    assert found[name]["unexplained"] == 1


def test_ranks_that_nothing_explains_are_shown_and_not_guessed(found):
    assert found["nothing"]["axes"] == {}
    assert found["nothing"]["unexplained"] == 4


@pytest.mark.parametrize("name", [*EXPECTED, "nothing"])
def test_step_and_full_size_of_the_model_are_seen_under_any_sharding(found, name):
    fields, whole = found[name]["fields"], found["parameters"]

    assert found[name]["parameters"] == whole
    assert fields["layout.micro_batch_size"] == 2
    assert fields["training.micro_batches"] == 2
    assert fields["training.seq_len"] == 16
    assert fields["training.precision"] == "fp32"
    assert fields["training.optimizer"] == "adamw"
    assert found[name]["problems"] == []
    assert found[name]["hooks_left"] == 0


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.startswith("fsdp1")])
def test_shape_is_read_from_the_structure(found, name):
    shape = {"hidden": 32, "vocab": 128, "ffn": 64, "gated": False, "heads": 4, "kv_heads": 4, "head_dim": 8}
    layers = {} if name == "pp_and_fsdp2" else {"layers": 3}

    assert found[name]["model"].items() >= (shape | layers).items()


def test_layers_of_one_pipeline_stage_are_not_taken_for_the_model(found):
    assert "layers" not in found["pp_and_fsdp2"]["model"]


def test_flattened_parameters_of_fsdp1_show_no_structure(found):
    assert found["fsdp1"]["model"] == {}
    assert "structure of Model" in found["fsdp1"]["model_source"]
