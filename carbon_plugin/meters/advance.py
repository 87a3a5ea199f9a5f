"""Compute the energy of one device since it was first read, from samples of its counter and its power.

The module has pure functions on frozen values. A counter may go back, jump, stand still, disappear and come back, and a
power may be nonsense; energy never falls, and each stretch says how it was obtained. The gate (`meters.gate`) decides
what is possible, and each meter decides which calls produce a sample.
"""

from __future__ import annotations

from math import isfinite

from msgspec.structs import replace

from carbon_plugin.meters.bounds import Bounds, possible_energy, possible_power
from carbon_plugin.meters.track import COUNTER_SPREAD, Moving, Sample, Step, Track, Traits
from carbon_plugin.spec.numbers.range import ZERO, Range

GAP_SPREAD = 0.30
"""The error of power times time across a gap without a sample inside: two readings represent all of it (our
convention).
"""

CATCHES_UP = 0.5
"""A counter that goes on after standing still shows at least this part of the energy that was integrated meanwhile, if
it went on counting while it could not be read (our convention).
"""


def start_track(sample: Sample, bounds: Bounds) -> Track:
    """Return a track that begins at zero energy with the first sample of a device."""
    clean = _possible(sample, bounds)
    return Track(
        energy=ZERO,
        started_s=clean.monotonic_s,
        accounted_s=clean.monotonic_s,
        power_w=clean.power_w,
        counter_j=clean.counter_j,
        counted=ZERO,
        moved_s=clean.monotonic_s,
        late_s=clean.late_s,
    )


def advance(track: Track, sample: Sample, traits: Traits) -> Step:
    """Return the step that adds the stretch since the last sample to a track.

    The stretch is measured by the counter where that can be trusted, else by power. A stretch that no sample explains
    keeps the energy as it is with kind "absent"; a counter that answers again later covers it.
    """
    clean = _possible(sample, traits.bounds)
    step = _advance(track, clean, traits)
    if step.fault is None and sample.power_w is not None and clean.power_w is None:
        within = f"with {traits.bounds.most}" if sample.power_w else "for a device that answers"
        message = f"a power of {sample.power_w:.4g} W is not possible {within}"
        step = replace(step, fault="power_implausible", message=message)
    return _compared(track, step, clean, traits)


def _advance(track: Track, sample: Sample, traits: Traits) -> Step:
    if sample.counter_j is None:
        return _by_power(track, sample, traits)
    if track.counter_j is None:
        step = _by_power(track, sample, traits)
        return replace(step, track=_counting_from(step.track, sample))
    moved_j, elapsed_s = sample.counter_j - track.counter_j, sample.monotonic_s - track.moved_s
    if moved_j == 0:
        return _standing(track, sample, traits)
    if moved_j < 0:
        return _back(track, sample, -moved_j, traits)
    if not possible_energy(moved_j, elapsed_s + track.late_s, traits.bounds):
        message = f"the energy counter jumped by {moved_j:.4g} J, which is not possible with "
        return _refused(track, sample, traits, "counter_jump", message + traits.bounds.most)
    return _by_counter(track, sample, moved_j, traits)


def _by_counter(track: Track, sample: Sample, moved_j: float, traits: Traits) -> Step:
    """Return the step for a counter that has moved.

    What it counted covers all of the time since it last moved, so that stretches estimated in between are corrected and
    not added twice.
    """
    if moved_j < CATCHES_UP * (track.energy.value - track.counted.value):
        # The counter did not run while power was integrated: it goes on from here and does not catch up.
        step = _by_power(track, sample, traits)
        return replace(step, track=_counting_from(step.track, sample))
    spread = traits.counter_spread
    counted = track.counted.plus(Range(moved_j, moved_j * (1 - spread), moved_j * (1 + spread)))
    energy = track.energy.at_least(counted)
    moved = replace(
        track,
        energy=energy,
        accounted_s=sample.monotonic_s,
        power_w=_known(sample.power_w, track.power_w),
        counter_j=sample.counter_j,
        counted=counted,
        moved_s=sample.monotonic_s,
        late_s=sample.late_s,
        moving=Moving(track.accounted_s, track.energy, track.power_w),
    )
    return Step(track=moved, energy=energy, kind="counter")


