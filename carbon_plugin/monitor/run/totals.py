"""Sum up all ledgers of a run. A device that two files metered at once counts in the one that began first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from carbon_plugin.footprint.values import IT_RUNGS, EnergyItem, Reservation
from carbon_plugin.ledger.held.account_inputs import (
    UncertaintyScope,
    UsedEnergy,
    UsedSum,
    by_scope,
    energy_item,
    mean_factors,
    reservations,
    total_used,
)
from carbon_plugin.ledger.held.claims import DeviceClaims
from carbon_plugin.ledger.held.clocks import file_offsets
from carbon_plugin.ledger.held.copies import copies_among
from carbon_plugin.ledger.held.expected import ExpectedGpus, expected_gpus
from carbon_plugin.ledger.held.holdings import Held, Holding, held_together
from carbon_plugin.ledger.held.launches import RANK_0_FILES, successor
from carbon_plugin.ledger.held.unobserved import unobserved_energy
from carbon_plugin.ledger.records import Manifest, Window
from carbon_plugin.monitor.ledgers.file_totals import FileTotals, Place
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.threads.turns import give_way

STALE_WINDOWS = 3
"""A ledger without news for this many of its windows no longer counts towards the present power."""

Extent = tuple[float, float]
"""The start and the end of a file, Unix s."""
WindowsUntil = Callable[[str, float], Sequence[Window]]
"""A function that reads the windows of a file again, from its beginning to a moment by its own clock (Unix s), as many
as it can."""


class RunTotals(Struct, frozen=True, kw_only=True):
    """Holds the sums over all ledgers of a run.

    `spent` is the energy of each rung and device model, with that of reserved time before the records. `steady`,
    `steady_s` and `steady_steps` are of this attempt's time in training, for rates. `reserved` is the reserved time so
    far. `reserved_now` are the units held at present, each for one second. `device_j` is the recorded energy of each
    device by its key. `power_w` is that of the last windows. `gpus_measured` of `gpus` had a counter or integrated
    power in their last window.
    """

    spent: Mapping[UncertaintyScope, UsedEnergy]
    steady: tuple[EnergyItem, ...]
    steady_s: float
    steady_steps: int
    reserved: tuple[Reservation, ...]
    reserved_now: tuple[Reservation, ...]
    power_w: float
    gpus: int
    gpus_measured: int
    nodes_seen: int
    last_step: int
    device_j: Mapping[str, float] = {}

    @property
    def used(self) -> UsedEnergy:
        """Return the energy of all IT rungs."""
        return total_used(list(self.spent.values()))

    @property
    def energy_j(self) -> float:
        """Return the energy of all IT rungs, J."""
        return math.fsum(used.energy.value for used in self.spent.values())


def without_copies(files: Mapping[str, FileTotals], own: str | None = None) -> dict[str, FileTotals]:
    """Return the ledgers by file name without copies of others. Of files with the same windows, the file `own`
    stays."""
    names = sorted(files, key=lambda name: (name != own, files[name].times.started_s, name))
    copies = copies_among((name, files[name].fingerprint) for name in names)
    return {name: file for name, file in files.items() if name not in copies}


def run_totals(
    files: Mapping[str, FileTotals],
    *,
    attempt_started_s: float,
    offsets_s: Mapping[Place, float] | None = None,
    own: str | None = None,
    windows_until: WindowsUntil | None = None,
    expected_of: Callable[[Iterable[Manifest]], ExpectedGpus] = expected_gpus,
) -> RunTotals:
    """Sum up ledgers by file name.

    Ledgers that ended before `attempt_started_s` (Unix, by the clock of the file `own`) are of earlier attempts. The
    file `own` never is, although all of a very short run may be recorded before its totals are first asked for, nor is
    one whose writer left its GPUs to local rank 0 of this attempt.
    `offsets_s` says by how many seconds clocks are ahead of that of `own` now.

    Where two files metered a device at once, `windows_until` returns the windows of the later one, so that exactly
    those count that the audit counts. Without it, the overlap is subtracted at the mean power of the file.

    `expected_of` is the rule of the GPUs that manifests must name, which a caller may remember while they
    stay the same.
    """
    opened = {name: file for name, file in files.items() if file.manifest is not None}
    ahead_s = _ahead(opened, offsets_s or {}, own)
    extents = {
        name: (file.times.started_s - ahead_s[name], file.times.end_s - ahead_s[name]) for name, file in opened.items()
    }
    attempt_started_s -= ahead_s.get(own or "", 0.0)
    order = sorted(opened, key=lambda name: (extents[name][0], opened[name].times.started_s, name))
    overlapped = _overlapped(opened, order, ahead_s, windows_until)
    going_on = {name for name in order if name == own or extents[name][1] >= attempt_started_s}
    taken = _taken(opened)
    current = {name: opened[name] for name in order if name in going_on or taken.get(name) in going_on}
    sums = _summed(opened, order, overlapped, current, taken)
    give_way()
    expected = expected_of(file.manifest for file in current.values() if file.manifest is not None)
    give_way()
    holdings = _holdings(opened, order, extents)
    reserved, now = _held(holdings, None if len(current) == len(opened) else _holdings(opened, list(current), extents))
    recorded = by_scope(sums.spent)
    give_way()
    unobserved = unobserved_energy(holdings, reserved.unobserved_s)
    give_way()
    rates = by_scope(sums.steady)
    give_way()
    return RunTotals(
        spent={**recorded, **unobserved.with_factors(mean_factors(recorded.values())).used},
        steady=tuple(energy_item(scope, used.energy, used.kind) for scope, used in rates.items()),
        steady_s=max((file.steady_s for file in current.values()), default=0.0),
        steady_steps=max((file.steady_steps for file in current.values()), default=0),
        reserved=reservations(devices=reserved.device_s, hosts=reserved.host_s),
        reserved_now=reservations(devices=now.device_s, hosts=now.host_s),
        power_w=sum(sums.power_w.values(), 0.0),
        gpus=len(sums.measured) + expected.missing_for_sure,
        gpus_measured=sum(sums.measured.values()),
        nodes_seen=len({file.manifest.node for file in current.values() if file.manifest}),
        last_step=max((file.last_step for file in opened.values()), default=0),
        device_j=sums.device_j,
    )


class _Sums(Struct, frozen=True):
    """Holds the sums over all devices of all files.

    `spent` and `steady` are energies of a device in a file. `power_w` is the present power of each device, `measured`
    says of each GPU whether it was measured last, and `device_j` is the recorded energy of each device.
    """

    spent: list[tuple[DeviceIdentity, UsedEnergy]]
    steady: list[tuple[DeviceIdentity, UsedEnergy]]
    power_w: dict[str, float]
    measured: dict[str, bool]
    device_j: dict[str, float]


def _summed(
    files: Mapping[str, FileTotals],
    order: Sequence[str],
    overlapped: Mapping[tuple[str, str], tuple[UsedEnergy, float]],
    current: Mapping[str, FileTotals],
    taken: Mapping[str, str],
) -> _Sums:
    """Return the sums over the devices of all files, in their order. `current` are the files of this attempt."""
    identities = {key: device for name in order for key, device in files[name].identities.items()}
    # Age counts from when this process read a file's last window, because clocks of nodes disagree.
    newest_s = max((file.times.heard_s for file in files.values()), default=0.0)
    sums = _Sums([], [], {}, {}, {})
    for name in order:
        give_way()
        file = files[name]
        fresh = newest_s - file.times.heard_s <= STALE_WINDOWS * max(file.times.last_window_s, 1.0)
        for key, totals in file.devices.items():
            device = identities.get(key)
            if device is None or device.rung not in IT_RUNGS:
                continue
            used, share = overlapped.get((name, key)) or (totals.energy.used, 1.0)
            sums.spent.append((device, used))
            sums.device_j[key] = sums.device_j.get(key, 0.0) + used.energy.value
            if name not in current:
                continue
            if name not in taken:  # the time of its rates is that of the file which took over
                steady = totals.steady.used
                sums.steady.append((device, steady if share == 1.0 else steady.scaled(share)))
            if fresh:  # of two meters of one device, the first has its power
                sums.power_w.setdefault(key, totals.power_w)
            if device.rung == "gpu":
                sums.measured[key] = totals.measured or (share < 1 and sums.measured.get(key, False))
    return sums


def _held(holdings: Sequence[Holding], current: Sequence[Holding] | None) -> tuple[Held, Held]:
    """Return the reserved time so far, and the units that are held now, each for one second. `current` are the holdings
    that go on, or None where all of them do.
    """
    together = held_together(holdings)
    give_way()
    reserved = together.time()
    give_way()
    if current is not None:
        together = held_together(current)
    now = together.time(each_s=1.0)
    give_way()
    return reserved, now


def _taken(files: Mapping[str, FileTotals]) -> dict[str, str]:
    """Return the file of local rank 0 that took over, by the name of each file whose GPUs it took."""
    takers = [file.timed(name) for name, file in files.items() if not file.left]
    found = {name: successor(file.timed(name), takers).name for name, file in files.items() if file.left}
    return {name: taker for name, taker in found.items() if taker != name}


def _ahead(files: Mapping[str, FileTotals], offsets_s: Mapping[Place, float], own: str | None) -> dict[str, float]:
    """Return by how many seconds the times of each file are ahead of those of the run.

    The offsets that the ledgers of rank 0 have recorded count, as in an audit. `offsets_s` are those that were noticed
    since.
    """
    latest = {file.place: name for name, file in sorted(files.items(), key=lambda item: item[1].times.heard_s)}
    noticed = {latest[place]: offset_s for place, offset_s in offsets_s.items() if place in latest}
    recorded = [
        (name, file.clock_offsets_s)
        for name, file in sorted(files.items(), key=lambda item: (item[1].times.started_s, item[0]))
        if name.startswith(RANK_0_FILES)
    ]
    return file_offsets([file.timed(name) for name, file in files.items()], [(own or "", noticed), *recorded])


def _overlapped(
    files: Mapping[str, FileTotals],
    order: Sequence[str],
    ahead_s: Mapping[str, float],
    windows_until: WindowsUntil | None,
) -> dict[tuple[str, str], tuple[UsedEnergy, float]]:
    """Return the energy that counts of a device in a file, and its share of the whole, where an earlier file metered
    the device at the same time.

    The keys are (file, device). The rule is that of the audit, `ledger.held.claims`.
    """
    give_way()
    holders: dict[str, int] = {}
    for file in files.values():
        for key in file.devices:
            holders[key] = holders.get(key, 0) + 1
    claims = DeviceClaims()
    found = {}
    for name in order:
        claims.begin(name)
        contested: dict[str, Extent] = {}
        for key, totals in files[name].devices.items():
            if holders[key] > 1:
                if totals.start_s is None or totals.end_s is None:
                    continue  # no energy of the device is known
                start_s, end_s = totals.start_s - ahead_s[name], totals.end_s - ahead_s[name]
                if end_s > start_s and claims.claim(key, start_s, end_s):
                    contested[key] = start_s, end_s
        if contested:
            until_s = max(claims.claimed_until_s(key) for key in contested) + ahead_s[name]
            windows = windows_until(name, until_s) if windows_until is not None else ()
            for key, extent in contested.items():
                kept = _counted_once(claims, key, files[name], extent, windows, ahead_s[name])
                if kept is not None:
                    found[name, key] = kept
        claims.end()
    return found


def _counted_once(
    claims: DeviceClaims, key: str, file: FileTotals, extent: Extent, windows: Sequence[Window], ahead_s: float
) -> tuple[UsedEnergy, float] | None:
    """Return the energy of a device that an earlier file has not metered, and its share of the whole, or None where
    that is all of it.
    """
    whole, read, lost = file.devices[key].energy.used, UsedSum(), UsedSum()
    start_s, end_s = extent
    touched = False
    for window in windows:
        intensity, pue = file.factors_of(window)
        start_s = max(start_s, window.start_unix_s + window.duration_s - ahead_s)
        for energy in window.energies:
            if energy.key == key and energy.energy_j is not None:
                share = claims.share(key, window.start_unix_s - ahead_s, window.duration_s)
                read.add(energy, intensity, pue)
                if share < 1.0:
                    touched = True
                    lost.add(energy, intensity, pue, 1.0 - share)
    kept = whole.less(lost.used)
    # Of windows that could not be read again, the overlap is subtracted at their mean power.
    rest_share = claims.share(key, start_s, end_s - start_s) if end_s > start_s else 1.0
    if rest_share < 1.0:
        touched = True
        kept = kept.less(whole.less(read.used).scaled(1.0 - rest_share))
    if not touched:
        return None
    return kept, kept.energy.value / whole.energy.value if whole.energy.value > 0 else 0.0


def _holdings(files: Mapping[str, FileTotals], names: Sequence[str], extents: Mapping[str, Extent]) -> list[Holding]:
    """Return the contribution of each of the named files to the reserved time."""
    return [
        Holding(manifest=manifest, start_s=extents[name][0], end_s=extents[name][1], shared_s=file.shared.by_device_s)
        for name in names
        if (manifest := (file := files[name]).manifest) is not None
    ]
