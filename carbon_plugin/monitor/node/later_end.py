"""Say for how long a process has trained on after those that metered its devices had ended.

No meter is opened for that: a driver may take seconds, which would delay the end of the process. The ledger of the
process that has ended names the devices.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import Close, Manifest
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.ledgers.place import RunPlace
from carbon_plugin.monitor.node.manifest import Beginning, OnRecord, manifest_of
from carbon_plugin.monitor.processes.leader import HOST, Claim
from carbon_plugin.spec.metered import DeviceIdentity


def tell_end(
    job: WatchedJob,
    place: RunPlace,
    context: Context,
    claims: list[Claim],
    *,
    taken: Collection[str],
    follows: Sequence[str],
    reserved_since_unix_s: float,
) -> str:
    """Write a ledger that begins and ends with the training of this process, and has no windows. Return its name, which
    is empty where none could be written.

    `taken` are the devices, with `HOST` for the host, and `follows` the ledgers of the processes that metered them.
    Raises `LedgerError` if one of those cannot be read.
    """
    before = [manifest for file in follows if (manifest := _first_manifest(place, file)) is not None]
    devices = {device.key: device for manifest in before for device in manifest.devices if _is_among(device, taken)}
    if not devices:
        return ""
    clock, wall = job.clock, job.wall
    ended_s = time.monotonic() if clock.ended_s is None else clock.ended_s
    metered = OnRecord(
        host_key=before[0].host_key,
        hostname=before[0].hostname,
        devices=list(devices.values()),
        host_share=max(manifest.host_share for manifest in before) if HOST in taken else 0.0,
    )
    beginning = Beginning(
        started_unix_s=wall.unix_s(ended_s),
        started_boot_s=wall.boot_s(ended_s),
        reserved_since_unix_s=reserved_since_unix_s,
        follows=tuple(follows),
    )
    journal = Journal(
        lambda: place.open_writer(job.ranks.node, None),
        lambda sentence: job.note("ledger_trouble", sentence),
    )
    journal.write(manifest_of(job, place.identity, context, metered, claims, beginning))
    journal.write(Close(at_unix_s=wall.unix_s(ended_s), reason="closed", steps=0, windows=0, energy_j=0.0))
    journal.close()
    return journal.file or ""


def _first_manifest(place: RunPlace, file: str) -> Manifest | None:
    first = next(iter(LedgerStream(place.run_dir / file)), None)
    return first if isinstance(first, Manifest) else None


def _is_among(device: DeviceIdentity, taken: Collection[str]) -> bool:
    return device.key in taken if device.rung == "gpu" else HOST in taken
