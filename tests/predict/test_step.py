"""The prediction of one step: golden measurements, feasibility, units, intervals and what is assumed."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty.interval import spread_of
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.run import RunSpec

GPT3 = {
    "model": "gpt3-175b",
    "cluster": {"accelerator": "a100-sxm-80gb", "nodes": 8},
    "layout": {
        "tp": 8,
        "pp": 8,
        "virtual_stages": 3,
        "pipeline_schedule": "interleaved",
        "recompute": "full",
        "recompute_reentrant": True,
    },
    "training": {"seq_len": 2048, "global_batch_size": 64, "steps": 1, "precision": "fp16"},
    "stack": "megatron-lm-2021",
    "site": {"zone": "FRA"},
}


COUNTED = {
    "type": "counted",
    "parameters": 25_000_000,
    "trainable_parameters": 25_000_000,
    "forward_flops_per_sample": 8.2e9,
    "activation_bytes_per_sample": 9e7,
    "seq_len": 2048,
    "kernels": 320,
}


def spec_of(**changes: object) -> RunSpec:
    return build_run_spec({**GPT3, **changes}, origin="test")


def test_gpt3_on_64_a100_takes_what_korthikanti_measured() -> None:
    # arXiv 2205.05198, table 5: 18.13 s a step with full recompute, 13.75 s with selective and sequence parallel.
    full = predict_step(spec_of())
    assert full.step_time_s.value == pytest.approx(18.13, rel=0.06)
    layout = {**GPT3["layout"], "recompute": "selective", "sequence_parallel": True}
    selective = predict_step(spec_of(layout=layout))
    assert selective.step_time_s.value == pytest.approx(13.75, rel=0.08)


def test_mfu_is_the_share_of_peak_that_the_models_flops_take() -> None:
    prediction = predict_step(spec_of())
    peak = 64 * 312e12
    assert prediction.mfu == pytest.approx(
        prediction.model_flops_per_step / prediction.step_time_s.value / peak, rel=1e-12
    )
    assert 1.3 < prediction.hfu / prediction.mfu < 1.34  # full recompute repeats a third


def test_device_power_lies_between_idle_and_the_limit_and_energy_is_power_times_time() -> None:
    prediction = predict_step(spec_of())
    assert 71 < prediction.gpu_power_w.low < prediction.gpu_power_w.value <= prediction.gpu_power_w.high <= 400
    energy = prediction.gpu_power_w.value * prediction.step_time_s.value * 64
    assert prediction.gpu_energy_per_step_j.value == pytest.approx(energy)


def test_the_class_of_the_prediction_sets_its_interval() -> None:
    calibrated = predict_step(spec_of())
    uncalibrated = predict_step(
        spec_of(
            cluster={"accelerator": "mi355x", "nodes": 8}, stack="tuned", layout={"tp": 8, "pp": 8, "recompute": "full"}
        )
    )
    assert calibrated.accuracy_class == "calibrated"
    assert uncalibrated.accuracy_class == "sustained_law"

    def width(prediction) -> float:
        return (prediction.step_time_s.high - prediction.step_time_s.low) / prediction.step_time_s.value

    assert width(uncalibrated) > width(calibrated)
    assert any("gemm_share" in item.field for item in uncalibrated.assumptions)


@pytest.mark.parametrize(
    ("layout", "rule"),
    [
        (
            {"tp": 8, "cp": 1, "pp": 4, "dp_replicate": 1, "dp_shard": 1},
            r"= 32 ranks, but the cluster has 8 nodes \* 8 devices = 64",
        ),
        ({"tp": 64}, "tp 64 does not divide the model's heads 96"),
        ({"pp": 64, "virtual_stages": 2, "pipeline_schedule": "interleaved"}, "128 chunks, but gpt3-175b has only 96"),
        ({"dp_replicate": 64, "virtual_stages": 2, "pipeline_schedule": "interleaved"}, "2 needs pp above 1, got pp 1"),
        ({"dp_replicate": 64, "pipeline_rounds": 2}, "pipeline_rounds 2 needs pp above 1, got pp 1"),
        (
            {"tp": 8, "pp": 2, "dp_replicate": 4, "pipeline_rounds": 3},
            "3 does not divide .* 16 .* 1, 2, 4, 8 or 16",
        ),
        ({"dp_replicate": 64, "expert_overlap": True}, "expert_overlap, but gpt3-175b has no experts"),
        ({"dp_replicate": 64, "ep": 8}, "ep 8, but gpt3-175b has no experts"),
        ({"tp": 8, "dp_replicate": 8, "micro_batch_size": 3}, "global_batch_size 64 is not a multiple of dp 8"),
    ],
)
def test_an_impossible_layout_names_the_rule_and_the_numbers(layout, rule) -> None:
    with pytest.raises(InfeasibleLayoutError, match=rule):
        predict_step(spec_of(layout=layout))


def test_block_scaled_precision_needs_units_that_scale_blocks() -> None:
    training = {"seq_len": 2048, "global_batch_size": 64, "steps": 1, "precision": "mxfp8"}
    run = {"model": "gpt3-5b", "training": training, "layout": {"dp_shard": 8, "zero_stage": 3}, "stack": {}}
    hopper, blackwell = (spec_of(**run, cluster={"accelerator": name, "nodes": 1}) for name in ("h100-sxm", "b200-sxm"))

    assert predict_step(blackwell).peak_dtype == "fp8"
    with pytest.raises(SpecError, match="precision mxfp8 is not supported by h100-sxm"):
        predict_step(hopper)


@pytest.mark.parametrize(
    ("accelerator", "precision", "has"),
    [
        ("v100", "bf16", "fp16, fp32"),
        ("v100", "tf32", "fp16, fp32"),
        ("t4", "bf16", "fp16, fp32"),
        ("a100-sxm-80gb", "fp8", "bf16, fp16, tf32, fp32"),
        ("h100-sxm", "nvfp4", "bf16, fp16, tf32, fp32, fp8"),
        ("mi250x", "tf32", "bf16, fp16, fp32"),
        ("tpu-v4", "fp16", "bf16"),
    ],
)
def test_a_precision_that_the_device_lacks_is_an_error_that_lists_what_it_has(accelerator, precision, has) -> None:
    training = {**GPT3["training"], "precision": precision}
    run = spec_of(training=training, cluster={"accelerator": accelerator, "nodes": 64, "devices_per_node": 1})

    with pytest.raises(SpecError) as refused:
        predict_step(run)

    device = run.cluster.accelerator.name
    assert str(refused.value).endswith(f"precision {precision} is not supported by {device}; it has {has}")


@pytest.mark.parametrize(
    ("section", "changes", "field", "value"),
    [
        (
            "training",
            {"optimizer_offload": True},
            "training.optimizer_offload",
            "41 GB/s of host memory, 25 GB/s of link a device",
        ),
        ("training", {"optimizer": "muon"}, "training.optimizer", "5 Newton-Schulz iterations"),
        ("cluster", {"power_cap_w": 300}, "cluster.power_cap_w", "92 %"),
        ("cluster", {}, "a100-sxm-80gb.sustained_power_w", "380"),
    ],
)
def test_a_number_that_no_field_gives_is_among_the_assumptions(section, changes, field, value) -> None:
    found = predict_step(spec_of(**{section: {**GPT3[section], **changes}})).assumptions

    assert (field, value) in {(item.field, item.value) for item in found}


def test_a_counted_model_with_states_on_the_host_waits_for_it() -> None:
    here, on_host = (
        predict_step(
            spec_of(
                model=COUNTED,
                layout={"dp_replicate": 64},
                training={**GPT3["training"], "optimizer_offload": offload},
            )
        )
        for offload in (False, True)
    )

    # Adam in fp32: 44 bytes a parameter through host memory at 41 GB/s and 6 over the link at 25 GB/s.
    assert on_host.breakdown_s["offload"] == pytest.approx(25e6 * (44 / 41e9 + 6 / 25e9))
    assert "offload" not in here.breakdown_s
    assert "optimizer" not in on_host.memory.parts_bytes


def test_a_counted_model_of_frozen_parts_takes_the_time_of_the_backward_pass_that_was_counted() -> None:
    forward = COUNTED["forward_flops_per_sample"]
    old, whole, frozen = (
        predict_step(spec_of(model={**COUNTED, **more}, layout={"dp_replicate": 64}, stack={}))
        for more in ({}, *({"backward_flops_per_sample": factor * forward} for factor in (2, 0.5)))
    )

    assert whole.model_flops_per_step == pytest.approx(old.model_flops_per_step)
    assert whole.breakdown_s == pytest.approx(old.breakdown_s)
    assert frozen.model_flops_per_step == pytest.approx(old.model_flops_per_step / 2)
    assert frozen.breakdown_s["matmul"] == pytest.approx(old.breakdown_s["matmul"] / 2)


def test_the_memory_of_a_counted_model_is_what_is_kept_and_its_time_what_is_moved() -> None:
    old, new = (
        predict_step(spec_of(model={**COUNTED, **more}, layout={"dp_replicate": 64}, stack={}))
        for more in ({}, {"saved_bytes_per_sample": 4e7})
    )

    assert old.memory.parts_bytes["activations"] == 9e7
    assert new.memory.parts_bytes["activations"] == 4e7
    assert old.breakdown_s == new.breakdown_s
    said = [{(item.field, item.value) for item in prediction.assumptions} for prediction in (old, new)]
    assert ("model.saved_bytes_per_sample", "all results") in said[0]
    assert ("model.saved_bytes_per_sample", "as counted") in said[1]


def test_a_counted_model_moves_and_keeps_what_autocast_leaves_where_the_plan_computes_in_16_bit() -> None:
    narrow = {"autocast_activation_bytes_per_sample": 4.5e7, "autocast_saved_bytes_per_sample": 2e7}
    model = {**COUNTED, "saved_bytes_per_sample": 4e7}
    found = {
        (precision, bool(more)): predict_step(
            spec_of(
                model={**model, **more},
                layout={"dp_replicate": 64},
                stack={},
                training={**GPT3["training"], "precision": precision},
            )
        )
        for precision in ("fp32", "fp16", "bf16")
        for more in ({}, narrow)
    }

    for precision in ("fp16", "bf16"):
        old, new = found[precision, False], found[precision, True]
        assert (old.memory.parts_bytes["activations"], new.memory.parts_bytes["activations"]) == (4e7, 2e7)
        assert new.breakdown_s["elementwise"] < old.breakdown_s["elementwise"]
        assert "model.saved_bytes_per_sample" not in {item.field for item in new.assumptions}
    assert found["fp32", True].breakdown_s == found["fp32", False].breakdown_s
    assert found["fp32", True].memory == found["fp32", False].memory


@pytest.mark.parametrize(
    ("section", "changes", "field", "value"),
    [
        ("training", {**GPT3["training"], "optimizer": "muon"}, "training.optimizer", "no time to orthogonalise"),
        ("layout", {"dp_replicate": 64, "recompute": "operators"}, "layout.recompute", "nothing is repeated"),
        ("layout", {"dp_replicate": 64, "recompute": "full"}, "layout.recompute", "all activations are kept"),
    ],
)
def test_what_a_counted_model_cannot_tell_is_said(section, changes, field, value) -> None:
    base = {"model": COUNTED, "layout": {"dp_replicate": 64}, "stack": {}}
    found = predict_step(spec_of(**{**base, section: changes})).assumptions

    assert (field, value) in {(item.field, item.value) for item in found}


def test_a_counted_model_is_predicted_with_a_wide_range_and_refuses_tensor_parallelism() -> None:
    counted = CountedModel(
        name="resnet",
        parameters=25_000_000,
        trainable_parameters=25_000_000,
        forward_flops_per_sample=8.2e9,
        activation_bytes_per_sample=9e7,
        kernels=320,
        source="counted",
        seq_len=2048,
    )
    base = spec_of(layout={"dp_replicate": 64}, stack={})
    prediction = predict_step(msgspec.structs.replace(base, model=counted))
    assert prediction.accuracy_class == "counted"
    assert prediction.attention_convention == "module's own"
    assert prediction.step_time_s.high > 2 * prediction.step_time_s.low
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s.value)
    with pytest.raises(InfeasibleLayoutError, match="known only by its counted FLOPs"):
        predict_step(msgspec.structs.replace(spec_of(stack={}), model=counted))


MIXTURE = {
    "model": "mixtral-8x7b",
    "cluster": {"accelerator": "h100-sxm", "nodes": 1},
    "layout": {"dp_shard": 8, "zero_stage": 3, "recompute": "full"},
    "training": {"seq_len": 4096, "global_batch_size": 8, "steps": 1, "precision": "bf16"},
}


def test_ordinary_software_that_does_not_state_how_its_experts_run_has_a_range_up_to_that_of_a_loop() -> None:
    opened, grouped, looped = (
        predict_step(spec_of(**MIXTURE, stack=stack))
        for stack in ({}, {"expert_loop": False}, {"expert_loop": True, "token_counts": "host"})
    )

    assert opened.step_time_s.value == grouped.step_time_s.value < looped.step_time_s.value
    assert opened.step_time_s.low == pytest.approx(grouped.step_time_s.low)
    assert opened.step_time_s.high == pytest.approx(looped.step_time_s.high)
    assert opened.step_time_95_s == pytest.approx((grouped.step_time_95_s[0], looped.step_time_95_s[1]))
    (said,) = [item for item in opened.assumptions if item.field == "stack.expert_loop"]
    assert "true for a loop" in said.source
    assert "stack.expert_loop" in opened.step_time_s.source


@pytest.mark.parametrize("stack", [{"expert_loop": False}, {"expert_loop": True}, {"one_hot_dispatch": True}, "tuned"])
def test_nothing_is_assumed_of_experts_where_the_software_says_how_they_run(stack) -> None:
    found = predict_step(spec_of(**MIXTURE, stack=stack))

    assert "stack.expert_loop" not in {item.field for item in found.assumptions}
    assert "expert_loop" not in found.step_time_s.source


@pytest.mark.parametrize(
    ("ep", "stack", "taken"),
    [
        (8, {}, "0.3 of the mean load"),
        (8, "tuned", "0 of the mean load"),
        (8, {"routing_spread": 0.3}, None),
        (8, {"static_dispatch": True}, None),
        (1, {}, None),
    ],
)
def test_how_equal_the_loads_of_ranks_are_taken_to_be_is_said_where_nobody_states_it(ep, stack, taken) -> None:
    layout = {**MIXTURE["layout"], "ep": ep}
    found = predict_step(spec_of(**{**MIXTURE, "layout": layout}, stack=stack))

    said = [item.value for item in found.assumptions if item.field == "stack.routing_spread"]
    assert said == ([taken] if taken else [])


def test_a_dense_model_has_no_experts_to_assume_anything_of() -> None:
    found = predict_step(spec_of(stack={}))

    assert not {"stack.expert_loop", "stack.routing_spread"} & {item.field for item in found.assumptions}


@pytest.mark.parametrize(
    ("stack", "kind"), [("megatron-core", "moe"), ({}, "moe_ordinary"), ("deepspeed", "moe_ordinary")]
)
def test_mixtures_of_experts_are_less_certain_in_ordinary_software(stack, kind) -> None:
    found = predict_step(spec_of(**MIXTURE, stack=stack))

    assert found.accuracy_class == kind
    wide, narrow = (spread_of(name) for name in ("moe_ordinary", "moe"))
    assert wide.p10 < narrow.p10 < narrow.p90 < wide.p90


def scored(length: int | None) -> RunSpec:
    training = {**GPT3["training"], "scored_len": length}
    return spec_of(training=training, layout={"tp": 8, "pp": 1}, cluster={**GPT3["cluster"], "nodes": 1})


def test_a_head_of_some_tokens_takes_their_share_of_time_and_of_logits() -> None:
    whole, part = (predict_step(scored(length)) for length in (None, 512))
    # The table and the gradient of the head are as large as before.
    assert 1 / 4 < part.breakdown_s["head"] / whole.breakdown_s["head"] < 0.4
    assert part.memory.parts_bytes["logits"] == pytest.approx(whole.memory.parts_bytes["logits"] / 4)
    head = 2 * 64 * 2048 * 51200 * 12288 * 3
    assert whole.model_flops_per_step - part.model_flops_per_step == pytest.approx(head * 3 / 4, rel=0.02)
    assert part.memory.parts_bytes["parameters"] == whole.memory.parts_bytes["parameters"]


def test_more_tokens_with_a_head_than_a_sequence_has_are_refused() -> None:
    with pytest.raises(SpecError, match="scored_len is 4096, expected at most seq_len 2048"):
        scored(4096)
