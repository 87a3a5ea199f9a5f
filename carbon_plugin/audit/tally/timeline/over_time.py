"""Add up a run over time for the charts of its report: energy and carbon in bins, with the lowest and highest values
that a mean over a bin hides, and the grid intensity by the hour of the day.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from carbon_plugin.audit.findings.series import Series, StepSeries
from carbon_plugin.audit.tally.sums.blocks import Metered, Places, RowBlock
from carbon_plugin.audit.tally.timeline.bins import TimeBins
from carbon_plugin.audit.tally.timeline.hours import GridHours
from carbon_plugin.audit.tally.timeline.peaks import PowerOverTime, without_seams
from carbon_plugin.ledger.records import Phase
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.range_array import Floats
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

_CARBON, _READ_S, _PHASE, _INTENSITY = "carbon", "read ", "phase ", "intensity"


class OverTime:
    """Holds amounts of a run over time. It can be merged with the amounts of other files that have the same origin."""

    def __init__(self, origin_unix_s: float) -> None:
        self.bins = TimeBins(origin_unix_s)
        self.power = PowerOverTime(origin_unix_s)
        self.hours = GridHours()

    def add(
        self,
        block: RowBlock,
        starts_s: Floats,
        metered: Metered,
        rungs: Sequence[Rung],
        charted: Collection[str],
        it_j: Floats,
        until_s: float,
    ) -> float:
        """Add a block of windows of a file, and return the end of the last one, Unix s.

        `starts_s` are the starts of the windows by the clock of rank 0, `it_j` is the energy of the IT rungs in each,
        and `until_s` is the end of the window before them. `rungs` are those of the metered devices. `charted` are
        devices whose own power is in a chart.
        """
        binned: dict[str, Floats] = {}
        rates = {_INTENSITY: block.intensity_g_per_kwh}
        lasted_s = np.where(block.duration_s > 0, block.duration_s, np.nan)
        for device, (key, rung) in enumerate(zip(metered.keys, rungs, strict=True)):
            energy_j, known = metered.energy.value[device], metered.known[device]
            binned[rung] = binned[rung] + energy_j if rung in binned else energy_j
            if key in charted:
                binned[key], binned[_READ_S + key] = energy_j, metered.seconds[device] * known
                rates[key] = np.where(known, energy_j / lasted_s, np.nan)
        for phase, chosen in block.phases().items():
            binned[_PHASE + phase] = it_j if chosen is None else _only_at(it_j, chosen)
        binned[_CARBON] = np.nan_to_num(it_j * block.pue * block.intensity_g_per_kwh / JOULES_PER_KWH)
        self.bins.add(starts_s, block.duration_s, binned, rates)
        self.hours.add(starts_s, block.duration_s, block.intensity_g_per_kwh)
        ends_s = starts_s + block.duration_s
        self.power.add(without_seams(starts_s, ends_s, until_s), ends_s, np.nan_to_num(it_j / lasted_s))
        return float(ends_s[-1])

    def merge(self, other: OverTime) -> None:
        """Add the amounts of other files."""
        self.bins.merge(other.bins)
        self.power.merge(other.power)
        self.hours.merge(other.hours)

    def series(
        self,
        *,
        rungs: Iterable[Rung],
        phases: Iterable[Phase],
        gpus: Collection[str],
        steps: StepSeries,
        wall_s: float,
    ) -> Series:
        """Return the series of a run that lasted `wall_s`, for these rungs and phases, and for single GPUs by key."""
        extremes = {key: self.bins.extremes(key) for key in gpus}
        power_low_w, power_high_w = self.power.extremes(self.bins.width_s, self.bins.count, wall_s)
        intensity_low, intensity_high = self.bins.extremes(_INTENSITY)
        by_hour, by_hour_from = self.hours.result()
        return Series(
            width_s=self.bins.width_s,
            rung_energy_j={rung: self.bins.values(rung) for rung in rungs},
            gpu_power_w={key: self._power_w(key) for key in gpus},
            operational_kg=[grams / GRAMS_PER_KG for grams in self.bins.values(_CARBON)],
            steps=steps,
            phase_energy_j={phase: self.bins.values(_PHASE + phase) for phase in phases},
            power_every_s=self.power.every_s,
            power_low_w=power_low_w,
            power_high_w=power_high_w,
            gpu_low_w={key: lows for key, (lows, _) in extremes.items()},
            gpu_high_w={key: highs for key, (_, highs) in extremes.items()},
            intensity_low_g_per_kwh=intensity_low,
            intensity_high_g_per_kwh=intensity_high,
            grid_by_hour_g_per_kwh=by_hour,
            grid_by_hour_from=by_hour_from,
        )

    def _power_w(self, key: str) -> list[float | None]:
        """Return the mean power of a GPU in each bin while it was read, W, or None for a bin in which it was not."""
        pairs: Iterable[tuple[float, float]] = zip(self.bins.values(key), self.bins.values(_READ_S + key), strict=True)
        return [energy_j / read_s if read_s > 0 else None for energy_j, read_s in pairs]


def _only_at(values: Floats, places: Places) -> Floats:
    """Return a copy of the values that is 0 except at some positions."""
    found = np.zeros_like(values)
    found[places] = values[places]
    return found
