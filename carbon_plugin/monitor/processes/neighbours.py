"""Share the energy of GPUs with other runs of this user. While several runs use a GPU, each is charged an equal share.

Nobody can tell how a GPU's energy divides between processes of different runs, but its joules must not be charged
twice. Runs of one host find each other in the temporary directory. Runs in other containers or of other users are not
found. Processes of one run, and trainings of one process, share in other ways.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.ledger.records import DeviceEnergy
from carbon_plugin.meters.host.share import SHARE_SPREAD
from carbon_plugin.monitor.processes.scratch import Folder, forget_in_child
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.turns import give_way

EVENT = "gpu_shared"
FOLDER = "gpus"
KEPT_S = 3600.0
"""The entry of a run that has ended is kept for this many seconds, longer than any window in which another run may ask
for it."""
AT_REST_NS = 1_000_000_000
"""A folder is at rest when it has not changed for this many nanoseconds: time stamps of files are coarser than that of
the clock."""
_ALIVE, _TENANT = ".alive", ".tenant"


class Tenant(Struct, frozen=True, kw_only=True):
    """Describes a process that meters GPUs for a run between two moments of the host's monotonic clock, s."""

    run_id: str
    name: str
    process: str
    gpus: list[str]
    since_s: float
    until_s: float | None = None


# Made with the module: a type is looked through when its first decoder is made, and that takes longer than a turn.
_tenant_decoder = msgspec.json.Decoder(Tenant)


class _Process:
    """Holds a token that tells this process from all others, also in other containers. A forked child gets a new
    one."""

    token = uuid.uuid4().hex

    @classmethod
    def renew(cls) -> None:
        cls.token = uuid.uuid4().hex