def _standing(track: Track, sample: Sample, traits: Traits) -> Step:
    """Return the step for a counter that has not moved.

    That is normal between two of its steps, and a fault if power has been flowing for long.
    """
    still_s = sample.monotonic_s - track.moved_s
    draws = traits.bounds.always_draws if sample.power_w is None else sample.power_w > 0
    if still_s < traits.stuck_after_s or not draws:
        kept = replace(track, power_w=_known(sample.power_w, track.power_w))
        return Step(track=kept, energy=kept.energy, kind="counter")
    step = _by_power(_with_missing(track), sample, traits)
    if step.kind == "absent":  # what the counter missed is added with the next stretch that a power explains
        step = replace(step, track=track, energy=track.energy)
    told = "" if sample.power_w is None else f" at {sample.power_w:.0f} W"
    then = "nothing tells what was drawn" if step.kind == "absent" else "power is integrated"
    message = f"the energy counter has stood still for {still_s:.1f} s{told}; {then}"
    return replace(step, fault="counter_stuck", message=message)


def _with_missing(track: Track) -> Track:
    """Return the track with the energy that a counter missed before it was seen to stand still.

    Such a counter stopped within the stretch in which it was last seen to move. The energy of that stretch by power is
    added as far as it exceeds what the counter shows.
    """
    moving = track.moving
    if moving is None or moving.power_w is None or track.power_w is None:
        return replace(track, moving=None)
    counted_j = track.energy.value - moving.energy.value
    missing_j = (moving.power_w + track.power_w) / 2 * (track.moved_s - moving.from_s) - counted_j
    if missing_j < COUNTER_SPREAD * counted_j:
        return replace(track, moving=None)
    energy = track.energy.plus(Range(missing_j, 0.0, missing_j * (1 + GAP_SPREAD)))
    return replace(track, energy=energy, moving=None)


def _by_power(track: Track, sample: Sample, traits: Traits) -> Step:
    """Return the step that integrates power over the stretch that is not accounted for yet.

    Without a power the stretch is absent.
    """
    power_w = _mean_power_w(track, sample, traits)
    if power_w is None:
        return Step(track=track, energy=track.energy, kind="absent")
    elapsed_s = sample.monotonic_s - track.accounted_s
    # Samples up to two polls apart describe the stretch between them; in a longer one they are only its ends.
    spread = traits.power_spread if elapsed_s <= 2 * traits.poll_s else GAP_SPREAD
    joules = power_w * elapsed_s
    energy = track.energy.plus(Range(joules, joules * (1 - spread), joules * (1 + spread)))
    accounted = replace(track, energy=energy, accounted_s=sample.monotonic_s, power_w=sample.power_w)
    return Step(track=accounted, energy=energy, kind="power_integrated")


def _back(track: Track, sample: Sample, back_j: float, traits: Traits) -> Step:
    """Return the step for a counter that went back.

    If it went back by little, an old value is shown once more; otherwise the counter has started again.
    """
    bounds = traits.bounds
    still_s = sample.monotonic_s - track.moved_s
    if back_j <= bounds.ceiling_w * bounds.lag_s and still_s < traits.stuck_after_s:
        kept = replace(track, power_w=_known(sample.power_w, track.power_w))
        message = f"the energy counter went back by {back_j:.4g} J; what it shows next is counted from where it was"
        return Step(track=kept, energy=kept.energy, kind="counter", fault="counter_back", message=message)
    message = f"the energy counter went back from {track.counter_j:.0f} J to {sample.counter_j:.0f} J"
    return _refused(track, sample, traits, "counter_reset", message)


