"""Pack the totals of one node's ledger into a fixed binary record that fits a datagram, and unpack it.

The sums are cumulative. A record that is lost or comes twice changes nothing, because the next one has all sums again.
A record carries a digest keyed by the run's secret, so that nobody else's records count. Its numbers are checked
against what is possible: one record can take neither much time nor much memory, nor add energy that its devices could
not have used.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
import time
from collections.abc import Sequence
from typing import get_args

from msgspec import Struct

from carbon_plugin.ledger.held.account_inputs import UsedEnergy, UsedSum, total_used
from carbon_plugin.ledger.records import LEDGER_VERSION, MACHINE, Manifest, Span
from carbon_plugin.monitor.ledgers.file_totals import DeviceTotals, FileTotals
from carbon_plugin.spec.metered import DeviceIdentity, Rung
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import SECONDS_PER_YEAR
from carbon_plugin.spec.site import MOST_PUE

MAGIC = b"CPR6"
DIGEST_BYTES = 16
NAME_BYTES = 48
RUNGS: tuple[Rung, ...] = get_args(Rung)
FILE_BYTES = 64
_HEAD = struct.Struct(f"<4s 16s {FILE_BYTES}s {NAME_BYTES}s 6I 15d")
"""The fields are: magic, host digest, file name, GPU name; node, nodes, attempt, world size, GPUs, GPUs measured;
started, reserved since (NaN if unknown), end, last window, steady seconds, host share, whole GPUs (a MIG slice is a
part), seconds of the mean GPU and of the machine that others are charged for, steps so far, steady steps, and the last
comparison span: first and last step (0 if there is none), start, duration."""
_RUNG = struct.Struct("<18d")
"""The fields are: the eight sums of `UsedSum` over all time, the same without start-up and idling, power, and number of
devices."""
_SUMS = len(Range.__struct_fields__) + len(UsedSum.__struct_fields__) - 1
MOST_DEVICES: dict[Rung, int] = {"gpu": 1024, "host": 64, "network": 64, "facility": 64}
"""No node has more devices of a rung."""
MOST_W: dict[Rung, float] = {"gpu": 5e3, "host": 2e5, "network": 1e5, "facility": 1e9}
"""No device of a rung draws more: a GPU up to 1.4 kW, a whole rack 150 kW."""
MOST_S = 10 * SECONDS_PER_YEAR
MOST_G_PER_KWH = 1e5
MOST_STEPS = 1e12
SLACK_S = 60.0
"""Lengths may exceed the time of the ledger by this many seconds, because a window that has begun counts and clocks are
slewed."""
REPORT_BYTES = _HEAD.size + len(RUNGS) * _RUNG.size + DIGEST_BYTES


def pack_report(file: str, totals: FileTotals, key: bytes) -> bytes | None:
    """Return the record of one ledger, `REPORT_BYTES` long, or None before its manifest is written."""
    manifest = totals.manifest
    if manifest is None:
        return None
    gpus = [key for key, device in totals.identities.items() if device.rung == "gpu"]
    name = totals.identities[gpus[0]].name if gpus else ""
    measured = sum(totals.devices[key].measured for key in gpus if key in totals.devices)
    reserved = manifest.reserved_since_unix_s
    span, shared_s = totals.spans.last, totals.shared.by_device_s
    head = _HEAD.pack(
        MAGIC,
        hashlib.blake2b(manifest.host_key.encode(), digest_size=16).digest(),
        file.encode()[:FILE_BYTES],
        name.encode()[:NAME_BYTES],
        manifest.node,
        manifest.nodes,
        manifest.attempt,
        manifest.world_size,
        len(gpus),
        measured,
        totals.times.started_s,
        float("nan") if reserved is None else reserved,
        totals.times.end_s,
        totals.times.last_window_s,
        totals.steady_s,
        manifest.host_share,
        sum(totals.identities[key].units for key in gpus),
        sum(shared_s.get(key, 0.0) for key in gpus) / max(1, len(gpus)),
        shared_s.get(MACHINE, 0.0),
        float(totals.last_step),
        float(totals.steady_steps),
        *((span.first_step, span.last_step, span.start_unix_s, span.duration_s) if span else (0.0, 0.0, 0.0, 0.0)),
    )
    body = head + b"".join(_RUNG.pack(*_sums(totals, rung)) for rung in RUNGS)
    return body + _digest(body, key)


class _Head(Struct, frozen=True, kw_only=True):
    """Holds the numbers at the beginning of a record, in its order."""

    node: int
    nodes: int
    attempt: int
    world_size: int
    gpus: int
    measured: int
    started_s: float
    reserved_s: float
    end_s: float
    last_window_s: float
    steady_s: float
    host_share: float
    whole_gpus: float
    gpu_shared_s: float
    machine_shared_s: float
    last_step: float
    steady_steps: float
    first_of_span: float
    last_of_span: float
    span_start_s: float
    span_s: float

    @property
    def time_s(self) -> float:
        """Return how long the ledger has been written, s."""
        return self.end_s - self.started_s

    @property
    def possible(self) -> bool:
        """Return whether a node can have such numbers."""
        times = (self.started_s, self.end_s, self.span_start_s)
        lengths = (self.last_window_s, self.steady_s, self.span_s, self.gpu_shared_s, self.machine_shared_s)
        steps = (self.last_step, self.steady_steps, self.first_of_span, self.last_of_span)
        return (
            self.node < self.nodes
            and self.world_size > 0
            and self.measured <= self.gpus <= MOST_DEVICES["gpu"]
            and all(0 <= moment_s < 1e11 for moment_s in times)
            and (math.isnan(self.reserved_s) or 0 <= self.reserved_s <= self.started_s + SLACK_S)
            and 0 <= self.time_s <= MOST_S
            and all(0 <= length_s <= self.time_s + SLACK_S for length_s in lengths)
            and all(0 <= count <= MOST_STEPS for count in steps)
            and 0 <= self.host_share <= 1
            and 0 <= self.whole_gpus <= self.gpus
        )


def unpack_report(record: bytes, key: bytes) -> tuple[str, FileTotals] | None:
    """Return the ledger's file name and totals, with the devices of a rung all alike.

    Return None for anything but a record of the run with possible numbers. It never raises.
    """
    body, digest = record[:-DIGEST_BYTES], record[-DIGEST_BYTES:]
    if len(record) != REPORT_BYTES or not hmac.compare_digest(digest, _digest(body, key)):
        return None
    magic, host, file, name, *numbers = _HEAD.unpack(body[: _HEAD.size])
    head = _Head(**dict(zip(_Head.__struct_fields__, numbers, strict=True)))
    file_name = _text(file)
    named = file_name.startswith(f"node-{head.node}.") and file_name.endswith(f".attempt-{head.attempt}.jsonl")
    if magic != MAGIC or not head.possible or not named:
        return None
    sums = {rung: _RUNG.unpack_from(body, _HEAD.size + index * _RUNG.size) for index, rung in enumerate(RUNGS)}
    if not all(_is_possible(rung, numbers, head) for rung, numbers in sums.items()):
        return None
    return file_name, _totals(head, host.hex(), _text(name), sums)


def _is_possible(rung: Rung, numbers: Sequence[float], head: _Head) -> bool:
    """Return whether the devices of a rung can have used so much energy in the time."""
    *sums, power_w, count = numbers
    most_w = count * MOST_W[rung]
    most_j = most_w * (head.time_s + SLACK_S)
    return (
        0 <= count <= MOST_DEVICES[rung]
        and count == int(count)
        and (rung != "gpu" or count == head.gpus)
        and all(_are_possible(_sum_of(part), most_j) for part in (sums[:_SUMS], sums[_SUMS:]))
        and 0 <= power_w <= most_w
    )


def _are_possible(sums: UsedSum, most_j: float) -> bool:
    """Return whether these sums can follow from at most `most_j`. A measurement may take back an earlier estimate, so
    that the estimate may be negative."""
    facility_j = most_j * MOST_PUE
    energies_j = (sums.energy.value, sums.energy.low, sums.energy.high, sums.told_j, sums.without_factors_j)
    return (
        all(0 <= energy_j <= most_j for energy_j in energies_j)
        and abs(sums.estimated_j) <= most_j
        and 0 <= sums.facility_j <= facility_j
        and 0 <= sums.weighted_j_g_per_kwh <= facility_j * MOST_G_PER_KWH
    )


def _totals(head: _Head, host: str, gpu_name: str, sums: dict[Rung, tuple[float, ...]]) -> FileTotals:
    totals, devices = FileTotals(), _devices(head, host, gpu_name, sums)
    totals.add(_manifest(head, host, [identity for identity, _ in devices]))
    totals.devices = {identity.key: device for identity, device in devices}
    gpus = {identity.key: head.gpu_shared_s for identity, _ in devices if identity.rung == "gpu"}
    totals.shared.by_device_s = {MACHINE: head.machine_shared_s, **gpus}
    totals.times.heard_s = time.monotonic()
    totals.times.end_s, totals.times.last_window_s, totals.steady_s = head.end_s, head.last_window_s, head.steady_s
    totals.last_step, totals.steady_steps = int(head.last_step), int(head.steady_steps)
    if 0 < head.first_of_span <= head.last_of_span and head.span_s > 0:
        totals.spans.add(_span(head))
    return totals


def _devices(
    head: _Head, host: str, gpu_name: str, sums: dict[Rung, tuple[float, ...]]
) -> list[tuple[DeviceIdentity, DeviceTotals]]:
    """Return the devices of a node, of which each has an equal part of the sums of its rung."""
    found = []
    for rung, (*shared, power_w, count) in sums.items():
        for number in range(int(count)):
            seen = rung != "gpu" or number < head.measured
            identity = DeviceIdentity(
                key=f"{host}/{rung}{number}",
                name=gpu_name if rung == "gpu" else rung,
                rung=rung,
                scope=rung,
                meter="reported by its node",
                energy_kind="counter" if rung == "gpu" and seen else "modelled",
                share=head.whole_gpus / head.gpus if rung == "gpu" and head.whole_gpus < head.gpus else None,
            )
            shares = [value / count for value in shared]
            device = DeviceTotals(
                energy=_sum_of(shares[:_SUMS]),
                steady=_sum_of(shares[_SUMS:]),
                power_w=power_w / count,
                measured=seen,
                start_s=head.started_s,
                end_s=head.end_s,
            )
            found.append((identity, device))
    return found


def _manifest(head: _Head, host: str, identities: list[DeviceIdentity]) -> Manifest:
    return Manifest(
        version=LEDGER_VERSION,
        run_id="",
        attempt=head.attempt,
        node=head.node,
        nodes=head.nodes,
        host_key=host,
        hostname="",
        world_size=head.world_size,
        started_unix_s=head.started_s,
        reserved_since_unix_s=None if math.isnan(head.reserved_s) else head.reserved_s,
        devices=identities,
        effective={},
        factors={},
        versions={},
        host_share=head.host_share,
    )


def _span(head: _Head) -> Span:
    return Span(
        first_step=int(head.first_of_span),
        last_step=int(head.last_of_span),
        start_unix_s=head.span_start_s,
        duration_s=head.span_s,
        step_time_s=head.span_s / (head.last_of_span - head.first_of_span + 1),
        predicted_step_time_s=None,
        gpu_energy_per_step_j=None,
        predicted_gpu_energy_per_step_j=None,
        boundary_error_s=0.0,
    )


def _sums(totals: FileTotals, rung: Rung) -> tuple[float, ...]:
    """Return the numbers of a rung in the order of `_RUNG`."""
    keys = [key for key, identity in totals.identities.items() if identity.rung == rung]
    devices = [device for key in keys if (device := totals.devices.get(key)) is not None]
    return (
        *_numbers(total_used([device.energy.used for device in devices])),
        *_numbers(total_used([device.steady.used for device in devices])),
        math.fsum(device.power_w for device in devices),
        float(len(keys)),
    )


def _sum_of(numbers: Sequence[float]) -> UsedSum:
    """Return the sum that `_numbers` wrote."""
    return UsedSum(Range(*numbers[:3]), *numbers[3:])


def _numbers(used: UsedEnergy) -> tuple[float, ...]:
    """Return an energy in the order of the fields of `UsedSum`, that of its range first."""
    energy = used.energy
    return (
        energy.value,
        energy.low,
        energy.high,
        used.told_j,
        used.estimated_j,
        used.facility_j,
        used.weighted_j_g_per_kwh,
        used.without_factors_j,
    )


def _digest(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES, key=key).digest()


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
