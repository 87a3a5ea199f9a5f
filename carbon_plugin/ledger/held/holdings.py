"""Compute from its ledgers how long a run held each device and host. Embodied carbon is charged for this time.

A device counts once at any moment, less the part that other runs are charged for. The live totals and the audit both
use this rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.ledger.columns import WindowColumns
from carbon_plugin.ledger.records import MACHINE, Manifest, Window
from carbon_plugin.threads.turns import give_way

ReservedStretch = tuple[float, float, float, float]
"""The start of the reservation, of the records, their end (s by one clock), and the run's part of the device
meanwhile.
"""


class Holding(Struct, frozen=True, kw_only=True):
    """Holds one file's contribution to the reserved time: its last manifest, the time from its first to its last record
    by the clock of the run, and the seconds in it that others are charged for (`SharedTime`).
    """

    manifest: Manifest
    start_s: float
    end_s: float
    shared_s: Mapping[str, float]

    @property
    def since_s(self) -> float:
        """Return when the devices were reserved, s by the clock of the run: at the allocation if that is known, else at
        the first record.
        """
        since_s = self.manifest.reserved_since_unix_s
        return self.start_s - (0.0 if since_s is None else max(0.0, self.manifest.started_unix_s - since_s))


class Held(Struct, frozen=True, kw_only=True):
    """Holds the device and host time of a run, s.

    `shared_s` is device time that others are charged for, and that is not in `device_s`. `unobserved_s` is the part of
    `device_s` that no record covers, before the first record and between attempts of one allocation, by the profile of
    the device, or by what its driver calls it; ranks without a device are under the empty name. `whole_device_s` and
    `whole_host_s` are the times for which devices and hosts were reserved, of which the run may have had a part only (a
    MIG slice, a share).
    """

    device_s: float
    unobserved_s: Mapping[str, float]
    host_s: float
    shared_s: float
    whole_device_s: float
    whole_host_s: float

    @property
    def before_first_record_s(self) -> float:
        """Return the device time that no record covers, s."""
        return sum(self.unobserved_s.values())


class SharedTime:
    """Keeps the running sum of the seconds of each device, and of the machine, that others than this run are charged
    for.
    """

    def __init__(self) -> None:
        self.by_device_s: dict[str, float] = {}

    def add(self, window: Window) -> None:
        """Add the next window."""
        self._add(window.parts or {}, window.duration_s)

    def add_all(self, windows: WindowColumns) -> None:
        """Add the next windows."""
        if any(windows.parts):
            for parts, duration_s in zip(windows.parts, windows.duration_s.tolist(), strict=True):
                self._add(parts or {}, duration_s)

    def _add(self, parts: Mapping[str, float], duration_s: float) -> None:
        for key, part in parts.items():
            self.by_device_s[key] = self.by_device_s.get(key, 0.0) + (1.0 - part) * duration_s


class HeldTogether(Struct, frozen=True, kw_only=True):
    """The devices and hosts that some files held, grouped so that the times of a group are computed once.

    `devices` are groups of devices that the same files name alike: their stretches, their profile, and their units.
    `hosts` are the stretches of each host with the share of it that is charged.
    """

    devices: list[tuple[list[ReservedStretch], str, list[float]]]
    hosts: list[tuple[list[ReservedStretch], float]]

    def time(self, each_s: float | None = None) -> Held:
        """Return the device and host time. With `each_s` every unit counts for that many seconds."""
        device_s = all_s = whole_device_s = 0.0
        unobserved_s: dict[str, float] = {}
        for stretches, profile, units in self.devices:
            reserved_s = _charged_s([(since, start, end, 1.0) for since, start, end, _ in stretches], each_s)
            observed_s = each_s or covered_s((start, end) for _, start, end, _ in stretches)
            weight = sum(units)
            device_s += weight * _charged_s(stretches, each_s)
            all_s += weight * reserved_s
            whole_device_s += len(units) * reserved_s
            unobserved_s[profile] = unobserved_s.get(profile, 0.0) + weight * max(0.0, reserved_s - observed_s)
        charged_s = [(_charged_s(stretches, each_s), share) for stretches, share in self.hosts]
        return Held(
            device_s=device_s,
            unobserved_s=unobserved_s,
            host_s=sum(share * host_s for host_s, share in charged_s),
            shared_s=max(0.0, all_s - device_s),
            whole_device_s=whole_device_s,
            whole_host_s=sum(host_s for host_s, _ in charged_s),
        )


def held(holdings: Sequence[Holding]) -> Held:
    """Return the device and host time that the files of a run held together.

    Time starts at the allocation, where a manifest knows it, else at the first record, and ends with the last record. A
    gap between attempts counts only if the later one's allocation spans it. A MIG slice counts as its share of a GPU.
    Where no GPU is metered, every rank stands for one device. Where several files name a device at a time, the one that
    begins first says which part of it is the run's.
    """
    return held_together(holdings).time()


def held_together(holdings: Sequence[Holding]) -> HeldTogether:
    """Return the devices and hosts of the files of a run by the files that held them."""
    named_by: dict[str, list[int]] = {}
    units: dict[str, float] = {}
    profiles: dict[str, str] = {}
    hosts: dict[str, list[ReservedStretch]] = {}
    host_shares: dict[str, float] = {}
    parts: dict[str, list[float]] = {}
    whole: list[tuple[float, float, float]] = []
    for number, one in enumerate(holdings):
        give_way()
        manifest = one.manifest
        whole.append((one.since_s, one.start_s, one.end_s))
        gpus = gpus_of(manifest)
        ranks = {f"ranks of {manifest.host_key}": manifest.world_size / max(1, manifest.nodes)}
        for key, weight in (gpus or ranks).items():
            named_by.setdefault(key, []).append(number)
            parts.setdefault(key, []).append(_part(one, key if gpus else MACHINE))
            units[key] = weight
            profiles[key] = ""
        profiles |= {device.key: device.profile or device.name for device in manifest.devices if device.key in units}
        # Containers of one job may hold a host in parts, each with GPUs of its own: the parts add up.
        host = manifest.host_key if manifest.host_share >= 1 else " ".join((manifest.host_key, *sorted(gpus)))
        hosts.setdefault(host, []).append((*whole[number], _part(one, MACHINE)))
        host_shares[host] = max(host_shares.get(host, 0.0), manifest.host_share)
    # Devices that the same files name alike were held together: thousands of them have as many stretches as one.
    together: dict[tuple[tuple[int, ...], tuple[float, ...], str], list[float]] = {}
    for key, numbers in named_by.items():
        group = tuple(numbers), tuple(parts[key]), profiles[key]
        together.setdefault(group, []).append(units[key])
    return HeldTogether(
        devices=[
            ([(*whole[number], part) for number, part in zip(files, own, strict=True)], profile, weights)
            for (files, own, profile), weights in together.items()
        ],
        hosts=[(stretches, host_shares[host]) for host, stretches in hosts.items()],
    )


def held_until(holdings: Sequence[Holding], moment_s: float) -> Held:
    """Return what the files of a run held together until a moment, s by the clock of the run."""
    return held([_until(one, moment_s) for one in holdings if one.since_s < moment_s])


def _until(holding: Holding, moment_s: float) -> Holding:
    """Return the part of a holding that lies before a moment."""
    if moment_s >= holding.end_s:
        return holding
    manifest, start_s = holding.manifest, min(holding.start_s, moment_s)
    reserved_s = manifest.started_unix_s - (start_s - holding.since_s)
    share = (moment_s - start_s) / (holding.end_s - holding.start_s)
    return Holding(
        manifest=replace(manifest, reserved_since_unix_s=reserved_s),
        start_s=start_s,
        end_s=moment_s,
        shared_s={key: seconds * share for key, seconds in holding.shared_s.items()},
    )


def gpus_of(manifest: Manifest) -> dict[str, float]:
    """Return the GPUs that a manifest names by key, each with the part of a whole GPU that it is."""
    return {device.key: device.units for device in manifest.devices if device.rung == "gpu"}


def covered_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, s."""
    return _charged_s([(start, start, end, 1.0) for start, end in intervals], None)


def _part(holding: Holding, key: str) -> float:
    """Return the run's part of a device, 0 to 1, over all records of a file."""
    length_s = holding.end_s - holding.start_s
    return 1.0 - min(1.0, holding.shared_s.get(key, 0.0) / length_s) if length_s > 0 else 1.0


def _charged_s(stretches: Collection[ReservedStretch], each_s: float | None) -> float:
    """Return the length of the union of stretches, s, with each moment multiplied by the part of the first stretch that
    covers it.

    What lies before the records of a file counts as a whole. With `each_s` the last stretch counts for so long.
    """
    if each_s is not None:
        return each_s * max(stretches, key=lambda stretch: stretch[2])[3]
    charged, edge = 0.0, float("-inf")
    for since, start, end, part in sorted(stretches):
        begin = max(since, edge)
        if end > begin:
            records = min(max(begin, start), end)
            charged += (records - begin) + part * (end - records)
            edge = end
    return charged
