"""How many GPUs the ledgers of a run must speak of: what its processes see, and the ranks that compute on none of them.

One answer for the live totals and for the audit. A rank is known to be on a GPU when a manifest says so; ranks that no
manifest has placed may be on metered GPUs without a rank, each on one, and what is left over computes where nobody
meters.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from carbon_plugin.ledger.records import Manifest

UNMETERED_EVENT = "gpus_unmetered"
"""Event of a node's leader when a process of its host sees GPUs that nobody meters: data {"gpus": [UUID]}."""

LEFT = "left to local rank 0"
"""Reason of a closing record of a process that metered GPUs until local rank 0 of its node did."""


class Expected(Struct, frozen=True, kw_only=True):
    """GPUs of one launch. `metered` are named by ledgers, `unseen` are those that processes see and no ledger names,
    `unplaced_ranks` is how many ranks must compute on a GPU beyond those."""

    metered: int
    unseen: tuple[str, ...] = ()
    unplaced_ranks: int = 0

    @property
    def gpus(self) -> int:
        """How many there must be."""
        return self.metered + len(self.unseen) + self.unplaced_ranks

    @property
    def sentence(self) -> str | None:
        """What is missing, in a sentence; None if nothing is."""
        missing = self.gpus - self.metered
        if missing == 0:
            return None
        why = []
        if self.unseen:
            why.append(f"{', '.join(self.unseen)} {'is' if len(self.unseen) == 1 else 'are'} seen by its processes")
        if self.unplaced_ranks:
            ranks = "1 rank computes" if self.unplaced_ranks == 1 else f"{self.unplaced_ranks} ranks compute"
            why.append(f"{ranks} on none of the metered GPUs")
        energy = "its energy is" if missing == 1 else "their energy is"
        return (
            f"{missing} of the {self.gpus} GPUs that the job must have used {'is' if missing == 1 else 'are'} in no "
            f"ledger, and {energy} in no total: {' and '.join(why)}."
        )


def expected_gpus(manifests: Iterable[Manifest]) -> Expected:
    """What the latest manifests of one launch's files say. Nodes whose ledgers are missing are not counted here."""
    found = list(manifests)
    gpus = {device.key: device for manifest in found for device in manifest.devices if device.rung == "gpu"}
    if not gpus:
        return Expected(metered=0)  # a job on CPUs, or one whose GPUs nothing could read, which is said elsewhere
    seen = {_bare(key): key for manifest in found for key in manifest.seen_gpus}
    unseen = tuple(sorted(key for bare, key in seen.items() if bare not in {_bare(key) for key in gpus}))
    on_gpu = {
        rank for manifest in found for device in manifest.devices if device.rung == "gpu" for rank in device.ranks
    }
    on_none = {rank for manifest in found for rank in manifest.ranks_without_gpu}
    placed_keys = {d.key for manifest in found for d in manifest.devices if d.rung == "gpu" and d.ranks}
    world = max(manifest.world_size for manifest in found)
    nodes = max(1, *(manifest.nodes for manifest in found))
    here = round(world * min(1.0, len({manifest.node for manifest in found}) / nodes))
    unplaced = here - len(on_gpu) - len(on_none) - (len(gpus) - len(placed_keys)) - len(unseen)
    return Expected(metered=len(gpus), unseen=unseen, unplaced_ranks=max(0, unplaced))


def _bare(key: str) -> str:
    """A UUID without the kind of device: CUDA knows a MIG device by the same UUID as NVML, without saying "MIG-"."""
    return key.partition("-")[2]
