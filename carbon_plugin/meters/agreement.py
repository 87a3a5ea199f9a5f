"""Compare the energy counter of a device with its power, as far as samples of the power allow."""

from __future__ import annotations

from math import sqrt

from msgspec import Struct

LEAST_SAMPLES = 4
LEAST_S = 3.0
"""With fewer samples, or in a shorter time, nobody can say how power varies between them."""

TOLERANCE = 0.15
"""The relative difference that the errors of both sensors explain together (our convention)."""

SIGMAS = 3.0
"""The number of standard errors of the sampled power up to which a difference is no contradiction (our convention)."""


class Agreement(Struct, frozen=True):
    """One instance holds sums over the stretches of time for which both the counter and the power are known.

    These are the energy counted, the energy by power times time, and what the error of the second needs: the number of
    power samples with their mean and spread, and the squares of the stretches.
    """

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
        """Return the sums with one more stretch, or the same sums where no power is known.

        The variance of the power is a running one (Welford).
        """
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
        """Return whether the two differ by more than the errors of their sensors and the small number of power samples
        explain.

        A load that varies between two samples makes the energy by power wrong by up to its own spread in every stretch,
        so that a power which varies does not contradict the counter soon.
        """
        if self.samples < LEAST_SAMPLES or self.seconds < LEAST_S:
            return False
        spread_w = sqrt(self.squares_w2 / (self.samples - 1))
        allowed_j = TOLERANCE * max(self.power_j, self.counted_j) + SIGMAS * spread_w * sqrt(self.squares_s2)
        return abs(self.counted_j - self.power_j) > allowed_j
