"""Which device and host was reserved for how long: the time that embodied carbon is charged for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from carbon_plugin.audit.collect import FilePass
from carbon_plugin.audit.result import Reserved
from carbon_plugin.footprint.account import Reservation

Interval = tuple[float, float]


def covered_s(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals."""
    return sum(end - start for start, end in union(intervals))


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals that cover the same, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def reserved_time(files: Sequence[FilePass]) -> Reserved:
    """Reserved time of devices and hosts over all files, each device and host once at any moment.

    It starts at the allocation, where the manifest knows it, else at the first record, and ends with the last record. A
    gap between attempts counts only if the later one's allocation spans it. A MIG slice counts as its share of a GPU.
    Where no GPU was seen, every rank stands for one device.
    """
    reserved: dict[str, list[Interval]] = {}
    observed: dict[str, list[Interval]] = {}
    weights: dict[str, float] = {}
    hosts: dict[str, list[Interval]] = {}
    shares: dict[str, float] = {}
    counted_from = set()
    for file in files:
        manifest = file.manifest
        start_s, end_s = file.extent
        before_s = max(0.0, manifest.started_unix_s - (manifest.reserved_since_unix_s or manifest.started_unix_s))
        whole = (start_s - before_s, end_s)
        gpus = {device.key: device.units for device in manifest.devices if device.rung == "gpu"}
        counted_from.add(_counted_from(gpus.values()))
        ranks = {f"ranks of {manifest.host_key}": manifest.world_size / max(1, manifest.nodes)}
        for key, weight in (gpus or ranks).items():
            weights[key] = weight
            reserved.setdefault(key, []).append(whole)
            observed.setdefault(key, []).append((start_s, end_s))
        # Containers of one job may hold a host in parts, each with GPUs of its own: the parts add up.
        host = manifest.host_key if manifest.host_share >= 1 else " ".join((manifest.host_key, *sorted(gpus)))
        hosts.setdefault(host, []).append(whole)
        shares[host] = max(shares.get(host, 0.0), manifest.host_share)
    device_s = sum(weights[key] * covered_s(intervals) for key, intervals in reserved.items())
    observed_s = sum(weights[key] * covered_s(intervals) for key, intervals in observed.items())
    return Reserved(
        device_s=device_s,
        before_first_record_s=device_s - observed_s,
        host_s=sum(shares[key] * covered_s(intervals) for key, intervals in hosts.items()),
        devices_from=" and ".join(sorted(counted_from)),
    )


def _counted_from(units: Collection[float]) -> str:
    if not units:
        return "ranks, because no GPU was seen"
    slices = ", a MIG slice as its share of a GPU" if min(units) < 1 else ""
    return f"GPUs that the ledgers name{slices}"


def reservations_of(reserved: Reserved) -> list[Reservation]:
    """Reserved time as the accounting takes it: unit-seconds of each embodied scope."""
    return [
        Reservation(scope="device", units=1.0, time_s=reserved.device_s),
        Reservation(scope="host", units=1.0, time_s=reserved.host_s),
        Reservation(scope="network", units=1.0, time_s=reserved.device_s),
    ]