def _refused(track: Track, sample: Sample, traits: Traits, fault: str, message: str) -> Step:
    """Return the step for a counter that does not show the energy that was drawn.

    Counting goes on from this sample, and the stretch is estimated as power times time. After a reset, the value of the
    counter was drawn since then, so that it bounds the range from above if it is possible at all. Without a power
    nothing is known of the stretch, now or later.
    """
    elapsed_s = sample.monotonic_s - track.accounted_s
    power_w = _mean_power_w(track, sample, traits)
    if power_w is None:
        lost = replace(track, accounted_s=sample.monotonic_s, forfeited_s=track.forfeited_s + elapsed_s)
        lost = _counting_from(lost, sample)
        told = f"{message}; nothing tells what was drawn in the {elapsed_s:.1f} s between"
        return Step(track=lost, energy=lost.energy, kind="absent", fault=fault, message=told)
    joules = power_w * elapsed_s
    since_j = sample.counter_j if fault == "counter_reset" and sample.counter_j is not None else 0.0
    seen_j = since_j if possible_energy(since_j, elapsed_s, traits.bounds) else 0.0
    most_j = min(joules * (1 + GAP_SPREAD), traits.bounds.ceiling_w * elapsed_s)
    high_j = max(most_j, joules, seen_j * (1 + traits.counter_spread))
    energy = track.energy.plus(Range(joules, joules * (1 - GAP_SPREAD), high_j))
    told = f"{message}; the {elapsed_s:.1f} s between are estimated by power times time: {joules:.0f} J"
    moved = replace(track, energy=energy, accounted_s=sample.monotonic_s, power_w=sample.power_w)
    return Step(track=_counting_from(moved, sample), energy=energy, kind="power_integrated", fault=fault, message=told)


def _compared(before: Track, step: Step, sample: Sample, traits: Traits) -> Step:
    """Return the step after a comparison of the counted energy with power times time.

    Where the two clearly contradict each other, the range covers both and the step says so.
    """
    if step.kind == "counter" and step.fault is None and step.track.moved_s == sample.monotonic_s:
        elapsed_s = sample.monotonic_s - before.moved_s
        counted_j = step.track.counted.value - before.counted.value
        mean_w = _mean_power_w(replace(before, accounted_s=before.moved_s), sample, traits)
        agreement = before.agreement.observe(elapsed_s, counted_j, mean_w, sample.power_w)
        step = replace(step, track=replace(step.track, agreement=agreement))
    agreement = step.track.agreement
    if not agreement.contradicts:
        return step
    counted_j, power_j = agreement.counted_j, agreement.power_j
    below_j = max(0.0, counted_j * (1 - traits.counter_spread) - power_j * (1 - traits.power_spread))
    above_j = max(0.0, power_j * (1 + traits.power_spread) - counted_j * (1 + traits.counter_spread))
    energy = step.track.energy.plus(Range(0.0, -below_j, above_j))
    if step.fault is not None:
        return replace(step, energy=energy)
    message = (
        f"the energy counter says {counted_j:.0f} J and power times time {power_j:.0f} J for the same "
        f"{agreement.seconds:.0f} s; the counter is used, and the range covers both"
    )
    return replace(step, energy=energy, fault="counter_disagrees", message=message)


def _mean_power_w(track: Track, sample: Sample, traits: Traits) -> float | None:
    """Return the mean power in W of the stretch that ends at the sample, or None without a power.

    A trailing 1 s mean at the end describes a stretch of up to 1 s by itself (right rectangle, exact at 1 s polls); for
    an instantaneous reading, or a longer stretch, it is the mean of both ends (trapezoid).
    """
    if sample.power_w is None:
        return None
    elapsed_s = sample.monotonic_s - track.accounted_s
    if track.power_w is None or (traits.averaging == "trailing_mean" and elapsed_s <= traits.poll_s):
        return sample.power_w
    return (track.power_w + sample.power_w) / 2


def _possible(sample: Sample, bounds: Bounds) -> Sample:
    """Return the sample without values that no device with these bounds can tell."""
    power_w, counter_j = sample.power_w, sample.counter_j
    if power_w is not None and not possible_power(power_w, bounds):
        power_w = None
    if counter_j is not None and not (isfinite(counter_j) and counter_j >= 0):
        counter_j = None
    return replace(sample, counter_j=counter_j, power_w=power_w)


def _counting_from(track: Track, sample: Sample) -> Track:
    """Return the track that counts on from this sample, whatever the counter said before."""
    return replace(
        track,
        counter_j=sample.counter_j,
        counted=track.energy,
        moved_s=sample.monotonic_s,
        late_s=sample.late_s,
        moving=None,
    )


def _known(new_w: float | None, old_w: float | None) -> float | None:
    return old_w if new_w is None else new_w
