"""Check that readings are plausible: every joule of every meter passes this gate before it may become a figure.

Each meter says by its `bounds` what its devices can draw. A stretch that exceeds them, or that no meter covers, becomes
an estimate with a range, which is replaced if the meter covers it after all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.bounds import LAG_S, Bounds, possible_energy, possible_power
from carbon_plugin.meters.protocol import PowerSource, Reading
from carbon_plugin.spec.numbers.range import ZERO, Range
from carbon_plugin.threads.turns import give_way

SAME_S = 0.05
"""Stretches shorter than this do not count as stretches: they come from two clocks that are read one after
the other.
"""

_NOTHING = ZERO


class _Standing(Struct, frozen=True, kw_only=True, gc=False):
    """One instance holds what the gate remembers of a device between two readings.

    `raw` is the energy that its meter told last, which covers `covered_s` seconds; `measured` is the part of it that
    was admitted. `pending` is the estimate for the `pending_s` seconds that the meter may still cover, `filled` the
    estimate for stretches that were refused. `shown_j` is the energy that was last given out. `power_w` is its last
    power, `powers_w` are those of all devices at that moment by key. `told` is whether its meter ever told an energy.
    `late_s` is that of the last reading.
    """

    opened_s: float
    raw: Range = _NOTHING
    covered_s: float = 0.0
    measured: Range = _NOTHING
    pending_s: float = 0.0
    pending: Range = _NOTHING
    filled: Range = _NOTHING
    shown_j: float = 0.0
    inner_j: float = 0.0
    told: bool = False
    late_s: float = 0.0
    power_w: float | None = None
    powers_w: Mapping[str, float | None] = {}


class ReadingGate:
    """One gate admits readings of devices. It knows the `bounds` of each device by key.

    `peers` names the group of devices that work alike to which a device belongs. `models` gives the power of a device
    for which something else than its past tells it. A gate is not thread-safe.
    """

    def __init__(
        self,
        bounds: Mapping[str, Bounds],
        *,
        peers: Mapping[str, str] | None = None,
        models: Mapping[str, PowerSource] | None = None,
    ) -> None:
        self._bounds = bounds
        self._peers = peers or {}
        self._models = models or {}
        self._standing: dict[str, _Standing] = {}
        self._modelled_until: dict[str, tuple[float, Range]] = {}

    def admit(self, readings: Sequence[Reading]) -> list[Reading]:
        """Return the readings as they may be recorded, in the same order."""
        powers = {reading.key: self._power_w(reading) for reading in readings}
        admitted = []
        for reading in readings:
            give_way()
            admitted.append(self._admit(reading, powers))
        return admitted

    def estimate(self, key: str) -> Range | None:
        """Return the power of a device, with its range, in a time before its first reading, or None if nothing is known
        about it.
        """
        known = self._standing.get(key)
        return None if known is None else self._estimate(key, known.power_w, known.powers_w, {})

    def _admit(self, reading: Reading, powers: Mapping[str, float | None]) -> Reading:
        # Every joule comes by here at every window, so that what adds nothing is not computed.
        key, energy, bounds = reading.key, reading.energy, self._bounds[reading.key]
        finite = _finite(energy)
        known = self._standing.get(key) or _opened(reading, finite=finite)
        fault = (reading.fault, reading.message) if reading.fault is not None else None
        power_w, powers_w = (known.power_w, known.powers_w) if powers[key] is None else (powers[key], powers)
        model = self._modelled(reading)
        raw, covered_s = _counter(reading, known, finite=finite)
        stretch, stretch_s = raw.since(known.raw), max(0.0, covered_s - known.covered_s)
        # Where a measurement has replaced an estimate of its own meter, it covers all the time since the opening.
        of_s = stretch_s if reading.estimated_j == known.inner_j else reading.monotonic_s - known.opened_s
        refused_s = 0.0
        if not finite or not possible_energy(stretch.value, of_s + known.late_s, bounds):
            fault = _implausible(stretch, of_s, bounds)
            refused_s, stretch = stretch_s, _NOTHING
        pending_s = max(0.0, reading.monotonic_s - known.opened_s - covered_s)
        pending_s = pending_s if pending_s > SAME_S else 0.0
        told = known.told or energy is not None
        # The first answer tells more about the time before it than the estimate until now.
        anew = told and not known.told and power_w is not None
        pending, missed_s = (_NOTHING, pending_s) if anew else _still_pending(known, pending_s)
        filled, watts = known.filled, None
        if refused_s + missed_s > 0:
            watts = model or self._estimate(key, power_w, powers_w, powers)
            pending, filled = pending.plus(_joules(watts, missed_s)), filled.plus(_joules(watts, refused_s))
        measured = known.measured.plus(stretch)
        whole = measured if pending is _NOTHING and filled is _NOTHING else measured.plus(pending).plus(filled)
        # Energy that was shown is not taken back: where less is measured than was estimated, the figure stays until
        # the measurement has passed it, and only its low end falls.
        shown_j = max(whole.value, known.shown_j)
        self._standing[key] = _Standing(
            opened_s=known.opened_s,
            raw=raw,
            covered_s=covered_s,
            measured=measured,
            pending_s=pending_s,
            pending=pending,
            filled=filled,
            shown_j=shown_j,
            inner_j=reading.estimated_j,
            told=told,
            late_s=reading.late_s,
            power_w=power_w,
            powers_w=powers_w,
        )
        says_something = told or shown_j > 0
        unmeasured = watts is not None or (reading.kind == "absent" and says_something)
        return replace(
            reading,
            energy=Range(shown_j, min(whole.low, shown_j), max(whole.high, shown_j)) if says_something else None,
            kind="modelled" if unmeasured else reading.kind,
            power_w=reading.power_w if powers[key] is not None else None,
            fault=fault[0] if fault else None,
            message=_sentence(key, fault[1] if fault else None, watts),
            covered_s=None,
            estimated_j=shown_j - measured.value + reading.estimated_j,
        )

    def _power_w(self, reading: Reading) -> float | None:
        """Return the power in W of a device that is being measured at this moment, else None.

        It is the power that the device tells, else its mean power since the last reading.
        """
        if reading.kind == "absent" or reading.energy is None:
            return None
        bounds, known = self._bounds[reading.key], self._standing.get(reading.key)
        if reading.power_w is not None:
            return reading.power_w if possible_power(reading.power_w, bounds) else None
        if known is None:
            return None
        stretch_s = _covered_s(reading, known.opened_s) - known.covered_s
        joules = reading.energy.value - known.raw.value
        if stretch_s < LAG_S or joules <= 0 or not possible_energy(joules, stretch_s + known.late_s, bounds):
            return None  # a counter that has not moved yet says nothing
        return joules / stretch_s

    def _peers_w(self, key: str, powers: Mapping[str, float | None]) -> float | None:
        """Return the mean power at this moment of the other devices in the group that are being measured, or None
        without any.
        """
        group = self._peers.get(key)
        others = [
            power_w
            for other, power_w in powers.items()
            if other != key and power_w is not None and group is not None and self._peers.get(other) == group
        ]
        return sum(others) / len(others) if others else None

    def _modelled(self, reading: Reading) -> Range | None:
        """Return what the device's model says of the time since the last reading, or None for a device without a model.

        The model is asked every time, whether its answer is used or not, because it may tell the mean since it was last
        asked.
        """
        model, key = self._models.get(reading.key), reading.key
        if model is None:
            return None
        last_s, watts = self._modelled_until.get(key, (reading.monotonic_s, _NOTHING))
        if reading.monotonic_s > last_s or key not in self._modelled_until:
            watts = model(reading.monotonic_s - last_s)
            self._modelled_until[key] = (reading.monotonic_s, watts)
        return watts

    def _estimate(
        self,
        key: str,
        power_w: float | None,
        powers_then_w: Mapping[str, float | None],
        powers_now_w: Mapping[str, float | None],
    ) -> Range | None:
        """Return the power in a stretch that nothing measured and no model tells, or None if nothing is known of the
        device.

        It is the last power of the device, changed as that of its peers has changed since; else the power of its peers;
        else the middle of what it can draw. It is never above the device's limit.
        """
        bounds, peers_w = self._bounds[key], self._peers_w(key, powers_now_w)
        if power_w is not None:
            before_w = self._peers_w(key, powers_then_w)
            central_w = power_w * (peers_w / before_w if peers_w is not None and before_w else 1.0)
        elif peers_w is not None:
            central_w = peers_w
        elif bounds.limit_w is not None:
            central_w = (bounds.idle_w + bounds.limit_w) / 2
        else:
            return None
        limit_w = 2 * central_w if bounds.limit_w is None else bounds.limit_w
        central_w = min(central_w, limit_w)
        return Range(central_w, min(bounds.idle_w, central_w), limit_w)


def _opened(reading: Reading, *, finite: bool) -> _Standing:
    """Return the content of a first reading: where counting begins, and nothing about a stretch of time."""
    start = reading.energy if reading.energy is not None and finite else _NOTHING
    return _Standing(
        opened_s=reading.monotonic_s,
        raw=start,
        covered_s=_covered_s(reading, reading.monotonic_s),
        measured=start,
        shown_j=start.value,
        inner_j=reading.estimated_j,
        late_s=reading.late_s,
    )


def _counter(reading: Reading, known: _Standing, *, finite: bool) -> tuple[Range, float]:
    """Return the energy that a meter has told so far, and the seconds that it covers.

    A reading without a number says nothing, and the next answer may cover its time. A meter that falls silent keeps
    what it has measured, because that time would otherwise be estimated as well.
    """
    if reading.energy is None or not finite:
        return known.raw, known.covered_s
    return reading.energy, _covered_s(reading, known.opened_s)


def _still_pending(known: _Standing, pending_s: float) -> tuple[Range, float]:
    """Return what stays of the estimate for the time that the meter may still cover, and the seconds of that time
    without an estimate.
    """
    missed_s = max(0.0, pending_s - known.pending_s)
    if pending_s <= 0 or known.pending_s <= 0:
        return _NOTHING, missed_s
    return known.pending.scaled(min(1.0, pending_s / known.pending_s)), missed_s


def _finite(energy: Range | None) -> bool:
    return energy is None or (isfinite(energy.value) and isfinite(energy.low) and isfinite(energy.high))


def _covered_s(reading: Reading, opened_s: float) -> float:
    if reading.covered_s is not None:
        return reading.covered_s
    return 0.0 if reading.energy is None else reading.monotonic_s - opened_s


def _joules(watts: Range | None, seconds: float) -> Range:
    return _NOTHING if watts is None else watts.scaled(seconds)


def _implausible(stretch: Range, elapsed_s: float, bounds: Bounds) -> tuple[str, str]:
    return (
        "implausible",
        f"the meter tells {stretch.value:.4g} J in {elapsed_s:.1f} s, which is not possible with {bounds.most}",
    )


def _sentence(key: str, message: str | None, watts: Range | None) -> str | None:
    if watts is None:
        return message
    estimate = f"its energy is estimated at {watts.value:.0f} W ({watts.low:.0f} to {watts.high:.0f} W)"
    if message is None:
        return f"{key} was not measured for a while; {estimate}"
    return f"{message if key in message else f'{key}: {message}'}; {estimate}"
