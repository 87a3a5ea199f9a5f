"""Compute for how long devices and hosts were reserved. Embodied carbon is charged for this time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.audit.tally.timeline.calendar import Month, ReservedMonth, month_ends
from carbon_plugin.ledger.held.holdings import Holding, gpus_of, held, held_until
from carbon_plugin.ledger.held.unobserved import UnobservedEnergy, unobserved_energy

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return disjoint intervals that cover the same time, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def reserved_time(files: Sequence[FilePass]) -> tuple[Reserved, UnobservedEnergy]:
    """Return the reserved time of devices and hosts over all files, by the rule of `ledger.held.holdings`, and the
    modelled energy of the part that no record covers.
    """
    holdings = holdings_of(files)
    time = held(holdings)
    unobserved = unobserved_energy(holdings, time.unobserved_s)
    reserved = Reserved(
        device_s=time.device_s,
        before_first_record_s=time.before_first_record_s,
        host_s=time.host_s,
        devices_from=" and ".join(sorted({_counted_from(gpus_of(file.manifest).values()) for file in files})),
        shared_s=time.shared_s,
        whole_device_s=time.whole_device_s,
        whole_host_s=time.whole_host_s,
        modelled_idle_s=unobserved.modelled_s,
        idle_model=", ".join(unobserved.profiles),
    )
    return reserved, unobserved


def reserved_by_month(files: Sequence[FilePass]) -> dict[Month, ReservedMonth]:
    """Return the reserved time of all files in each calendar month (UTC). The months add up to the time of the run."""
    holdings = holdings_of(files)
    if not holdings:
        return {}
    found: dict[Month, ReservedMonth] = {}
    before = held([])
    for month, until_s in month_ends(min(one.since_s for one in holdings), max(one.end_s for one in holdings)):
        now = held(holdings) if until_s is None else held_until(holdings, until_s)
        unobserved_s = {name: s - before.unobserved_s.get(name, 0.0) for name, s in now.unobserved_s.items()}
        found[month] = ReservedMonth(
            device_s=max(0.0, now.device_s - before.device_s), unobserved=unobserved_energy(holdings, unobserved_s)
        )
        before = now
    return found


def holdings_of(files: Sequence[FilePass]) -> list[Holding]:
    """Return the contribution of each file to the reserved time."""
    return [
        Holding(manifest=file.manifest, start_s=start_s, end_s=end_s, shared_s=file.shared.by_device_s)
        for file in files
        for start_s, end_s in [file.extent]
    ]


def shared_by_device(files: Sequence[FilePass]) -> dict[str, float]:
    """Return the recorded time of each GPU, and of `MACHINE`, that is charged to other runs, s, by its key."""
    found: dict[str, float] = {}
    for file in files:
        for key, time_s in file.shared.by_device_s.items():
            found[key] = found.get(key, 0.0) + time_s
    return found


def _counted_from(units: Collection[float]) -> str:
    if not units:
        return "ranks, because no GPU was seen"
    slices = ", a MIG slice as its share of a GPU" if min(units) < 1 else ""
    return f"GPUs that the ledgers name{slices}"
