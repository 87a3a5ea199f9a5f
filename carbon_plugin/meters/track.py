"""Energy of one device since it was first read, from samples of its counter and its power.

Pure functions on frozen values. A counter may go back, stand still, disappear and come back; energy never falls,
and each stretch says how it was obtained. Which calls produce a sample is the business of each meter.
"""

from __future__ import annotations

from math import inf
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.spec.devices import EnergyKind

COUNTER_SPREAD = 0.05
"""Proportional device error of the NVML energy counter as p10-p90 (arXiv 2312.02741: about 5 %, proportional)."""

MEAN_POWER_SPREAD = 0.07
"""Integrated trailing-mean power: the device's 5 % and as much again for sampling, in quadrature (our convention)."""

INSTANT_POWER_SPREAD = 0.10
"""Integrated instantaneous power: only ~25 % of the time is seen (arXiv 2312.02741); the range is our convention."""

GAP_SPREAD = 0.30
"""Power times time across a gap with no sample inside: two readings stand for all of it (our convention)."""

POLL_S = 1.0
"""Longest interval between two power samples that integration is right for: the trailing mean covers 1 s."""

STUCK_AFTER_S = 2.0
"""A counter that steps every ~100 ms and stands still for this long while power flows does not count."""

Averaging = Literal["instant", "trailing_mean"]


class Sample(Struct, frozen=True, kw_only=True):
    """One look at a device: joules on its counter and watts, each None where the device did not tell."""

    monotonic_s: float
    counter_j: float | None
    power_w: float | None


class Traits(Struct, frozen=True, kw_only=True):
    """What must be known of a device to read its samples.

    `averaging` is what its power reading means. `ceiling_w` is the most that it can draw (its enforced power limit),
    None if unknown. The others are those of a GPU unless stated: the longest interval that integration is right for,
    how long a counter may stand still under power, and relative half-ranges.
    """

    averaging: Averaging
    ceiling_w: float | None = None
    poll_s: float = POLL_S
    stuck_after_s: float = STUCK_AFTER_S
    counter_spread: float = COUNTER_SPREAD
    stated_power_spread: float | None = None

    @property
    def power_spread(self) -> float:
        """Relative half-range of integrated power."""
        if self.stated_power_spread is not None:
            return self.stated_power_spread
        return MEAN_POWER_SPREAD if self.averaging == "trailing_mean" else INSTANT_POWER_SPREAD


class Energy(Struct, frozen=True):
    """Joules with their p10-p90 range."""

    central_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0

    def plus(self, central_j: float, low_j: float, high_j: float) -> Energy:
        """This energy and one more stretch."""
        return Energy(self.central_j + central_j, self.low_j + low_j, self.high_j + high_j)

    def at_least(self, other: Energy) -> Energy:
        """The larger of two in each part, so that energy never falls."""
        return Energy(
            max(self.central_j, other.central_j), max(self.low_j, other.low_j), max(self.high_j, other.high_j)
        )


class Track(Struct, frozen=True, kw_only=True):
    """Everything remembered of a device between two samples.

    `accounted_s` is the moment up to which `energy` is complete. `anchor_j` is the counter value that stood where
    `anchor` was the energy; `counter_j` is the last counter value, `moved_s` when it last moved.
    """

    energy: Energy
    accounted_s: float
    power_w: float | None
    counter_j: float | None
    anchor_j: float | None
    anchor: Energy
    moved_s: float


class Step(Struct, frozen=True, kw_only=True):
    """A track after one more sample: how the stretch was obtained, and a fault code with its sentence if any."""

    track: Track
    kind: EnergyKind
    fault: str | None = None
    message: str | None = None


def start_track(sample: Sample) -> Track:
    """Begin at zero energy with the first sample of a device."""
    return Track(
        energy=Energy(),
        accounted_s=sample.monotonic_s,
        power_w=sample.power_w,
        counter_j=sample.counter_j,
        anchor_j=sample.counter_j,
        anchor=Energy(),
        moved_s=sample.monotonic_s,
    )


def advance(track: Track, sample: Sample, traits: Traits) -> Step:
    """Add the stretch since the last sample: by the counter where it can be trusted, else by power, else not at all.

    A stretch that no sample explains keeps the energy as it is with kind "absent"; a counter that answers again
    later covers it.
    """
    if sample.counter_j is None:
        return _by_power(track, sample, traits)
    if track.counter_j is None or track.anchor_j is None:
        step = _by_power(track, sample, traits)
        return replace(step, track=_anchored(step.track, sample))
    if sample.counter_j < track.counter_j:
        return _after_reset(track, sample, sample.counter_j, traits)
    if sample.counter_j == track.counter_j:
        return _standing(track, sample, traits)
    return _by_counter(track, sample, sample.counter_j - track.anchor_j, traits)


