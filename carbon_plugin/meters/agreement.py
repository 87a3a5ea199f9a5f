"""Whether the energy counter of a device and its power tell the same, as far as samples of the power can say."""

from __future__ import annotations

from math import sqrt

from msgspec import Struct

LEAST_SAMPLES = 4
LEAST_S = 3.0
"""Fewer samples, or a shorter time, say nothing about how power varies between them."""

TOLERANCE = 0.15
"""Relative difference that the errors of both sensors explain together (our convention)."""

SIGMAS = 3.0
"""How many standard errors of the sampled power are no contradiction (our convention)."""


class Agreement(Struct, frozen=True):
    """Sums over the stretches for which both are known: energy counted, energy by power times time, and what is needed
    for the error of the second: samples of power with their mean and spread, and the squares of the stretches."""

    counted_j: float = 0.0
    power_j: float = 0.0
    seconds: float = 0.0
    samples: int = 0
    mean_w: float = 0.0
    squares_w2: float = 0.0
    squares_s2: float = 0.0

    def observe(
        self, elapsed_s: float, counted_j: float, mean_power_w: float | None, power_w: float | None
    ) -> Agreement:
        """One more stretch; nothing where no power is known. Welford's running variance of the power."""
        if mean_power_w is None or power_w is None:
            return self
        samples = self.samples + 1
        distance_w = power_w - self.mean_w
        mean_w = self.mean_w + distance_w / samples
        return Agreement(
            counted_j=self.counted_j + counted_j,
            power_j=self.power_j + mean_power_w * elapsed_s,
            seconds=self.seconds + elapsed_s,
            samples=samples,
            mean_w=mean_w,
            squares_w2=self.squares_w2 + distance_w * (power_w - mean_w),
            squares_s2=self.squares_s2 + elapsed_s**2,
        )

    @property
    def contradicts(self) -> bool:
        """Whether the two differ by more than their sensors' errors and the few samples of power explain.

        A load that varies between two samples makes the second wrong by up to its own spread in every stretch, so that
        power which varies can contradict nothing soon.
        """
        if self.samples < LEAST_SAMPLES or self.seconds < LEAST_S:
            return False
        spread_w = sqrt(self.squares_w2 / (self.samples - 1))
        allowed_j = TOLERANCE * max(self.power_j, self.counted_j) + SIGMAS * spread_w * sqrt(self.squares_s2)
        return abs(self.counted_j - self.power_j) > allowed_j
