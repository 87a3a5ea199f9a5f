"""What a prediction says: time with a breakdown that adds up, memory with its parts, power, and what was assumed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.figure import Assumption, Figure

AccuracyClass = Literal[
    "calibrated", "probed", "sustained_law", "low_precision", "moe", "host_bound", "ordinary", "counted", "unvalidated"
]


class MemoryPrediction(Struct, frozen=True, kw_only=True):
    """Bytes on the fullest device, by part; `parts_bytes` adds up to `total_bytes`. `fit_probability` says how likely
    they fit by the residuals of measured peaks, and `fits` whether that is likely (`fit.LEAST_FIT_PROBABILITY`); None
    in forecasts of earlier versions."""

    parts_bytes: dict[str, float]
    total_bytes: float
    capacity_bytes: float
    fits: bool
    fit_probability: float | None = None

    @property
    def largest_part(self) -> str:
        """The part that takes most."""
        return max(self.parts_bytes, key=lambda part: self.parts_bytes[part])


class Activity(Struct, frozen=True, kw_only=True):
    """Shares of the step's time by what the device does; they add up to 1."""

    tensor: float
    memory: float
    link: float
    stall: float


class StepPrediction(Struct, frozen=True, kw_only=True):
    """One optimizer step of the whole job.

    `breakdown_s` adds up to `step_time_s.value`. `mfu` counts the model's FLOPs (no recompute) and `hfu` the
    FLOPs really executed, both over `peak_flops` of `peak_dtype` times devices, with attention counted as
    `attention_convention` says ("module's own": as the operations of a counted model compute it). `gpu_power_w` is the
    mean draw of one device during the step; `gpu_energy_per_step_j` that of all devices over one step. `low`/`high` of
    figures are p10/p90, `step_time_95_s` the 95 % interval, both from the residuals of `accuracy_class`.
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
