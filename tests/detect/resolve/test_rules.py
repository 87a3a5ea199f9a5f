"""Planned, declared and detected become one effective spec: what is observed wins, nothing missing is guessed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carbon_plugin.detect.observed import Detected, DetectedLayout, DetectedModel, Observed
from carbon_plugin.detect.resolve.effective import Declared, Effective, World
from carbon_plugin.detect.resolve.rules import resolve
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import STACKS, Stack, leaves_experts_open
from carbon_plugin.spec.training import TrainingPlan

SHAPE = {
    "layers": 4, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 256, "vocab": 1000, "gated": False,
}  # fmt: skip
MODEL = TransformerModel(name="tiny", **SHAPE)
H100 = load_accelerator("h100-sxm")
EIGHT = World(world_size=8, nodes=1, devices_per_node=8, accelerator=Observed(H100, "NVML calls the GPU so"))


def planned(**layout: Any) -> RunSpec:
    return RunSpec(
        name="plan",
        model=MODEL,
        cluster=Cluster(accelerator=H100, node=load_node("dgx-h100"), nodes=1, devices_per_node=8),
        training=TrainingPlan(seq_len=128, global_batch_size=64, steps=1000),
        site=Site(zone="FRA"),
        layout=ParallelLayout(**layout) if layout else None,
    )


def detected(model: DetectedModel | None = None, *, kind: str = "cuda", world: int = 8, **fields: Any) -> Detected:
    dotted = {name.replace("__", "."): Observed(value, "a live object") for name, value in fields.items()}
    axes = {name.removeprefix("layout."): value for name, value in dotted.items() if name.startswith("layout.")}
    return Detected(layout=DetectedLayout(axes=axes, world_size=world), model=model, fields=dotted, device_kind=kind)


def shaped(**changes: Any) -> DetectedModel:
    fields = SHAPE | changes
    parameters = TransformerModel(name="seen", **fields).parameters
    return DetectedModel(
        name="Seen", parameters=parameters, trainable_parameters=parameters, source="its structure", fields=fields
    )


FSDP = {"layout__tp": 1, "layout__pp": 1, "layout__cp": 1, "layout__dp_replicate": 1, "layout__dp_shard": 8}
STEP = {
    "layout__micro_batch_size": 2, "layout__zero_stage": 3, "training__micro_batches": 3, "training__seq_len": 256,
    "training__precision": "bf16",
}  # fmt: skip


def value(effective: Effective, name: str) -> Any:
    return effective.fields[name]["value"]


def test_observed_layout_wins_and_the_difference_is_said():
    effective = resolve(planned(tp=8), Declared(layout={"tp": 2}), detected(shaped(), **FSDP, **STEP), EIGHT)

    row = effective.fields["layout.tp"]
    assert (row["value"], row["planned"], row["declared"], row["detected"]) == (1, 8, 2, 1)
    assert row["source"] == "detected: a live object"
    assert "layout.tp: planned 8, declared 2, detected 1; detected counts" in effective.differences
    assert effective.spec.layout.dp_shard == 8


def test_declared_fills_what_cannot_be_seen_and_comes_before_the_plan():
    effective = resolve(
        planned(dp_shard=8, zero_stage=3, recompute="full"),
        Declared(layout={"recompute": "selective"}),
        detected(shaped(), **FSDP, **STEP),
        EIGHT,
    )

    assert effective.spec.layout.recompute == "selective"
    assert effective.fields["layout.recompute"]["source"] == "declared"


def test_range_is_that_of_the_forecast_until_the_job_shows_what_the_plan_assumed():
    filled = (Assumption("layout.recompute", "none", "not stated"),)
    plan = msgspec.structs.replace(planned(dp_shard=8, zero_stage=3, micro_batch_size=8), assumptions=filled)
    forecast = predict_step(plan).step_time_s

    unseen = resolve(plan, Declared(), None, EIGHT)
    seen = resolve(plan, Declared(), detected(shaped(), layout__recompute="none", **FSDP, **STEP), EIGHT)

    assert predict_step(unseen.spec).step_time_s == forecast
    assert "assumed layout.recompute" in forecast.source
    narrower = predict_step(seen.spec).step_time_s
    assert narrower.high / narrower.value < forecast.high / forecast.value
    assert "assumed" not in narrower.source


def test_planned_modules_fall_away_where_another_kind_of_recompute_is_seen():
    plan = planned(dp_shard=8, zero_stage=3, recompute="selective", recompute_modules=("layernorm",))
    kept = resolve(plan, Declared(), detected(shaped(), **FSDP, **STEP), EIGHT)
    full = resolve(plan, Declared(), detected(shaped(), layout__recompute="full", **FSDP, **STEP), EIGHT)

    assert kept.spec.layout.recompute_modules == ("layernorm",)
    assert (full.spec.layout.recompute, full.spec.layout.recompute_modules) == ("full", ())


def test_planned_share_of_the_layers_falls_away_where_none_recompute():
    plan = planned(dp_shard=8, zero_stage=3, recompute="full", recompute_share=0.5)
    kept = resolve(plan, Declared(), detected(shaped(), **FSDP, **STEP), EIGHT)
    none = resolve(plan, Declared(), detected(shaped(), layout__recompute="none", **FSDP, **STEP), EIGHT)

    assert kept.spec.layout.recompute_share == 0.5
    assert (none.spec.layout.recompute, none.spec.layout.recompute_share) == ("none", 1.0)


def test_what_is_planned_of_the_training_and_cannot_be_seen_counts():
    training = TrainingPlan(
        seq_len=128,
        global_batch_size=64,
        steps=1000,
        master_weights=False,
        optimizer_state_dtype="bf16",
        optimizer_in_backward=True,
        activation_offload=0.5,
    )
    plan = msgspec.structs.replace(planned(), training=training)
    effective = resolve(plan, Declared(), detected(shaped(), **FSDP, **STEP), EIGHT).spec.training

    found = (effective.master_weights, effective.optimizer_state_dtype, effective.optimizer_in_backward)
    assert found == (False, "bf16", True)
    assert effective.activation_offload == 0.5
    assert effective.seq_len == 256  # seen


def test_batch_follows_from_micro_batch_calls_and_ranks():
    effective = resolve(planned(), Declared(), detected(shaped(), **FSDP, **STEP), EIGHT)

    assert value(effective, "training.global_batch_size") == 2 * 3 * 8
    assert effective.tokens_per_step == 2 * 3 * 8 * 256
    assert "first step's batch stands for that of every step" in effective.fields["tokens_per_step"]["source"]
    assert effective.total_steps == 1000


def test_effective_spec_can_be_predicted_without_any_plan():
    effective = resolve(None, Declared(total_steps=10), detected(shaped(), **FSDP, **STEP), EIGHT)

    assert effective.missing == ("site: not given, so energy is measured but carbon is not computed",)
    assert predict_step(effective.spec).step_time_s.value > 0
    assert effective.spec.model.layers == 4
    assert effective.site is None


def test_ranks_that_nothing_explains_stop_the_prediction_and_are_named():
    effective = resolve(None, Declared(), detected(shaped(), layout__dp_shard=4, layout__zero_stage=3), EIGHT)

    assert effective.spec is None
    assert value(effective, "layout.unexplained") == 2
    assert "4 of 8 ranks; a factor 2 is unexplained" in effective.missing[0]


def test_declared_axis_explains_what_was_left():
    effective = resolve(
        None,
        Declared(layout={"cp": 2}, training={"seq_len": 512}),
        detected(shaped(), **{**STEP, "layout__dp_shard": 4}),
        EIGHT,
    )

    assert effective.spec.layout.cp == 2
    assert value(effective, "training.seq_len") == 512


def test_sequence_length_under_declared_context_parallel_is_not_taken_from_one_rank():
    effective = resolve(None, Declared(layout={"cp": 2}), detected(shaped(), **{**STEP, "layout__dp_shard": 4}), EIGHT)

    assert "training.seq_len: neither seen nor given" in effective.missing


def test_declared_context_parallel_is_taken_out_of_the_shards_that_hide_it():
    nobody = Observed(1, "the other axes account for all 8 ranks")
    seen = detected(shaped(), **{**FSDP, **STEP})
    seen = msgspec.structs.replace(seen, fields={**seen.fields, "layout.cp": nobody})

    effective = resolve(None, Declared(layout={"cp": 2}, training={"seq_len": 512}), seen, EIGHT)

    assert (effective.spec.layout.cp, effective.spec.layout.dp_shard) == (2, 4)
    assert effective.fields["layout.dp_shard"]["source"] == "detected: a live object, without the declared cp 2"
    assert effective.spec.training.seq_len == 512


def test_context_parallel_that_an_object_shows_is_not_overruled():
    effective = resolve(None, Declared(layout={"cp": 2}), detected(shaped(), **FSDP, **STEP), EIGHT)

    assert (effective.spec.layout.cp, effective.spec.layout.dp_shard) == (1, 8)
    assert any(sentence.startswith("layout.cp: declared 2, detected 1") for sentence in effective.differences)


def test_stack_takes_what_was_seen_of_it():
    seen = detected(shaped(), **FSDP, **STEP, stack__fused=True, stack__grad_reduce_dtype="bf16")

    effective = resolve(planned(), Declared(stack=Stack(attention_kernel="flash3", fused=False)), seen, EIGHT)

    assert effective.spec.stack == Stack(attention_kernel="flash3", fused=True, grad_reduce_dtype="bf16")
    assert "stack.fused: declared False, detected True; detected counts" in effective.differences


@pytest.mark.parametrize(
    ("stack", "wraps", "differs"),
    [
        (None, "eager", False),
        ("torchtitan", "eager", False),
        ("automodel", "always", False),
        ("megatron-core", "eager", True),
    ],
)
def test_dtensors_that_were_seen_count_where_the_stack_knows_of_none(stack, wraps, differs):
    declared = Declared(stack=None if stack is None else STACKS[stack])
    seen = detected(shaped(), **FSDP, **STEP, stack__wraps_weights="eager")

    effective = resolve(None, declared, seen, EIGHT)

    assert effective.spec.stack.wraps_weights == wraps
    assert any("wraps_weights" in said for said in effective.differences) is differs


def test_a_loop_over_experts_that_was_seen_leaves_nothing_open_about_them():
    effective = resolve(None, Declared(), detected(shaped(), **FSDP, **STEP, stack__expert_loop=True), EIGHT)

    assert effective.spec.stack == Stack(expert_loop=True)
    assert not leaves_experts_open(effective.spec.stack)


def test_what_no_spec_has_a_field_for_is_kept():
    seen = detected(shaped(), **FSDP, **STEP, training__padding_fraction=0.25)

    row = resolve(None, Declared(), seen, EIGHT).fields["training.padding_fraction"]

    assert (row["value"], row["source"]) == (0.25, "detected: a live object")


def test_shape_of_the_module_is_laid_over_the_planned_one():
    effective = resolve(planned(), Declared(), detected(shaped(layers=6), **FSDP, **STEP), EIGHT)

    assert effective.spec.model.layers == 6
    assert effective.spec.model.name == "tiny"
    assert any(sentence.startswith("model.layers: planned 4, detected 6") for sentence in effective.differences)


def test_a_compiled_model_of_which_no_stack_is_stated_is_compiled_software_whose_loss_is_not_seen():
    eager, compiled = (
        resolve(None, Declared(), detected(shaped(), **FSDP, **STEP, **seen), EIGHT).spec
        for seen in ({}, {"stack__fused": True})
    )
    assert (eager.stack.population, compiled.stack.population) == ("ordinary", "ordinary")
    assert compiled.stack.fused
    assert compiled.stack.cross_entropy == "eager"
    assert compiled.stack.framework_factor == STACKS["pytorch-compiled"].framework_factor


def test_a_length_that_the_job_runs_is_not_refused_for_the_rows_of_a_table():
    seen = detected(shaped(learned_positions=128), **FSDP, **STEP)

    effective = resolve(None, Declared(), seen, EIGHT)
    declared = resolve(None, Declared(training={"seq_len": 256}), msgspec.structs.replace(
        seen, fields={name: one for name, one in seen.fields.items() if name != "training.seq_len"}
    ), EIGHT)  # fmt: skip

    assert value(effective, "model.longest_seq_len") == 256
    assert predict_step(effective.spec).step_time_s.value > 0
    with pytest.raises(SpecError, match=r"at most 128 tokens, but training\.seq_len is 256"):
        predict_step(declared.spec)


def test_heads_that_the_structure_leaves_open_come_from_the_plan():
    open_fields = ("heads", "kv_heads", "head_dim")
    assumed = tuple(Assumption(f"model.{name}", "1", "usual") for name in open_fields)
    seen = shaped()
    seen = msgspec.structs.replace(
        seen, fields={k: v for k, v in seen.fields.items() if k not in open_fields}, assumed=assumed
    )

    with_plan = resolve(planned(), Declared(), detected(seen, **FSDP, **STEP), EIGHT)
    without = resolve(None, Declared(), detected(seen, **FSDP, **STEP), EIGHT)

    assert with_plan.spec.model.heads == 4
    assert without.spec.model.heads == 1
    assert assumed[0] in without.assumptions


def test_planned_model_stands_if_the_parameters_agree_and_falls_if_not():
    def unknown(parameters: int) -> DetectedModel:
        return DetectedModel(name="X", parameters=parameters, trainable_parameters=parameters, source="no structure")

    agreeing = resolve(planned(), Declared(), detected(unknown(MODEL.parameters + 100), **FSDP, **STEP), EIGHT)
    contradicted = resolve(planned(), Declared(), detected(unknown(2 * MODEL.parameters), **FSDP, **STEP), EIGHT)

    assert agreeing.spec.model == MODEL
    assert agreeing.differences == () or not any("model" in sentence for sentence in agreeing.differences)
    assert contradicted.spec is None
    assert any("parameters, but the module has" in sentence for sentence in contradicted.missing)


def test_counted_module_is_predicted_by_its_counts():
    counted = CountedModel(
        name="Net", parameters=1000, trainable_parameters=1000, forward_flops_per_sample=1e9,
        activation_bytes_per_sample=1e6, kernels=20, source="counted",
    )  # fmt: skip
    seen = DetectedModel(name="Net", parameters=1000, trainable_parameters=1000, source="-", counted=counted)

    effective = resolve(None, Declared(), detected(seen, **FSDP, **STEP), EIGHT)

    assert effective.spec.model == counted


def test_plan_for_gpus_does_not_predict_a_run_on_the_cpu_but_idle_gpus_are_charged():
    effective = resolve(planned(), Declared(), detected(shaped(), kind="cpu", **FSDP, **STEP), EIGHT)

    assert effective.spec is None
    assert any("parameters live on the CPU" in sentence for sentence in effective.missing)
    assert effective.charged.accelerator.name == "h100-sxm"


def test_other_gpu_than_planned_is_a_difference_and_counts():
    world = World(
        world_size=8, nodes=1, devices_per_node=8, accelerator=Observed(load_accelerator("a100-sxm-80gb"), "NVML")
    )

    effective = resolve(planned(), Declared(), detected(shaped(), **FSDP, **STEP), world)

    assert effective.cluster.accelerator.name == "a100-sxm-80gb"
    assert any("cluster.accelerator: planned h100-sxm" in sentence for sentence in effective.differences)
    assert any(assumption.field == "cluster.node" for assumption in effective.assumptions)


def test_several_cards_that_usually_sit_in_a_workstation_each_are_predicted_in_a_server_that_holds_them():
    card = Observed(load_accelerator("l40s"), "NVML")
    world = World(world_size=8, nodes=2, devices_per_node=4, accelerator=card)

    effective = resolve(None, Declared(site=Site(zone="FRA")), detected(shaped(), **FSDP, **STEP), world)

    assert (effective.cluster.node.name, effective.cluster.devices) == ("pcie-8", 8)
    assert effective.missing == ()


@pytest.mark.parametrize("looked", [True, False])
def test_nothing_known_is_no_error(looked):
    nothing = Detected(layout=DetectedLayout(axes={}, world_size=4), model=None, fields={}) if looked else None

    effective = resolve(None, Declared(), nothing, World(world_size=4, nodes=2, devices_per_node=2))

    assert effective.spec is None
    assert effective.missing
    assert msgspec.json.encode(effective.fields)


def test_offload_of_optimizer_states_is_predicted_where_an_engine_shows_it():
    seen = detected(shaped(), **FSDP, **STEP, training__optimizer_offload=True)

    effective = resolve(planned(), Declared(), seen, EIGHT)

    assert effective.spec is not None
    assert effective.spec.training.optimizer_offload
    assert effective.fields["training.optimizer_offload"]["source"] == "detected: a live object"


def test_tokens_of_the_first_batch_alone_have_a_range_and_its_padding_is_left_out():
    effective = resolve(None, Declared(), detected(shaped(), **FSDP, **STEP, training__padding_fraction=0.25), EIGHT)
    places = 2 * 3 * 8 * 256

    row = effective.fields["tokens_per_step"]
    assert effective.tokens_per_step == row["value"] == 0.75 * places
    assert (row["low"], row["high"]) == (0.375 * places, 1.5 * places)
    assert "25 % padding left out: 4,608 to 18,432" in row["source"]


def test_sizes_of_batches_count_over_that_of_the_first_step_and_leave_no_range():
    seen = detected(shaped(), **FSDP, **STEP, training__first_batch_size=400)
    effective = resolve(None, Declared(), seen, EIGHT)
    first = 2 * 3 * 8 * 256

    assert "low" not in effective.fields["tokens_per_step"]
    assert effective.tokens_of(told=0, untold_steps=1, steps=1) == first
    assert effective.tokens_of(told=400 + 100, untold_steps=1, steps=3) == first + first + first // 4


@pytest.mark.parametrize("field", ["tokens", "training__first_batch_size"])
def test_declared_tokens_of_a_step_come_before_what_an_adapter_counts(field):
    """The Hugging Face Trainer tells tokens, Lightning the sizes of batches."""
    sizes = {"training__first_batch_size": 400} if field != "tokens" else {}
    seen = detected(shaped(), **FSDP, **STEP, **sizes, tokens="step by step")

    counted, declared = (resolve(None, one, seen, EIGHT) for one in (Declared(), Declared(tokens_per_step=77)))

    first = 2 * 3 * 8 * 256
    a_count = first / 400 if sizes else 1
    assert counted.tokens_of(told=500, untold_steps=1, steps=3) == round(500 * a_count) + first
    assert counted.counted_beside(told=500, untold_steps=1, steps=3) is None
    assert declared.tokens_of(told=500, untold_steps=1, steps=3) == 3 * 77
    assert declared.counted_beside(told=500, untold_steps=1, steps=3) == pytest.approx(250 * a_count)
    assert declared.counted_beside(told=0, untold_steps=3, steps=3) is None
    assert "not used" in declared.fields["tokens"]["source"]


def test_tokens_that_the_script_tells_at_a_step_come_before_those_that_it_declares_of_all():
    told = resolve(None, Declared(tokens_per_step=77), detected(shaped(), **FSDP, **STEP), EIGHT)

    assert told.tokens_of(told=500, untold_steps=1, steps=3) == 500 + 77
    assert told.counted_beside(told=500, untold_steps=1, steps=3) is None


@pytest.mark.parametrize(("share", "differs"), [(0.4, True), (0.6, False), (1.9, False), (2.1, True)])
def test_declared_tokens_far_from_the_first_batch_are_a_difference(share, differs):
    first = 2 * 3 * 8 * 256
    declared = Declared(tokens_per_step=round(share * first) + 1)

    effective = resolve(None, declared, detected(shaped(), **FSDP, **STEP), EIGHT)

    assert any(sentence.startswith("tokens_per_step") for sentence in effective.differences) == differs


def test_tokens_of_a_step_that_were_said_have_no_range():
    plan = planned()
    seen = {
        **STEP,
        "training__seq_len": plan.training.seq_len,
        "layout__micro_batch_size": plan.training.global_batch_size // 8,
        "training__micro_batches": 1,
    }
    agreed = resolve(plan, Declared(), detected(shaped(), **FSDP, **seen), EIGHT)
    declared = resolve(None, Declared(tokens_per_step=77), detected(shaped(), **FSDP, **STEP), EIGHT)

    said = agreed.fields["tokens_per_step"]["source"]
    assert said.startswith(
        "as planned, and as the first step's batch shows; a smaller one, such as the last of an epoch"
    )
    assert agreed.tokens_per_step == plan.training.tokens_per_step
    assert "low" not in agreed.fields["tokens_per_step"]
    assert (declared.tokens_per_step, declared.fields["tokens_per_step"]["source"]) == (77, "declared: tokens_per_step")


def test_planned_adapters_and_narrow_weights_fall_away_where_the_job_trains_all_weights():
    frozen = msgspec.structs.replace(MODEL, trainable_fraction=0.01, adapters="attention", frozen_bits=4)
    plan = msgspec.structs.replace(planned(dp_shard=8, zero_stage=3), model=frozen)
    effective = resolve(plan, Declared(), detected(shaped(), **FSDP, **STEP), EIGHT)

    assert (effective.spec.model.adapters, effective.spec.model.frozen_bits) == (None, 16)
    assert effective.fields["model.adapters"]["source"] == "the job trains all parameters"
