"""Define how a run compares with its prediction and with its forecast from before launch."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.footprint.values import Footprint
from carbon_plugin.spec.numbers.figure import Figure

Cause = Literal["spec drift", "step time", "power", "run length", "coverage", "grid", "waiting"]


class StepComparison(Struct, frozen=True, kw_only=True):
    """One comparison holds measured beside predicted values, over stretches between step boundaries of one node.

    The range of a measured value is the error at the boundaries, and the range of a predicted one is the model's p10 to
    p90. Energies are those of one step on the GPUs of that node. `basis` says which stretches were compared: spans that
    are long enough; short spans in a run without others; or training windows, which do not end at step boundaries
    (`spans` is then 0). Short spans and windows have a wider error.
    """

    steps: int
    spans: int
    node: int
    measured_step_time_s: Figure
    predicted_step_time_s: Figure | None
    measured_gpu_energy_per_step_j: float | None
    predicted_gpu_energy_per_step_j: float | None
    basis: Literal["spans", "short spans", "windows"] = "spans"


class ErrorPart(Struct, frozen=True, kw_only=True):
    """One cause of the forecast's error: the factor by which it changed operational carbon, and its part of the error
    in kg.
    """

    cause: Cause
    factor: float
    carbon_kg: float
    explanation: str

    @property
    def name(self) -> str:
        """Return the cause in words for a reader: that of the grid holds the PUE too, and that of the run's length all
        time in which no step was made, so that twice the steps without the planned start-up may be as long."""
        return {"grid": "grid and PUE", "run length": "run length with other time"}.get(self.cause, self.cause)


class ForecastComparison(Struct, frozen=True, kw_only=True):
    """One comparison holds the forecast from before launch beside the actual run.

    The factors of `parts` multiply to actual over forecast operational carbon. Their `carbon_kg` and `embodied_kg` add
    up to actual minus forecast total; `embodied_kg` is None where the manufacture of the hardware is unknown. The
    parts are empty, and `no_parts_reason` says why, where a split is not possible.
    """

    created_unix_s: float
    plugin_version: str
    run_time_s: Figure
    total_steps: int
    device_hours: Figure
    footprint: Footprint
    step_time_s: Figure
    parts: list[ErrorPart]
    embodied_kg: float | None
    no_parts_reason: str | None
