"""Define the results of a prediction: time with a breakdown that adds up, memory, power, and what was assumed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.numbers.figure import Assumption, Figure

AccuracyClass = Literal[
    "calibrated",
    "probed",
    "sustained_law",
    "low_precision",
    "moe",
    "moe_ordinary",
    "host_bound",
    "ordinary",
    "counted",
    "unvalidated",
]


class MemoryPrediction(Struct, frozen=True, kw_only=True):
    """Bytes on the fullest device by part. `parts_bytes` adds up to `total_bytes`.

    `fit_probability` is the probability that they fit, from the residuals of measured peaks; it is None in forecasts of
    earlier versions. `fits` says whether the device has as many bytes as are predicted.
    """

    parts_bytes: dict[str, float]
    total_bytes: float
    capacity_bytes: float
    fits: bool
    fit_probability: float | None = None

    @property
    def largest_part(self) -> str:
        """Return the name of the part that takes most bytes."""
        return max(self.parts_bytes, key=lambda part: self.parts_bytes[part])


class Activity(Struct, frozen=True, kw_only=True):
    """Shares of the step's time by what the device does. They add up to 1."""

    tensor: float
    memory: float
    link: float
    stall: float


class StepPrediction(Struct, frozen=True, kw_only=True):
    """Prediction of one optimizer step of the whole job.

    `breakdown_s` adds up to `step_time_s.value`. `mfu` counts the model's FLOPs (without recompute) and `hfu` the FLOPs
    that are really executed. Both are divided by `peak_flops` of `peak_dtype` times devices, and count attention as
    `attention_convention` says ("module's own": as the operations of a counted model compute it). `gpu_power_w` is the
    mean draw of one device during the step, `gpu_energy_per_step_j` the energy of all devices over one step. `low` and
    `high` of figures are p10 and p90, and `step_time_95_s` is the 95 % interval; those of the step time come from the
    residuals of `accuracy_class`.
    """

    step_time_s: Figure
    step_time_95_s: tuple[float, float]
    breakdown_s: dict[str, float]
    tokens_per_s_per_device: float
    model_flops_per_step: float
    hardware_flops_per_step: float
    mfu: float
    hfu: float
    peak_flops: float
    peak_dtype: str
    attention_convention: Literal["causal", "full", "module's own"]
    micro_batches: int
    memory: MemoryPrediction
    gpu_power_w: Figure
    gpu_energy_per_step_j: Figure
    accuracy_class: AccuracyClass
    activity: Activity | None = None
    assumptions: tuple[Assumption, ...] = ()
