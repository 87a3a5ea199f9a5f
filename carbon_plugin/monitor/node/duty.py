"""Decide which devices of its host this process meters, and from when on.

The process asks the other processes of its launch, and keeps a baseline until the decision. Sets of GPUs are compared
by UUID: those that a process sees, and those that living processes meter. A GPU that nobody meters is taken by a
process that sees it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.gpu.driver import Inventory
from carbon_plugin.meters.gpu.selection import names_devices
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.metering import JobHardware
from carbon_plugin.monitor.processes.leader import HOST, Claim, Election
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.settings import Settings

GRACE_S = 3.0
"""Local rank 0 waits this many seconds for claims on GPUs that it does not have itself, because the launcher may have
dealt them out."""
FIRST_LEAD_S = 10.0
"""The other ranks leave the first choice to local rank 0 for this many seconds, because it may be slower to start. The
wait loses nothing."""
LOOK_S = 0.1
"""A process looks this often, s, whether it is clear which process meters what."""
STRETCH_S = 0.5
"""A process records what it metered before local rank 0 began in a ledger of its own if that took at least this many
seconds."""

LEFT_S = 5.0
"""A process that trains on takes over a device this many seconds after its holder has ended in an orderly way. Most
ranks end together, and need no further ledger (our convention)."""
LEAST_LEFT_S = 0.5
"""A process that ends at least this many seconds after the holder of a device says so in the record: as much as at the
start, where `STRETCH_S` decides (our convention)."""
LEAST_LEFT_SHARE = 1e-3
"""It says so only where that is at least this share of its training. Ranks of a long training end a second or more
apart, which is far within the error of any meter (our convention)."""


class Task(Struct, frozen=True, kw_only=True):
    """Names the devices that a process is to meter.

    `gpus` are None for all GPUs that the job has on this host as its environment says, else exactly those. `host` says
    whether CPU, memory and network are metered with them. `follows` says whether a process that was lost or has ended
    has metered the devices before, and `after` names the ledgers of such processes as far as they are known. `until_s`
    is the monotonic moment from which on another process meters the devices. With the host, `beside` is the number of
    GPUs of this job that only other processes of the host see.
    """

    gpus: tuple[str, ...] | None
    host: bool
    follows: bool = False
    after: tuple[str, ...] = ()
    beside: int = 0
    until_s: float | None = None


class Duty:
    """Holds the decision of one process. Only one thread may use it.

    `baseline` is what the metering counts from, or None for a start from now on.
    """

    def __init__(
        self,
        settings: Settings,
        ranks: Ranks,
        environ: Mapping[str, str],
        election: Election,
        baseline: Baseline,
        hardware: JobHardware,
    ) -> None:
        self.baseline: Baseline | None = baseline
        self.decided = False
        self.beside = 0
        """For how many GPUs that only other processes see this one meters the host."""
        self.hardware = hardware
        self._settings = settings
        self._ranks = ranks
        self._environ = dict(environ)
        self._election = election
        self._start_s = baseline.since_s
        gpus = baseline.shown.gpus if isinstance(baseline.shown, Inventory) else ()
        self._listed = {gpu.uuid for gpu in gpus} | {part.uuid for gpu in gpus for part in gpu.slices}
        self._claim = Claim(
            rank=ranks.rank,
            local_rank=ranks.local_rank,
            since_s=self._start_s,
            cuda_visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
            sees=[key for key in self.hardware.keys if key in self._listed],
        )
        election.claim(self._claim)

    def tell(self, **fields: object) -> None:
        """Change fields of the claim that this process has made."""
        self._claim = replace(self._claim, **fields)
        self._election.claim(self._claim)

    def tell_file(self, file: str | None) -> None:
        """Tell the other processes the name of the ledger that this one writes, which is empty if it writes none, and
        None if it could not be made yet."""
        if file != self._claim.file:
            self.tell(file=file)

    def decide(self, *, now: bool = False) -> list[Task]:
        """Return what this process is to meter from here on. The list is empty while that is not decided, or if nothing
        is added.

        `now` asks for a decision at once, because the training ends. It is too late then to take anything over.
        """
        tasks = [] if self.decided else self._first_tasks(now)
        if self.decided and not tasks and not now:
            tasks = self._taken_over()
        if self.decided and not self._claim.settled:
            self.tell(settled=True)
        return tasks

    def release(self) -> None:
        """Close the baseline when it is no longer needed."""
        if self.baseline is not None:
            self.baseline.close()
            self.baseline = None

    def seen_beside(self) -> set[str]:
        """Return the GPUs of this job that only other living processes of this host see."""
        claims = self._election.claims(living=True)
        return {key for claim in claims for key in claim.sees} - self._listed

    def unmetered(self) -> tuple[str, ...]:
        """Return the GPUs that processes of this host see and that nobody meters although all have decided."""
        claims = self._election.claims(living=True)
        if not all(claim.settled for claim in claims):
            return ()
        seen = sorted({key for claim in claims for key in claim.sees} - set(self._election.held))
        return tuple(key for key in seen if key not in self._election.held_since(seen))

    @property
    def _first_choice(self) -> bool:
        return self._ranks.local_rank == 0 or self._election.alone

    @property
    def _wanted(self) -> list[str]:
        return [HOST, *self._claim.sees]

    def _may_be_dealt(self) -> bool:
        """Return whether other ranks may own GPUs that the driver shows to this rank and that it does not own."""
        return (
            self._ranks.local_world_size > 1
            and not self._election.alone
            and self._settings.options.reserved_gpus is None
            and names_devices(self._environ)
            and bool(self._listed - set(self._claim.sees))
        )

    def _may_be_beside(self) -> bool:
        """Return whether other ranks of this host may see GPUs that the driver does not show to this one."""
        return self._ranks.local_world_size > 1 and not self._election.alone and self.hardware.hidden > 0

    def _first_tasks(self, now: bool) -> list[Task]:
        waited_s = time.monotonic() - self._start_s
        if self._first_choice:
            claims = self._election.claims()
            all_said = len(claims) >= self._ranks.local_world_size
            waits = self._may_be_dealt() or self._may_be_beside()
            if waits and not (now or all_said or waited_s >= GRACE_S):
                return []
            tasks = self._lead(claims)
            self.decided = True
            return tasks
        others = self._election.held_since(self._wanted)
        open_ = [key for key in self._wanted if key not in others]
        leader_chose = any(claim.local_rank == 0 and claim.settled for claim in self._election.claims())
        if open_ and not (now or leader_chose or waited_s >= FIRST_LEAD_S):
            return []
        taken = self._election.take(open_, self._start_s)
        self.decided = True
        return [*self._stretch(self._ended_first() | others), *self._tasks(taken)]

    def _lead(self, claims: Sequence[Claim]) -> list[Task]:
        """Take the GPUs of this process, and the GPUs that the launcher has given to ranks that have claimed them."""
        own = self.hardware.keys
        dealt = [key for claim in claims for key in claim.sees if key in self._listed and key not in own]
        keys = tuple(dict.fromkeys([*own, *dealt])) if self._may_be_dealt() else own
        taken = self._election.take([HOST, *keys], self._start_s)
        gpus = tuple(key for key in keys if key in taken)
        if not taken:
            return []
        whole = gpus == own and not dealt
        return [self._task(None if whole else gpus, host=HOST in taken)]

    def _tasks(self, taken: Sequence[str]) -> list[Task]:
        if not taken:
            return []
        gpus = tuple(key for key in taken if key != HOST)
        host, all_of_it = HOST in taken, gpus == self.hardware.keys
        return [self._task(None if host and all_of_it else gpus, host=host)]

    def _task(self, gpus: tuple[str, ...] | None, *, host: bool) -> Task:
        self.beside = len(self.seen_beside()) if host else 0
        followed = self._election.followed
        return Task(gpus=gpus, host=host, follows=self._election.follows, after=followed, beside=self.beside)

    def _ended_first(self) -> dict[str, float]:
        """Return the devices that local rank 0 has metered and given up before this process decides, and since when it
        had metered them, monotonic s. A process that stands still decides so late."""
        left = self._election.left_since(self._wanted)
        firsts = [claim for claim in self._election.claims() if claim.local_rank == 0]
        return {key: claim.since_s for claim in firsts for key in claim.sees if key in left}

    def _stretch(self, others: Mapping[str, float]) -> list[Task]:
        """Return a task for the GPUs that this process saw first, up to the moment at which another process began to
        meter them."""
        late = {key: since_s for key, since_s in others.items() if since_s - self._start_s >= STRETCH_S and key != HOST}
        claims = self._election.claims()
        own = {
            key: since_s
            for key, since_s in late.items()
            if min((c.since_s, c.rank) for c in claims if key in c.sees) == (self._start_s, self._ranks.rank)
        }
        return [Task(gpus=tuple(own), host=False, until_s=min(own.values()))] if own else []

    def _taken_over(self) -> list[Task]:
        """Take what a process metered that was lost, or that has ended while this one trains on. What this process
        meters already is part of the task that is returned.
        """
        unheld = self._unheld
        if not unheld:
            return []
        self.release()
        if not self._election.take(unheld, time.monotonic(), left_s=LEFT_S):
            return []
        held = self._election.held
        return self._tasks([*(key for key in self._wanted if key in held), *(set(held) - set(self._wanted))])

    def take_for_the_record(self) -> tuple[str, ...]:
        """Take, now that the training ends, what a process metered that has ended so long ago that the record must say
        so. The ledger of a process that was lost says by itself that its end is missing.
        """
        return self._election.take(self._unheld, time.monotonic(), left_s=self.least_left_s, only_left=True)

    @property
    def least_left_s(self) -> float:
        """Return the shortest time without a meter, up to the end of this training, of which the record speaks, s."""
        return max(LEAST_LEFT_S, LEAST_LEFT_SHARE * (time.monotonic() - self._start_s))

    @property
    def _unheld(self) -> list[str]:
        return [key for key in self._wanted if key not in self._election.held]

    def left_since(self) -> dict[str, float]:
        """Return what this process sees and another one has given up, and since when nobody meters it, monotonic s."""
        return self._election.left_since(self._wanted)
