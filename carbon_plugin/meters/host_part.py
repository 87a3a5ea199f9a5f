"""Decide which part of a host is charged to the job, and how measured energy of the host is split by it."""

from __future__ import annotations

from collections.abc import Mapping

from carbon_plugin.meters.gpu.open import GpuMeters
from carbon_plugin.meters.host.machine import HostInfo
from carbon_plugin.meters.host.share import WHOLE, HostShare, ShareSource, fixed, gpu_share, slurm_share, used_share
from carbon_plugin.meters.protocol import Note, UnreadGpus
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.range import Range


def split_source(share: HostShare) -> ShareSource:
    """Return the rule by which measured energy of the host is split.

    It is split by CPU time where the job's can be told, else by what the job has reserved.
    """
    if share.part.value == 1.0:
        return fixed(WHOLE)
    return used_share(share) or fixed(share)


def share_note(share: HostShare) -> str | None:
    if share.part.value == 1.0:
        return None
    how = "by its CPU time, else " if used_share(share) else ""
    return f"the job's share of the host {how}{share.part.value:.3f} ({share.part.low:.3f}-{share.part.high:.3f})"


def stated_share(share: float) -> HostShare:
    return HostShare(part=Range.exactly(share), sentence="stated by the caller")


def reserved_share(
    gpus: GpuMeters,
    node: Node | None,
    host: HostInfo,
    environ: Mapping[str, str],
    unread: UnreadGpus | None,
    beside: int = 0,
) -> tuple[HostShare, list[Note]]:
    """Return the job's part of a host whose rest somebody else may hold, with notes for the ledger.

    It is the part of the CPUs that SLURM gave the job, else its part of the GPUs. It is the whole host where neither
    says more, and where the job has all GPUs of the node. `beside` are GPUs of the job that only its other processes
    see.
    """
    if not gpus.devices:
        share = slurm_share(environ, host.logical_cores) or WHOLE
        return share, [] if share.part.value == 1.0 else [Note("assumption", share.sentence)]
    unanswered = unread.count if unread else 0
    others = max(gpus.selection.hidden, beside)  # SLURM and the other processes tell of the same GPUs
    ours = gpus.gpu_equivalents + others + unanswered
    listed = len(gpus.inventory.gpus) + unanswered + beside
    total = max(node.accelerators if node else 0, listed)
    if ours >= total:
        return WHOLE, []
    hidden = listed < total
    if gpus.selection.source == "slurm" or hidden:
        share = slurm_share(environ, host.logical_cores) or gpu_share(ours, total)
        return share, [Note("assumption", share.sentence)]
    sentence = f"the whole host is charged to this job, although it has reserved {ours:g} of {plural(total, 'GPU')}"
    return WHOLE, [Note("assumption", sentence)]
