"""Hold a run over time, downsampled for charts."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.ledger.records import Phase
from carbon_plugin.spec.metered import Rung


class StepSeries(Struct, frozen=True, kw_only=True):
    """The step time over the run, downsampled to the mean of the steps in each bin. `at_s` is the middle of the bin,
    from the start."""

    at_s: list[float]
    measured_s: list[float]
    predicted_s: list[float | None]


class Series(Struct, frozen=True, kw_only=True):
    """The run over time, downsampled to equal bins of `width_s` from the start on.

    It holds the energy by rung (J), the mean power of a few single GPUs while they were read (W, None where they were
    not), the operational carbon (kg), and the energy of the IT rungs by phase (J).
    """

    width_s: float
    rung_energy_j: dict[Rung, list[float]]
    gpu_power_w: dict[str, list[float | None]]
    operational_kg: list[float]
    steps: StepSeries
    phase_energy_j: dict[Phase, list[float]] = {}