def _by_counter(track: Track, sample: Sample, counted_j: float, traits: Traits) -> Step:
    """Energy = anchor + counter difference, so that stretches estimated in between are corrected, not added twice."""
    if counted_j < 0.5 * (track.energy.central_j - track.anchor.central_j):
        # The counter did not run while power was integrated: it goes on from here and does not catch up.
        step = _by_power(track, sample, traits)
        return replace(step, track=_anchored(step.track, sample))
    low_j, high_j = counted_j * (1 - traits.counter_spread), counted_j * (1 + traits.counter_spread)
    energy = track.energy.at_least(track.anchor.plus(counted_j, low_j, high_j))
    return Step(track=_moved(track, sample, energy), kind="counter")


def _standing(track: Track, sample: Sample, traits: Traits) -> Step:
    """The counter did not move: normal between two of its steps, a fault if power has been flowing for long."""
    still_s = sample.monotonic_s - track.moved_s
    if still_s < traits.stuck_after_s or not sample.power_w:
        return Step(track=replace(track, power_w=_known(sample.power_w, track.power_w)), kind="counter")
    step = _by_power(track, sample, traits)
    message = f"the energy counter has stood still for {still_s:.1f} s at {sample.power_w:.0f} W; power is integrated"
    return replace(step, fault="counter_stuck", message=message)


def _by_power(track: Track, sample: Sample, traits: Traits) -> Step:
    """Integrate power over the stretch that is not accounted yet; without power there is nothing to say."""
    power_w = _mean_power_w(track, sample, traits)
    if power_w is None:
        return Step(track=track, kind="absent")
    elapsed_s = sample.monotonic_s - track.accounted_s
    # Up to two polls the samples describe the stretch; beyond that they are only its ends.
    spread = traits.power_spread if elapsed_s <= 2 * traits.poll_s else GAP_SPREAD
    joules = power_w * elapsed_s
    energy = track.energy.plus(joules, joules * (1 - spread), joules * (1 + spread))
    accounted = replace(track, energy=energy, accounted_s=sample.monotonic_s, power_w=sample.power_w)
    return Step(track=accounted, kind="power_integrated")


def _after_reset(track: Track, sample: Sample, counter_j: float, traits: Traits) -> Step:
    """The counter went back: count again from here and estimate the gap as power times time.

    What stands on the counter was consumed since the reset, so it bounds the gap from below where it is physically
    possible, as the power limit does from above.
    """
    elapsed_s = sample.monotonic_s - track.accounted_s
    power_w = _mean_power_w(track, sample, traits)
    ceiling_j = inf if traits.ceiling_w is None else traits.ceiling_w * elapsed_s
    floor_j = counter_j if counter_j <= ceiling_j < inf else 0.0
    known = power_w is not None or floor_j > 0
    central_j = max(floor_j, (power_w or 0.0) * elapsed_s)
    low_j = max(floor_j * (1 - traits.counter_spread), central_j * (1 - GAP_SPREAD))
    high_j = max(central_j, min(central_j * (1 + GAP_SPREAD), ceiling_j))
    energy = track.energy.plus(central_j, low_j, high_j)
    how = "by power times time" if power_w is not None else "by what the counter shows since" if known else "not at all"
    message = (
        f"the energy counter went back from {track.counter_j:.0f} J to {counter_j:.0f} J; "
        f"the {elapsed_s:.1f} s between are estimated {how}: {central_j:.0f} J"
    )
    return Step(
        track=_anchored(_moved(track, sample, energy), sample),
        kind="power_integrated" if known else "absent",
        fault="counter_reset",
        message=message,
    )


def _mean_power_w(track: Track, sample: Sample, traits: Traits) -> float | None:
    """Mean power of the stretch that ends at the sample.

    A trailing 1 s mean at the end describes a stretch of up to 1 s by itself (right rectangle, exact at 1 s polls);
    an instantaneous reading, or a longer stretch, takes the trapezoid of its two ends.
    """
    if sample.power_w is None:
        return None
    elapsed_s = sample.monotonic_s - track.accounted_s
    if track.power_w is None or (traits.averaging == "trailing_mean" and elapsed_s <= traits.poll_s):
        return sample.power_w
    return (track.power_w + sample.power_w) / 2


def _moved(track: Track, sample: Sample, energy: Energy) -> Track:
    return replace(
        track,
        energy=energy,
        accounted_s=sample.monotonic_s,
        power_w=_known(sample.power_w, track.power_w),
        counter_j=sample.counter_j,
        moved_s=sample.monotonic_s,
    )


def _anchored(track: Track, sample: Sample) -> Track:
    """Count on from this sample, whatever the counter said before."""
    return replace(
        track,
        counter_j=sample.counter_j,
        anchor_j=sample.counter_j,
        anchor=track.energy,
        moved_s=sample.monotonic_s,
    )


def _known(new_w: float | None, old_w: float | None) -> float | None:
    return old_w if new_w is None else new_w
