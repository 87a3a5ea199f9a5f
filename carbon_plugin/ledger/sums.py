"""Add up the windows of one ledger file: the totals that its closing record states and the verification recomputes."""

from __future__ import annotations

import numpy as np

from carbon_plugin.ledger.columns import WindowColumns, sum_onto
from carbon_plugin.ledger.records import Sums, Window
from carbon_plugin.spec.numbers.range_array import Floats


class RunningSums:
    """Keeps totals over the windows of a file, which are added in their order. Ranges are those of the meters. An
    energy without a range counts as its own bounds.
    """

    def __init__(self) -> None:
        self.windows = 0
        self.steps = 0
        self.energy_j = 0.0
        self._tokens = 0
        self._duration_s = self._low_j = self._high_j = self._estimated_j = self._emitting = 0.0

    def add(self, window: Window) -> None:
        """Add the next window."""
        energy_j = low_j = high_j = estimated_j = 0.0
        for energy in window.energies:
            central_j, least_j, most_j = energy.energy_j, energy.low_j, energy.high_j
            if central_j is None:
                continue
            energy_j += central_j
            low_j += central_j if least_j is None else least_j
            high_j += central_j if most_j is None else most_j
            if energy.estimated_j:
                estimated_j += energy.estimated_j
        self.windows += 1
        self.steps += window.steps
        self.energy_j += energy_j
        self._tokens += window.tokens
        self._duration_s += window.duration_s
        self._low_j += low_j
        self._high_j += high_j
        self._estimated_j += estimated_j
        if window.pue is not None and window.intensity_g_per_kwh is not None:
            self._emitting += energy_j * window.pue * window.intensity_g_per_kwh

    def add_all(self, windows: WindowColumns) -> None:
        """Add the next windows. The totals are the same to the last bit as if `add` had added them one by one."""
        known = ~np.isnan(windows.energy_j)
        central_j = np.where(known, windows.energy_j, 0.0)
        energy_j = _over_devices(central_j)
        self.windows += len(windows)
        self.steps += int(windows.steps.sum())
        self.energy_j = sum_onto(self.energy_j, energy_j)
        self._tokens += sum(windows.tokens)
        self._duration_s = sum_onto(self._duration_s, windows.duration_s)
        for name, bounds_j in (("_low_j", windows.low_j), ("_high_j", windows.high_j)):
            stated_j = np.where(known & ~np.isnan(bounds_j), bounds_j, central_j)
            setattr(self, name, sum_onto(getattr(self, name), _over_devices(stated_j)))
        estimated_j = np.where(known, np.nan_to_num(windows.estimated_j), 0.0)
        self._estimated_j = sum_onto(self._estimated_j, _over_devices(estimated_j))
        emitting = energy_j * windows.pue * windows.intensity_g_per_kwh
        self._emitting = sum_onto(self._emitting, emitting[~np.isnan(emitting)])

    @property
    def sums(self) -> Sums:
        """Return the totals beside the energy."""
        return Sums(
            tokens=self._tokens,
            duration_s=self._duration_s,
            low_j=self._low_j,
            high_j=self._high_j,
            estimated_j=self._estimated_j,
            emitting=self._emitting,
        )


def _over_devices(values: Floats) -> Floats:
    """Return the sum over devices of each window, added in the order of the devices."""
    sums = np.zeros(values.shape[1])
    for row in values:
        sums += row
    return sums
