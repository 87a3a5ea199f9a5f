"""Compute how many GPUs the ledgers of a run must name, from the GPUs that its processes see and from its ranks.

The live totals and the audit use the same answer. A rank is known to be on a GPU when a manifest says so. Ranks that no
manifest has placed may be on metered GPUs without a rank, one on each. Any further ranks compute on GPUs that nobody
meters.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.threads.turns import give_way

UNMETERED_EVENT = "gpus_unmetered"
"""The event of a node's leader when a process of its host sees GPUs that nobody meters: data {"gpus": [UUID]}."""

MAX_NAMED = 3
"""A sentence names at most so many UUIDs; it always says how many there are."""

NOT_SEEN_EVENT = "planned_gpus_not_seen"
"""The event of a node on which nothing shows a GPU although the plan, or the user, names one."""

SILENT_EVENT = "gpus_may_not_be_metered"
"""The event of a node with a driver that does not answer, on which nothing tells whether there are GPUs."""

LEFT = "left to local rank 0"
"""The reason of a closing record of a process that metered GPUs until local rank 0 of its node did."""

HANDED_ON = "goes on in the next ledger"
"""The reason of a closing record of a process that has taken more devices over, and meters all of them in a ledger
that begins where this one ends."""

HANDED_OVER = (LEFT, HANDED_ON)
"""The reasons of closing records of files that another file continues."""


class ExpectedGpus(Struct, frozen=True, kw_only=True):
    """Counts the GPUs of one launch. `metered` GPUs are named by ledgers, and `unseen` ones are seen by processes and
    named by no ledger. `unplaced_ranks` is the number of ranks that must compute on a GPU beyond those. `told` says
    whether any rank has reported what it computes on; if none has, each rank is taken to have a GPU of its own.
    `without_rank` metered GPUs have no rank on them, although every rank has reported where it computes. Of the ranks
    on nodes with a ledger, `unheard_ranks` have reported nothing although others have.
    """

    metered: int
    unseen: tuple[str, ...] = ()
    unplaced_ranks: int = 0
    told: bool = True
    without_rank: int = 0
    unheard_ranks: int = 0

    @property
    def gpus(self) -> int:
        """Return how many GPUs the launch must have used."""
        return self.metered + len(self.unseen) + self.unplaced_ranks

    @property
    def missing(self) -> int:
        """Return how many of these GPUs no ledger names."""
        return self.gpus - self.metered

    @property
    def missing_for_sure(self) -> int:
        """Return how many GPUs no ledger names even if all ranks that have not reported yet share metered GPUs.

        They may while a launch begins.
        """
        return self.missing if self.told else len(self.unseen)

    @property
    def sentence(self) -> str | None:
        """Return a sentence that says which GPUs are missing and how that is known, or None if none is missing."""
        missing = self.missing
        if missing == 0:
            return None
        why = []
        if self.unseen:
            why.append(f"{_named(self.unseen)} {verb(len(self.unseen), 'is', 'are')} seen by its processes")
        if self.unplaced_ranks and self.told:
            ranks = f"{plural(self.unplaced_ranks, 'rank')} {verb(self.unplaced_ranks, 'computes', 'compute')}"
            why.append(f"{ranks} on none of the metered GPUs")
        elif self.unplaced_ranks:
            why.append("there are more ranks than that, and none has said that it shares a GPU")
        energy = "its energy is" if missing == 1 else "their energy is"
        return (
            f"{missing} of the {self.gpus} GPUs that the job must have used {verb(missing, 'is', 'are')} in no "
            f"ledger, and {energy} in no total: {' and '.join(why)}."
        )


def expected_gpus(manifests: Iterable[Manifest]) -> ExpectedGpus:
    """Return how many GPUs one launch must have used, by the latest manifests of its files.

    GPUs of nodes without a ledger are not counted."""
    found = list(manifests)
    gpus: set[str] = set()
    placed_keys: set[str] = set()
    named_bare: set[str] = set()
    seen: dict[str, str] = {}
    on_gpu: set[int] = set()
    on_none: set[int] = set()
    for manifest in found:  # one node after the other, so that a run of thousands of them takes many turns
        give_way()
        for device in manifest.devices:
            if device.rung == "gpu":
                gpus.add(device.key)
                named_bare.add(_bare(device.key))
                on_gpu.update(device.ranks)
                if device.ranks:
                    placed_keys.add(device.key)
        seen.update((_bare(key), key) for key in manifest.seen_gpus)
        on_none.update(manifest.ranks_without_gpu)
    if not found:
        return ExpectedGpus(metered=0)
    world = max(manifest.world_size for manifest in found)
    nodes = max(1, *(manifest.nodes for manifest in found))
    here = round(world * min(1.0, len({manifest.node for manifest in found}) / nodes))
    heard = len(on_gpu | on_none)
    unheard = max(0, here - heard) if heard else 0
    if not gpus:  # a job on CPUs, or one whose GPUs nothing could read, which is said elsewhere
        return ExpectedGpus(metered=0, unheard_ranks=unheard)
    give_way()
    unseen = tuple(sorted(key for bare, key in seen.items() if bare not in named_bare))
    unplaced = here - len(on_gpu) - len(on_none) - (len(gpus) - len(placed_keys)) - len(unseen)
    return ExpectedGpus(
        metered=len(gpus),
        unseen=unseen,
        unplaced_ranks=max(0, unplaced),
        told=heard > 0,
        without_rank=len(gpus) - len(placed_keys) if heard >= here else 0,
        unheard_ranks=unheard,
    )


def _named(keys: tuple[str, ...]) -> str:
    """Return the names of the first few, for a sentence."""
    more = len(keys) - MAX_NAMED
    return ", ".join(keys[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _bare(key: str) -> str:
    """Return a UUID without its prefix. CUDA knows a MIG device by the same UUID as NVML, but without "MIG-"."""
    return key.partition("-")[2]
