"""Define a run over time, downsampled for charts."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.ledger.records import Phase
from carbon_plugin.spec.metered import Rung


class StepSeries(Struct, frozen=True, kw_only=True):
    """The step time over the run as the mean of the steps in each bin. `at_s` is the middle of the bin, from the start.
    `lowest_s` and `highest_s` are the means of the fastest and of the slowest span in the bin.
    """

    at_s: list[float]
    measured_s: list[float]
    predicted_s: list[float | None]
    lowest_s: list[float | None] = []
    highest_s: list[float | None] = []


class Series(Struct, frozen=True, kw_only=True):
    """The run over time, downsampled to equal bins of `width_s` from the start on.

    It holds the energy by rung (J), the mean power of a few single GPUs while they were read (W, None where they were
    not), the operational carbon (kg), and the energy of the IT rungs by phase (J).

    What a mean over a bin hides is kept beside it: the lowest and the highest power of all machines (W) at moments
    `power_every_s` apart, of the same GPUs in a window (W), and of the grid intensity in a window (g/kWh).
    `grid_by_hour_g_per_kwh` is the mean grid intensity in each hour of the day, UTC, None for hours of which nothing is
    known; it is empty where the intensity does not change with time. `grid_by_hour_from` says where it is from.
    """

    width_s: float
    rung_energy_j: dict[Rung, list[float]]
    gpu_power_w: dict[str, list[float | None]]
    operational_kg: list[float]
    steps: StepSeries
    phase_energy_j: dict[Phase, list[float]] = {}
    power_every_s: float = 1.0
    power_low_w: list[float] = []
    power_high_w: list[float] = []
    gpu_low_w: dict[str, list[float | None]] = {}
    gpu_high_w: dict[str, list[float | None]] = {}
    intensity_low_g_per_kwh: list[float | None] = []
    intensity_high_g_per_kwh: list[float | None] = []
    grid_by_hour_g_per_kwh: list[float | None] = []
    grid_by_hour_from: str = ""