class Neighbours:
    """Holds the other runs on these GPUs. Without a `scratch` folder there are none. Only the monitor thread uses
    it."""

    def __init__(self, scratch: Folder | None, run_id: str, name: str, gpus: Sequence[str], since_s: float) -> None:
        self._id = uuid.uuid4().hex
        self._own = Tenant(run_id=run_id, name=name, process=_Process.token, gpus=list(gpus), since_s=since_s)
        self._folder: Folder | None = None
        self._alive_fd = -1
        self._others: list[Tenant] = []
        self._listed_ns: int | None = None
        self._said: set[str] = set()
        forget_in_child(self)
        if scratch is not None and gpus:
            with contextlib.suppress(OSError):
                self._folder = scratch.sub(FOLDER)
                self._alive_fd = self._folder.lock(self._id + _ALIVE) or -1
                self._tell(self._own)
        if scratch is not None:
            scratch.close()

    def look(self) -> None:
        """Find the runs that use these GPUs, or have used them since this run began."""
        folder, others = self._folder, []
        if folder is None:
            return
        changed_ns = folder.changed_unix_ns()
        if not self._others and changed_ns == self._listed_ns:
            return  # an entry appears, changes and ends by a change of the folder
        # Two changes may have one time stamp, so that only that of a folder at rest is relied upon.
        self._listed_ns = changed_ns if time.time_ns() - changed_ns > AT_REST_NS else None
        for name in folder.names():
            other = name.removesuffix(_TENANT)
            if other in (name, self._id):
                continue
            give_way()
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                tenant = _tenant_decoder.decode(folder.read(name) or b"")
                if tenant.until_s is None:
                    there = folder.locked(other + _ALIVE)
                    gone_s = 0.0 if there else folder.age_s(name, time.time())
                else:
                    gone_s = time.monotonic() - tenant.until_s
                    if gone_s < 0:  # the other run ended before the machine was started again
                        gone_s = folder.age_s(name, time.time())
                        there = False
                    else:
                        there = tenant.until_s > self._own.since_s
                if there:
                    others.append(tenant)
                if gone_s > KEPT_S:
                    self._forget(folder, other)
        self._others = others

    def news(self) -> str | None:
        """Return a sentence about runs that have come since the last call, or None."""
        new = [one for one in self._others if one.run_id not in self._said and not self._is_own(one)]
        names = {one.run_id: one.name for one in new}  # a run may have a tenant a process
        shared = [
            (name, [key for key in self._own.gpus if any(key in one.gpus for one in new if one.run_id == run_id)])
            for run_id, name in names.items()
        ]
        self._said.update(tenant.run_id for tenant in self._others if not self._is_own(tenant))
        runs = ", ".join(f"{name} ({', '.join(keys)})" for name, keys in sorted(shared) if keys)
        if not runs:
            return None
        return (
            f"other runs on this host use the same GPUs: {runs}. While they do, each run is charged an equal share of "
            "a GPU's energy"
        )

    @property
    def none(self) -> bool:
        """Return whether no other run uses these GPUs or has used them since this run began."""
        return not self._others

    def charged(self, energies: Sequence[DeviceEnergy], start_s: float, end_s: float) -> list[DeviceEnergy]:
        """Return the energies of a window with the shares of this run in GPUs that others use too."""
        if self.none:
            return list(energies)
        return [_share_of(energy, self.part_of(energy.key, start_s, end_s)) for energy in energies]

    def part_of(self, key: str, start_s: float, end_s: float) -> float:
        """Return the part of a GPU that each run had between two monotonic moments, 0 to 1."""
        if self.none or key not in self._own.gpus or end_s <= start_s:
            return 1.0
        stays = [
            [(max(start_s, t.since_s), end_s if t.until_s is None else min(end_s, t.until_s)) for t in party]
            for party in _parties([t for t in self._others if key in t.gpus], self._own)
        ]
        edges = sorted({start_s, end_s, *(edge for stay in stays for times in stay for edge in times)})
        part = 0.0
        for begin, end in pairwise(edges):
            if start_s <= begin < end <= end_s:
                there = sum(any(since <= begin and until >= end for since, until in stay) for stay in stays)
                part += (end - begin) / (1 + there)
        return part / (end_s - start_s)

    def end(self, until_s: float) -> None:
        """Note that this run has used the GPUs until that moment. Other runs go on seeing it."""
        with contextlib.suppress(OSError):
            self._tell(replace(self._own, until_s=until_s))
        self.forget()

    def forget(self) -> None:
        """Close all files. In a forked child the entry of the parent stays."""
        if self._alive_fd >= 0:
            os.close(self._alive_fd)
        if self._folder is not None:
            self._folder.close()
        self._alive_fd, self._folder = -1, None

    def _tell(self, tenant: Tenant) -> None:
        if self._folder is not None:
            self._folder.publish(self._id + _TENANT, msgspec.json.encode(tenant))

    def _is_own(self, tenant: Tenant) -> bool:
        return tenant.run_id == self._own.run_id or tenant.process == self._own.process

    @staticmethod
    def _forget(folder: Folder, other: str) -> None:
        for suffix in (_TENANT, _ALIVE):
            folder.remove(other + suffix)


def _parties(tenants: Iterable[Tenant], own: Tenant) -> list[list[Tenant]]:
    """Group tenants into parties, each of which counts as one run, and leave out the party of `own`.

    Tenants of one run belong together, because they count a GPU once, and so do tenants of one process.
    """
    parties: list[list[Tenant]] = [[own]]
    for tenant in tenants:
        joined = [p for p in parties if any(t.run_id == tenant.run_id or t.process == tenant.process for t in p)]
        parties = [p for p in parties if p not in joined] + [[*(t for p in joined for t in p), tenant]]
    return [party for party in parties if own not in party]


def _share_of(energy: DeviceEnergy, part: float) -> DeviceEnergy:
    whole = energy.energy
    if part >= 1.0 or whole is None:
        return energy
    note = f"{part:.3g} of it: other runs use this GPU too"
    charged = whole.times(Range(part, part * (1 - SHARE_SPREAD), min(1.0, part * (1 + SHARE_SPREAD))))
    return replace(
        energy,
        energy_j=charged.value,
        low_j=charged.low,
        high_j=charged.high,
        estimated_j=None if energy.estimated_j is None else part * energy.estimated_j,
        note="; ".join(filter(None, (energy.note, note))),
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.renew)
