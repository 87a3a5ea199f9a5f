"""The forecast of a whole run, frozen before launch: time, energy by rung, carbon, cost, and every assumption."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.footprint.account import Factors, Footprint
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.run import RunSpec

FORECAST_VERSION = 1


class Forecast(Struct, frozen=True, kw_only=True):
    """What `plan` writes and a run carries.

    `run_time_s` covers training steps and the stated overhead; `device_hours` is devices times that.
    `footprint` has energy by rung, operational and embodied carbon. `seed` reproduces its sampling.
    """

    version: int
    created_unix_s: float
    plugin_version: str
    spec: RunSpec
    prediction: StepPrediction
    total_steps: int
    run_time_s: Figure
    device_hours: Figure
    footprint: Footprint
    factors: Factors
    cost_usd: Figure | None
    layout_source: str
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]
    seed: int
