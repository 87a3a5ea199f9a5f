"""Define what is remembered about a device between two samples of its counter and its power, and what a sample
contains.

`meters.advance` computes the energy from them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.meters.agreement import Agreement
from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range import Range

COUNTER_SPREAD = 0.05
"""The proportional device error of the NVML energy counter as p10-p90 (arXiv 2312.02741: about 5 %, proportional)."""

MEAN_POWER_SPREAD = 0.07
"""The error of an integrated trailing-mean power: the device's 5 % and as much again for sampling, in quadrature (our
convention).
"""

INSTANT_POWER_SPREAD = 0.10
"""The error of an integrated instantaneous power, which sees only about 25 % of the time (arXiv 2312.02741); the range
is our convention.
"""

POLL_S = 1.0
"""The longest interval between two power samples for which integration is right: the trailing mean covers 1 s."""

STUCK_AFTER_S = 2.0
"""A counter normally steps about every 100 ms; one that stands still for this long while power flows is not trusted."""

Averaging = Literal["instant", "trailing_mean"]


class Sample(Struct, frozen=True, kw_only=True):
    """One sample holds what a device told at one moment: joules on its counter and watts, each None where
    it told none.

    `late_s` is how long before `monotonic_s` the counter may have been read: a process that is stopped, or waits for a
    core, between its call and the look at the clock has an older value than it says.
    """

    monotonic_s: float
    counter_j: float | None
    power_w: float | None
    late_s: float = 0.0


class Traits(Struct, frozen=True, kw_only=True):
    """One instance holds what must be known of a device to interpret its samples.

    `bounds` are what it can draw, `averaging` says what its power reading means. The others are those of a GPU unless
    stated: the longest interval for which integration is right, how long a counter may stand still under power, and
    relative half-ranges.
    """

    bounds: Bounds
    averaging: Averaging
    poll_s: float = POLL_S
    stuck_after_s: float = STUCK_AFTER_S
    counter_spread: float = COUNTER_SPREAD
    stated_power_spread: float | None = None

    @property
    def power_spread(self) -> float:
        """Return the relative half-range of integrated power."""
        if self.stated_power_spread is not None:
            return self.stated_power_spread
        return MEAN_POWER_SPREAD if self.averaging == "trailing_mean" else INSTANT_POWER_SPREAD


class Moving(Struct, frozen=True):
    """One instance holds where the stretch began in which the counter last moved: the time, the energy and the power
    then.
    """

    from_s: float
    energy: Range
    power_w: float | None


class Track(Struct, frozen=True, kw_only=True):
    """One track holds everything that is remembered of a device between two samples.

    `accounted_s` is the moment up to which `energy` is complete, but for `forfeited_s` seconds of which nothing is
    known and which no counter will cover. `counter_j` is the last counter value, `moved_s` the time when it last moved,
    and `counted` the energy at that value. `agreement` compares the counter with the power.
    The counter may have been read up to `late_s` before `moved_s`.
    """

    energy: Range
    started_s: float
    accounted_s: float
    power_w: float | None
    counter_j: float | None
    counted: Range
    moved_s: float
    moving: Moving | None = None
    forfeited_s: float = 0.0
    late_s: float = 0.0
    agreement: Agreement = Agreement()

    @property
    def covered_s(self) -> float:
        """Return how many seconds since the first sample `energy` covers."""
        return self.accounted_s - self.started_s - self.forfeited_s

    def covered_at(self, monotonic_s: float, kind: EnergyKind) -> float:
        """Return how many seconds since the first sample `energy` covers at a moment after the last sample.

        A counter that has not stepped since still covers all of the time up to then.
        """
        return self.covered_s if kind == "absent" else monotonic_s - self.started_s - self.forfeited_s


class Step(Struct, frozen=True, kw_only=True):
    """One step holds a track after one more sample.

    `energy` is the track's energy as it may be stated, `kind` says how the stretch was obtained, and `fault` is a fault
    code with its sentence, if any.
    """

    track: Track
    energy: Range
    kind: EnergyKind
    fault: str | None = None
    message: str | None = None
