"""Add up the windows of one ledger file: the totals that its closing record states and the verification recomputes."""

from __future__ import annotations

from carbon_plugin.ledger.records import Sums, Window


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
