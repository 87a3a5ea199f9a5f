"""Whatever a rule fills because nobody stated it is named wherever assumptions are: by a plan in print and as JSON, and
in the record of the job that runs it.
"""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from carbon_plugin.cli.tables.plan_table import print_forecast
from carbon_plugin.detect.resolve.effective import Declared, World
from carbon_plugin.detect.resolve.rules import resolve
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import Stack

FSDP = {"dp_shard": 16, "zero_stage": 3}
TENSOR = {"tp": 2, "dp_replicate": 8}
PIPELINE = {"pp": 2, "dp_replicate": 8}
COPIES = {"dp_replicate": 16}
EXPERTS: dict[str, Any] = {"model": "mixtral-8x7b", "layout": {**FSDP, "ep": 8}}
FILLED: dict[str, tuple[dict[str, Any], Any]] = {
    "cluster.node": ({}, "dgx-h100"),
    "cluster.devices_per_node": ({}, 8),
    "training.seq_len": ({}, 2048),
    "training.global_batch_size": ({}, 64),
    "training.precision": ({}, "bf16"),
    "training.optimizer": ({}, "adam"),
    "training.optimizer_state_dtype": ({}, "fp32"),
    "training.master_weights": ({"stack": "torchtune"}, False),
    "layout.micro_batch_size": ({}, 1),
    "layout.recompute": ({}, "none"),
    "layout.sequence_parallel": ({"layout": TENSOR}, True),
    "layout.async_tp": ({"layout": TENSOR}, True),
    "layout.recompute_reentrant": ({"layout": {**FSDP, "recompute": "full"}}, True),
    "layout.balanced_stages": ({"layout": PIPELINE, "stack": "nanotron"}, False),
    "layout.virtual_stages": ({"layout": PIPELINE, "stack": "megatron-core"}, 1),
    "layout.pipeline_schedule": ({"layout": PIPELINE, "stack": "hai-llm"}, "1f1b"),
    "stack": ({}, "tuned"),
    "stack.preset": ({"stack": "axolotl"}, "ordinary"),
    "stack.attention_kernel": ({}, "flash3"),
    "stack.expert_loop": (EXPERTS, False),
    "stack.routing_spread": (EXPERTS, 0.1),
    "stack.shard_unit": ({}, "flat"),
    "stack.grad_reduce_dtype": ({}, "fp32"),
    "stack.autocast": ({"layout": COPIES}, True),
    "stack.fused_optimizer": ({}, True),
}
"""For each field that a rule fills: a plan that leaves it open, and a value that somebody may state."""
CONSTANTS = {
    "framework_factor": "a constant of the stack, fitted",
    "overhead_factor": "a constant of the stack, fitted",
    "host_op_time_s": "a constant of the stack, fitted",
    "gather_overlap": "follows from dp_overlap",
    "plain_modules": "follows from fused and cross_entropy",
    "capacity_factor": "null says that no token is dropped",
    "tuned_for": "null says that the stack was tuned for whatever it runs on",
}
"""The fields of a stack that may be unset without a rule that chooses a value, with the reason."""


def document(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "llama3-8b",
        "cluster": {"accelerator": "h100-sxm", "nodes": 2},
        "training": {"steps": 10},
        "site": {"zone": "FRA"},
        "layout": FSDP,
        **changes,
    }


def stating(field: str, value: Any) -> RunSpec:
    """Return the run whose plan states the field beside all else."""
    section, _, name = field.partition(".")
    whole = document(FILLED[field][0])
    if not name or name == "preset":
        return build_run_spec({**whole, "stack": value}, origin="test")
    told = whole.get(section, {})
    told = {"preset": told} if isinstance(told, str) else told
    return build_run_spec({**whole, section: {**told, name: value}}, origin="test")


def recorded(planned: RunSpec) -> set[str]:
    """Return the fields that the first record of a job of this plan names, which shows nothing of itself."""
    cluster = planned.cluster
    world = World(world_size=cluster.devices, nodes=cluster.nodes, devices_per_node=cluster.devices_per_node)
    effective = resolve(planned, Declared(), None, world)
    assert effective.spec is not None, effective.missing
    return {item.field for item in (*effective.assumptions, *predict_step(effective.spec).assumptions)}


@pytest.mark.parametrize("field", FILLED)
def test_what_a_rule_fills_is_named_in_every_place(field: str) -> None:
    forecast = make_forecast(build_run_spec(document(FILLED[field][0]), origin="test"))
    out = io.StringIO()
    print_forecast(forecast, Console(file=out, width=200), verbose=True)

    assert sum(item.field == field for item in forecast.assumptions) == 1
    assert field in {item["field"] for item in json.loads(msgspec.json.encode(forecast))["assumptions"]}
    assert f"  {field}: " in out.getvalue()
    # The launcher tells how many devices a node has.
    assert field in recorded(forecast.spec) or field == "cluster.devices_per_node"


@pytest.mark.parametrize("field", FILLED)
def test_what_is_stated_is_no_assumption(field: str) -> None:
    assert field not in {item.field for item in make_forecast(stating(field, FILLED[field][1])).assumptions}


def test_no_field_of_a_stack_is_filled_without_being_named() -> None:
    unset = {field.name for field in msgspec.structs.fields(Stack) if field.default is None}

    assert unset == {name for field in FILLED if (name := field.partition("stack.")[2])} - {"preset"} | CONSTANTS.keys()


def test_the_formats_in_force_are_those_that_are_named() -> None:
    def named(**changes: Any) -> dict[str, str]:
        forecast = make_forecast(build_run_spec(document(changes), origin="test"))
        return {item.field: item.value for item in forecast.assumptions}

    assert named()["stack.grad_reduce_dtype"] == "bf16"
    assert named(layout=COPIES)["stack.grad_reduce_dtype"] == "fp32"
    assert named(layout=COPIES)["stack.autocast"] == "false"
    assert named(layout=COPIES, training={"steps": 10, "precision": "fp16"})["stack.autocast"] == "true"
    assert named(stack="torchtune")["training.optimizer_state_dtype"] == "bf16"
    assert (
        not {"stack.grad_reduce_dtype", "training.master_weights"}
        & named(training={"steps": 10, "precision": "fp32"}).keys()
    )
