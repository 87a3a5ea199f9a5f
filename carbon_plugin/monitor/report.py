"""What one node's ledger amounts to, as one fixed binary record that fits a datagram.

The sums are cumulative: a record that is lost or comes twice changes nothing, the next one says it all again. A record
carries a keyed digest of the run's id, so that another run's records, or noise, are recognised and dropped.
"""

from __future__ import annotations

import hashlib
import math
import struct
import time
from typing import get_args

from carbon_plugin.ledger.records import LEDGER_VERSION, Manifest, Span
from carbon_plugin.monitor.totals import DeviceTotals, Energy, FileTotals
from carbon_plugin.spec.devices import DeviceIdentity, Rung

MAGIC = b"CPR3"
DIGEST_BYTES = 16
NAME_BYTES = 48
RUNGS: tuple[Rung, ...] = get_args(Rung)
FILE_BYTES = 64
_HEAD = struct.Struct(f"<4s 16s {FILE_BYTES}s {NAME_BYTES}s 6I 13d")
"""magic, host digest, file name, GPU name; node, nodes, attempt, world size, GPUs, GPUs measured; started, reserved
since (NaN if unknown), end, last window, steady seconds, host share, whole GPUs (a MIG slice is a part), steps so far,
steady steps, and the last comparison span: first and last step (0 if there is none), start, duration."""
_RUNG = struct.Struct("<10d")
"""Energy (central, low, high, stated, weighted), steady energy (central, low, high), power, devices."""
REPORT_BYTES = _HEAD.size + len(RUNGS) * _RUNG.size + DIGEST_BYTES


def pack_report(file: str, totals: FileTotals, run_id: str) -> bytes | None:
    """The record of one ledger, `REPORT_BYTES` long; None before its manifest is written."""
    manifest = totals.manifest
    if manifest is None:
        return None
    gpus = [key for key, device in totals.identities.items() if device.rung == "gpu"]
    name = totals.identities[gpus[0]].name if gpus else ""
    measured = sum(totals.devices[key].measured for key in gpus if key in totals.devices)
    reserved = manifest.reserved_since_unix_s
    span = totals.spans.last
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
        totals.started_s,
        float("nan") if reserved is None else reserved,
        totals.end_s,
        totals.last_window_s,
        totals.steady_s,
        manifest.host_share,
        sum(totals.identities[key].units for key in gpus),
        float(totals.last_step),
        float(totals.steady_steps),
        *((span.first_step, span.last_step, span.start_unix_s, span.duration_s) if span else (0.0, 0.0, 0.0, 0.0)),
    )
    body = head + b"".join(_RUNG.pack(*_sums(totals, rung)) for rung in RUNGS)
    return body + _digest(body, run_id)


def unpack_report(record: bytes, run_id: str) -> tuple[str, FileTotals] | None:
    """The ledger's file name and totals, the devices of a rung alike; None for anything but a record of the run."""
    body, digest = record[:-DIGEST_BYTES], record[-DIGEST_BYTES:]
    if len(record) != REPORT_BYTES or not body.startswith(MAGIC) or digest != _digest(body, run_id):
        return None
    (_, host, file, name, node, nodes, attempt, world, gpus, measured, *numbers) = _HEAD.unpack(body[: _HEAD.size])
    started_s, reserved_s, end_s, last_window_s, steady_s, host_share, whole_gpus, *numbers = numbers
    last_step, steady_steps, *span = numbers
    totals = FileTotals()
    identities, devices = [], {}
    for index, rung in enumerate(RUNGS):
        offset = _HEAD.size + index * _RUNG.size
        *sums, power_w, count = _RUNG.unpack(body[offset : offset + _RUNG.size])
        kind = _text(name) if rung == "gpu" else rung
        for number in range(int(count)):
            key = f"{host.hex()}/{rung}{number}"
            seen = rung != "gpu" or number < measured
            identity = DeviceIdentity(
                key=key,
                name=kind,
                rung=rung,
                scope=rung,
                meter="reported by its node",
                energy_kind="counter" if rung == "gpu" and seen else "modelled",
                share=whole_gpus / gpus if rung == "gpu" and whole_gpus < gpus else None,
            )
            identities.append(identity)
            shares = [value / count for value in sums]
            devices[key] = DeviceTotals(Energy(*shares[:5]), Energy(*shares[5:]), power_w / count, seen)
    totals.add(
        Manifest(
            version=LEDGER_VERSION,
            run_id=run_id,
            attempt=attempt,
            node=node,
            nodes=nodes,
            host_key=host.hex(),
            hostname="",
            world_size=world,
            started_unix_s=started_s,
            reserved_since_unix_s=None if math.isnan(reserved_s) else reserved_s,
            devices=identities,
            effective={},
            factors={},
            versions={},
            host_share=host_share,
        )
    )
    totals.devices = devices
    totals.heard_s = time.monotonic()
    totals.end_s, totals.last_window_s, totals.steady_s = end_s, last_window_s, steady_s
    totals.last_step, totals.steady_steps = int(last_step), int(steady_steps)
    first_of_span, last_of_span, span_start_s, span_s = span
    if last_of_span:
        steps = last_of_span - first_of_span + 1
        totals.spans.add(
            Span(
                first_step=int(first_of_span),
                last_step=int(last_of_span),
                start_unix_s=span_start_s,
                duration_s=span_s,
                step_time_s=span_s / steps,
                predicted_step_time_s=None,
                gpu_energy_per_step_j=None,
                predicted_gpu_energy_per_step_j=None,
                boundary_error_s=0.0,
            )
        )
    return _text(file), totals


def _sums(totals: FileTotals, rung: Rung) -> tuple[float, ...]:
    energy, steady = Energy(), Energy()
    power_w, count = 0.0, 0
    for key, identity in totals.identities.items():
        if identity.rung != rung:
            continue
        count += 1
        device = totals.devices.get(key)
        if device is not None:
            energy.merge(device.energy)
            steady.merge(device.steady)
            power_w += device.power_w
    return (
        energy.central_j,
        energy.low_j,
        energy.high_j,
        energy.stated_j,
        energy.weighted_j_g_per_kwh,
        steady.central_j,
        steady.low_j,
        steady.high_j,
        power_w,
        float(count),
    )


def _digest(body: bytes, run_id: str) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES, key=run_id.encode()[:64]).digest()


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
