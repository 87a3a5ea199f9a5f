"""Read the measured step time of a published row.

It is stated, or computed from a stated rate with the row's own FLOP convention.
"""

from __future__ import annotations

from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.amounts import number, quantity
from carbon_plugin.spec.numbers.units import FLOP_RATE_UNITS
from carbon_plugin.spec.training import TrainingPlan

RATES = ("tflops_per_gpu", "mfu_pct", "hfu_pct")


def row_step_time_s(
    row: Fields,
    model: TransformerModel,
    cluster: Cluster,
    training: TrainingPlan,
    layout: ParallelLayout,
    assumed: list[str],
) -> float:
    """Return the measured seconds per step.

    A stated step time comes first, then tokens/s per device or in all, then sequences/s, then FLOP/s per device, MFU or
    HFU. What was assumed of a
    FLOP convention is appended to `assumed`. Raises `SpecError` naming what is missing.
    """
    derived = row.mapping("derived")
    if row.states("step_time_s"):
        return row.number("step_time_s")
    # A derived step time is the source's own arithmetic for this batch. Where the batch itself is assumed, tokens/s are
    # used.
    if derived.states("step_time_s") and row.states("gbs"):
        return derived.number("step_time_s")
    for fields in (row, derived):
        if (step_s := _of_counted(fields, cluster, training)) is not None:
            return step_s
    if derived.states("step_time_s"):
        return derived.number("step_time_s")
    if not row.states(*RATES):
        raise MissingFieldError("step_time_s")
    hardware = "hardware" in row.text("tflops_kind") or not row.states("tflops_per_gpu", "mfu_pct")
    flops = _flops(row, model, training, layout, assumed, hardware=hardware)
    return flops / (_achieved_flops(row, cluster, training, assumed) * cluster.devices)


def _of_counted(fields: Fields, cluster: Cluster, training: TrainingPlan) -> float | None:
    """Return the seconds of a step of which tokens/s or sequences/s are stated, or None where neither is."""
    for name, done in (
        ("tokens_per_s_per_gpu", training.tokens_per_step / cluster.devices),
        ("tokens_per_s_total", training.tokens_per_step),
        ("samples_per_s", training.global_batch_size),
    ):
        if fields.states(name):
            return done / fields.number(name)
    return None


def check_possible(
    row: Fields,
    model: TransformerModel,
    cluster: Cluster,
    training: TrainingPlan,
    layout: ParallelLayout,
    step_s: float,
) -> None:
    """Raise `SpecError` where the step would take more FLOP/s than the device's peak.

    In that case the device or another setting differs from what the row states. Recomputed FLOPs count where the row
    states recompute.
    """
    from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
    from carbon_plugin.predict.flops import step_flops
    from carbon_plugin.predict.rates.laws import peak_of
    from carbon_plugin.spec.stack import Stack

    counts = step_flops(shape_of(model), layout_of(layout), work_of(training, Stack()))
    needed = float(counts[1 if row.states("recompute") else 0]) / step_s / cluster.devices
    dtype, peak = peak_of(cluster.accelerator, training.precision)
    if needed > peak.value:
        most = f"the {dtype} peak of {cluster.accelerator.name}, {quantity(peak.value, FLOP_RATE_UNITS)}"
        raise SpecError(
            f"a step of {number(step_s, 4)} s takes {quantity(needed, FLOP_RATE_UNITS)} a device, expected at most "
            f"{most}: device, batch or recompute is another"
        )


def _achieved_flops(row: Fields, cluster: Cluster, training: TrainingPlan, assumed: list[str]) -> float:
    if row.states("tflops_per_gpu"):
        return row.number("tflops_per_gpu") * 1e12
    peaks = cluster.accelerator.peak_flops
    dtype = "bf16" if "bf16" in peaks else "fp16"
    if training.precision not in ("bf16", "fp16"):
        assumed.append(f"mfu over the {dtype} peak")
    share = row.number("mfu_pct") if row.states("mfu_pct") else row.number("hfu_pct")
    return share / 100 * peaks[dtype].value


def _flops(
    row: Fields,
    model: TransformerModel,
    training: TrainingPlan,
    layout: ParallelLayout,
    assumed: list[str],
    *,
    hardware: bool,
) -> float:
    """Return the FLOPs of a step as the row counts them: model or hardware FLOPs, with causal or full attention."""
    from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
    from carbon_plugin.predict.flops import layer_forward_flops, step_flops
    from carbon_plugin.spec.stack import Stack

    shape, work = shape_of(model), work_of(training, Stack())
    counted = float(step_flops(shape, layout_of(layout), work)[1 if hardware else 0])
    if not row.states("attn_flops"):
        assumed.append("attn_flops full")
    if "causal" not in row.text("attn_flops"):
        attention = float(layer_forward_flops(shape, work)[1]) * training.global_batch_size
        counted += attention * (4 if hardware and layout.recompute == "full" else 3)
    return counted
