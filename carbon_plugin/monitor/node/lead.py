"""Tell the energy between the start of a training and the first reading of its meters. A driver may take seconds to
answer.

The record begins with the training in any case. Otherwise its steps would be set against a time that is too short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from carbon_plugin.ledger.records import DeviceEnergy
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.node.windows import Snapshot, energies, extended
from carbon_plugin.spec.numbers.range import Range

Estimate = Callable[[str], Range | None]
"""A function that returns the power of a device before its first reading, W, or None where nothing tells it."""

SHORT_LEAD_S = 1.0
"""A driver may take this many seconds to open without a fault. The energy of such a lead follows from the mean power of
a first window that is longer than the lead. Otherwise it is an estimate and is marked as one."""


class Stretch(NamedTuple):
    """Describes a time between two moments, with a function that returns the energies of a share of it."""

    before: Snapshot
    after: Snapshot
    used: Callable[[float], list[DeviceEnergy]]


def stretches(lead: Snapshot | None, before: Snapshot, after: Snapshot, estimate: Estimate) -> list[Stretch]:
    """Return the time up to `after` in stretches, in each of which all energies are known in the same way.

    `lead` is the start of the training where nothing was recorded yet, and `before` is the first reading after it.
    `estimate` returns a device's power before its first reading.
    """
    if lead is None:
        return [_between(before, after)]
    lead_s = min(before.monotonic_s, after.monotonic_s) - lead.monotonic_s
    seconds = after.monotonic_s - before.monotonic_s
    if lead_s <= SHORT_LEAD_S and seconds >= lead_s:
        return [_between(_with_lead(lead, before, after), after)]
    first = before if seconds > 0 else after  # a training that ended before its first reading
    led = Stretch(lead, first, lambda share: lead_energies(before.readings, after.readings, share * lead_s, estimate))
    return [led, _between(before, after)] if seconds > 0 else [led]


def _between(before: Snapshot, after: Snapshot) -> Stretch:
    return Stretch(before, after, lambda share: energies(before.readings, after.readings, share))


def _with_lead(lead: Snapshot, before: Snapshot, after: Snapshot) -> Snapshot:
    """Return the first reading as it would have been at the start of the training, if the power of the first window had
    been drawn before it too.
    """
    share = -(before.monotonic_s - lead.monotonic_s) / (after.monotonic_s - before.monotonic_s)
    readings = {
        key: extended(lead.monotonic_s, share, reading, after.readings.get(key))
        for key, reading in before.readings.items()
    }
    return Snapshot(monotonic_s=lead.monotonic_s, readings=readings, mark=lead.mark)


def lead_energies(
    first: Mapping[str, Reading], then: Mapping[str, Reading], lead_s: float, estimate: Estimate
) -> list[DeviceEnergy]:
    """Return the energy of every device in the `lead_s` seconds before its first reading.

    A modelled device is taken to have drawn its mean power up to the reading `then`. For any other device `estimate`
    returns the power, W, and its range.
    """
    return [_energy(reading, then.get(key), lead_s, estimate(key)) for key, reading in first.items()]


def _energy(first: Reading, then: Reading | None, lead_s: float, estimated: Range | None) -> DeviceEnergy:
    mean = None if then is None else _mean(first, then)
    modelled = mean is not None and then is not None and then.kind == "modelled"
    stands_in = not modelled or then is None or then.estimated_j > first.estimated_j
    watts = mean if modelled or estimated is None else estimated
    if watts is None:
        return DeviceEnergy(key=first.key, energy_j=None, kind="absent", note="before its first reading")
    joules = watts.scaled(lead_s)
    note = f"before its first reading; estimated at {watts.value:.0f} W ({watts.low:.0f} to {watts.high:.0f} W)"
    return DeviceEnergy(
        key=first.key,
        energy_j=joules.value,
        kind="modelled",
        low_j=joules.low,
        high_j=joules.high,
        note=note,
        estimated_j=joules.value or None if stands_in else None,
    )


def _mean(first: Reading, then: Reading) -> Range | None:
    """Return the mean power between two readings, or None where one of them has no energy."""
    seconds = then.monotonic_s - first.monotonic_s
    if seconds <= 0 or then.energy is None or first.energy is None:
        return None
    return then.energy.since(first.energy).less(0.0).ordered().scaled(1 / seconds)
