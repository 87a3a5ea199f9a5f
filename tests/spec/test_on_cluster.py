"""A run on other hardware: what was assumed of it follows the devices, what was stated stays."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.spec.frameworks import names_of_frameworks
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.on_cluster import on_cluster
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS


def run_on(accelerator: str, **stated: Any) -> RunSpec:
    training = {"seq_len": 1024, "global_batch_size": 64, "steps": 10}
    if "precision" in stated:
        training["precision"] = stated.pop("precision")
    return build_run_spec(
        {
            "model": "gpt2",
            "cluster": {"accelerator": accelerator, "nodes": 2},
            "training": training,
            "site": {"zone": "FRA"},
            **stated,
        },
        origin="test",
    )


@pytest.mark.parametrize("accelerator", ["v100", "t4", "tpu-v4", "h100-sxm", "trainium2"])
def test_what_was_assumed_is_what_a_run_planned_there_assumes(accelerator: str) -> None:
    there = run_on(accelerator)

    moved, notes = on_cluster(run_on("a100-sxm-80gb"), there.cluster)

    assert (moved.training.precision, moved.stack) == (there.training.precision, there.stack)
    fields = ("training.precision", "stack")
    assert {item.field: item.value for item in moved.assumptions if item.field in fields} == {
        item.field: item.value for item in there.assumptions if item.field in fields
    }
    assert ("precision fp16" in notes) == (accelerator in ("v100", "t4"))


@pytest.mark.parametrize("name", sorted({*STACKS, *names_of_frameworks()}))
def test_the_stack_of_a_name_stays_whether_or_not_it_is_that_of_a_relative(name: str) -> None:
    """A plan says as what it takes a framework without a stack of its own; it is stated software all the same."""
    for stated in (name, {"preset": name, "attention_kernel": "flash"}):
        run = run_on("a100-sxm-80gb", stack=stated)

        moved, notes = on_cluster(run, run_on("mi300x").cluster)

        assert (moved.stack, moved.assumptions, notes) == (run.stack, run.assumptions, ())


def test_what_was_stated_stays() -> None:
    run, there = run_on("a100-sxm-80gb", precision="bf16", stack={"attention_kernel": "flash"}), run_on("v100").cluster

    moved, notes = on_cluster(run, there)

    assert (moved.training, moved.stack, moved.cluster, notes) == (run.training, run.stack, there, ())
