"""Add up the ledgers of one run by the hour, in the same pass that an audit makes.

An hour is one of the calendar in UTC, so that months and years are sums of whole hours. A window that lies in two hours
is divided between them by time. A window that begins in one month counts in that month only, as in the audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from carbon_plugin.audit.tally.account.reservations import holdings_of, reserved_by_month, union
from carbon_plugin.audit.tally.account.rework import Rework
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.audit.tally.sums.blocks import Metered, RowBlock
from carbon_plugin.audit.tally.timeline.calendar import month_of, next_month_unix_s
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.held.account_inputs import MEASURED_KINDS, stated_factors
from carbon_plugin.ledger.held.holdings import held_together
from carbon_plugin.ledger.records import Manifest, Span
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.range_array import Floats

HOUR_S = 3600.0

COLUMNS = (
    "energy",
    "measured",
    "low",
    "high",
    "facility",
    "weighted",
    "without",
    "device_s",
    "redone",
    "restart",
    "idle",
    "redone_weighted",
    "restart_weighted",
    "idle_weighted",
    "unobserved",
)
"""The sums of one hour: energies in J, facility energy in J, and "weighted" ones in J g/kWh. "without" is the energy of
windows without factors. "device_s" is the time of whole accelerators, or of hosts where there are none.
"unobserved" is the energy that is modelled for reserved time without records."""

IDLE_PHASE = "idle"

Slot = tuple[int, Rung, int]
"""Launch, rung, and hour since 1970. Nodes are added up: a large run has thousands of them, and the same hours."""

_MOST_CACHED = 256


class HourCollector(RunCollector):
    """The collector of an audit, with sums by launch, rung and hour in place of the series that a report draws.

    Everything else (which energy counts once, what was redone, which factors were in force) is the audit's.
    """

    _factors: dict[bytes, Factors | None] = {}  # noqa: RUF012  # shared: thousands of runs state the same factors

    def __init__(self, origin_unix_s: float) -> None:
        super().__init__(origin_unix_s)
        self.hours: dict[Slot, Floats] = {}

    def merge(self, other: RunCollector) -> None:
        """Add the sums over other files."""
        super().merge(other)
        assert isinstance(other, HourCollector)
        for slot, sums in other.hours.items():
            self._add(slot, sums)

    def finish(self) -> None:
        """Put everything into an order that does not depend on how the work was divided."""
        super().finish()
        self.hours = dict(sorted(self.hours.items(), key=_in_order))

    def _factors_of(self, manifest: Manifest) -> Factors | None:
        return self.stated(manifest.factors)

    @classmethod
    def stated(cls, document: dict[str, Any]) -> Factors | None:
        """Return the factors that a manifest states, as `stated_factors` does. Equal documents are read once."""
        if not document:
            return None
        key = msgspec.json.encode(document)
        if key not in cls._factors:
            if len(cls._factors) >= _MOST_CACHED:
                cls._factors.clear()
            cls._factors[key] = stated_factors(document)
        return cls._factors[key]

    def _add_spans(self, file: FilePass | None, spans: list[Span]) -> None:
        spans.clear()  # a fleet compares no steps

    def _add_over_time(self, file: FilePass, block: RowBlock, metered: Metered, it_j: Floats, rework: Rework) -> None:
        identities = [self.devices[key].identity for key in metered.keys]
        of_rung: dict[Rung, list[int]] = {}
        for device, identity in enumerate(identities):
            if identity.rung != "facility":  # it contains the others
                of_rung.setdefault(identity.rung, []).append(device)
        if not of_rung:
            return
        waiting = block.windows.of_phases(IDLE_PHASE).astype(float)
        unclaimed = [identity.rung == "gpu" and not identity.ranks for identity in identities]
        timed: Rung = "gpu" if "gpu" in of_rung else "host"
        units = [identity.units if identity.rung == timed else 0.0 for identity in identities]
        table = _table(metered, rework, np.maximum(waiting, np.array(unclaimed)[:, None]), np.array(units))
        whole = [table[:, devices].sum(axis=1) for devices in of_rung.values()]
        starts_s = block.start_unix_s - file.context.clock_offset_s
        hours, stacked = _by_hour(starts_s, block.duration_s, np.concatenate(whole))
        for place, rung in enumerate(of_rung):
            rows_of_rung = stacked[place * len(COLUMNS) : (place + 1) * len(COLUMNS)]
            for column, hour in enumerate(hours):
                self._add((file.context.launch, rung, hour), rows_of_rung[:, column])

    def add_unobserved(self, device_s: float) -> None:
        """Add the energy of reserved time without records, and its device time `device_s`, to the hours of that time.

        Each month gets the amount that the audit states for it. The amount is divided over the hours of the time of
        each device without records, by its length. Such time belongs to the launch that begins at its end or after it.
        """
        places = self._unrecorded_hours()
        energies: dict[Rung, Floats] = {}
        for (rung, _), idle in self.unobserved.items():
            sums = np.zeros(len(COLUMNS))
            values = {
                "energy": idle.modelled_j.value,
                "low": idle.low_j,
                "high": idle.high_j,
                "facility": idle.facility_j,
                "weighted": idle.weighted_j_g_per_kwh,
                "without": idle.without_factors_j,
                "idle": idle.modelled_j.value,
                "unobserved": idle.modelled_j.value,
                "idle_weighted": idle.weighted_j_g_per_kwh,
            }
            for name, value in values.items():
                sums[COLUMNS.index(name)] = value
            energies[rung] = energies[rung] + sums if rung in energies else sums
        if device_s > 0:
            timed: Rung = "gpu" if any(seen.identity.rung == "gpu" for seen in self.devices.values()) else "host"
            energies.setdefault(timed, np.zeros(len(COLUMNS)))[COLUMNS.index("device_s")] = device_s
        for (launch, hour), share in places.items():
            for rung, sums in energies.items():
                self._add((launch, rung, hour), share * sums)
        self.hours = dict(sorted(self.hours.items(), key=_in_order))

    def _unrecorded_hours(self) -> dict[tuple[int, int], float]:
        """Return the share of the unrecorded time that lies in each launch and hour, or the first hour where there is
        no such time.
        """
        lengths: dict[tuple[int, int], float] = {}
        begins = sorted((file.extent[0], file.context.launch) for file in self.files)
        for start, end, weight in _unrecorded(self.files):
            launch = next((launch for begin, launch in begins if begin >= end), begins[-1][1])
            at = start
            while at < end:
                hour = int(at // HOUR_S)
                until = min(end, (hour + 1) * HOUR_S)
                lengths[launch, hour] = lengths.get((launch, hour), 0.0) + weight * (until - at)
                at = until
        in_month: dict[tuple[int, int], float] = {}
        for (_, hour), length in lengths.items():
            month = month_of(hour * HOUR_S)
            in_month[month] = in_month.get(month, 0.0) + length
        used = {
            month: one.unobserved.used.values()
            for month, one in (reserved_by_month(self.files) if len(in_month) > 1 else {}).items()
        }
        by_month = {month: sum(one.energy.value for one in energies) for month, energies in used.items()}
        if any(by_month.values()):
            for (launch, hour), length in lengths.items():
                month = month_of(hour * HOUR_S)
                lengths[launch, hour] = length / in_month[month] * by_month.get(month, 0.0)
        whole = sum(lengths.values())
        if whole > 0:
            return {place: length / whole for place, length in lengths.items()}
        begin, launch = begins[0]
        return {(launch, int(begin // HOUR_S)): 1.0}

    def _add(self, slot: Slot, sums: Floats) -> None:
        held = self.hours.get(slot)
        self.hours[slot] = sums.copy() if held is None else held + sums


def _unrecorded(files: Sequence[FilePass]) -> list[tuple[float, float, float]]:
    """Return the intervals, Unix s, in which devices were reserved and no file holds a record of them, each with the
    number of these devices."""
    found: list[tuple[float, float, float]] = []
    for stretches, _, units in held_together(holdings_of(files)).devices:
        covered = union((start, end) for _, start, end, _ in stretches)
        for start, end in union((since, end) for since, _, end, _ in stretches):
            at = start
            for begin, until in covered:
                if begin > at and begin <= end:
                    found.append((at, begin, sum(units)))
                at = max(at, until) if begin <= end else at
    return found


def _in_order(item: tuple[Slot, Floats]) -> tuple[Any, ...]:
    return item[0][2], *item[0]


def _table(metered: Metered, rework: Rework, idle: Floats, units: Floats) -> Floats:
    """Return the columns of some devices in some windows, shape (columns, devices, windows). `idle` is the share of
    each window in which a device waited, and `units` is the number of whole devices that each device counts as.
    """
    energy_j, weighted = metered.energy.value, metered.weighted_j_g_per_kwh
    measured = np.array([kind in MEASURED_KINDS for kind in metered.kinds])[:, None]
    told = np.where(measured | (metered.estimated_j != 0), energy_j, 0.0)
    nothing = np.zeros_like(energy_j)
    redone = nothing if rework.redone is None else rework.redone
    restart = nothing if rework.restart is None else rework.restart
    idle = (idle - redone - restart).clip(0.0, 1.0)  # a joule is wasted once
    return np.array(
        [
            energy_j,
            told - metered.estimated_j,
            metered.energy.low,
            metered.energy.high,
            metered.facility_j,
            weighted,
            np.where(metered.priced, 0.0, energy_j),
            metered.seconds * units[:, None],
            energy_j * redone,
            energy_j * restart,
            energy_j * idle,
            weighted * redone,
            weighted * restart,
            weighted * idle,
            nothing,
        ]
    )


def _by_hour(start_unix_s: Floats, duration_s: Floats, values: Floats) -> tuple[list[int], Floats]:
    """Return the hours in which some windows lie, and the sums of the windows' values in each hour.

    `values` has the shape (columns, windows), and the sums have the shape (columns, hours).
    """
    first = np.floor(start_unix_s / HOUR_S).astype(np.int64)
    # A window that ends at the stroke of the hour lies before it.
    last = np.maximum(first, np.ceil((start_unix_s + duration_s) / HOUR_S).astype(np.int64) - 1)
    for number in np.flatnonzero(last > first).tolist():
        year, month = month_of(float(start_unix_s[number]))
        if year:
            last[number] = min(int(last[number]), int(next_month_unix_s(year, month) // HOUR_S) - 1)
    if (first == last).all():
        if (first == first[0]).all():
            return [int(first[0])], values.sum(axis=1, keepdims=True)
        hours, slots = first, values
    else:
        pieces = last - first + 1
        window = np.repeat(np.arange(len(first)), pieces)
        hours = first[window] + np.arange(len(window)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begins = np.maximum(start_unix_s[window], hours * HOUR_S)
        until = (start_unix_s + duration_s)[window]
        ends = np.where(hours == last[window], until, (hours + 1) * HOUR_S)
        whole_s = np.where(duration_s[window] > 0, duration_s[window], 1.0)
        shares = np.where(pieces[window] > 1, (ends - begins) / whole_s, 1.0)
        slots = values[:, window] * shares
    order = np.argsort(hours, kind="stable")
    hours, slots = hours[order], slots[:, order]
    edges = np.flatnonzero(np.diff(hours, prepend=hours[0] - 1))
    return hours[edges].tolist(), np.add.reduceat(slots, edges, axis=1)
