"""Which GPUs of this machine belong to the job: reserved ones, whether a rank uses them or not.

Pure functions from what NVML lists and what the environment says to UUIDs. CUDA's view and NVML's differ: NVML
ignores CUDA_VISIBLE_DEVICES and lists in PCI order, CUDA by default lists the fastest GPU first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from carbon_plugin.meters.gpu.nvml_driver import Gpu
from carbon_plugin.spec.amounts import plural, verb

_SLURM_PER_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND", "SLURM_NTASKS_PER_GPU")
"""Set where SLURM gives each task GPUs of its own, which its cgroup then hides from the others."""

SelectionSource = Literal["explicit", "slurm", "gpu_device_ordinal", "cuda_visible_devices", "all"]


class DeviceSelection(Struct, frozen=True, kw_only=True):
    """The GPUs of a job on this node.

    `uuids` are UUIDs of whole GPUs or of MIG devices, in the order of the source (so that `visible_devices` answers
    in CUDA order). `reason` says how they were found. `missing` was asked for and is the name of no GPU that answers.
    `hidden` is how many GPUs the job has on this node that other processes see instead. `cut_off` says what CUDA leaves
    out of a list that it cannot take whole. `assumptions` are sentences that the ledger must carry, that one too.
    """

    uuids: tuple[str, ...]
    source: SelectionSource
    reason: str
    missing: tuple[str, ...] = ()
    hidden: int = 0
    cut_off: str | None = None
    assumptions: tuple[str, ...] = ()


def select_devices(
    gpus: Sequence[Gpu],
    environ: Mapping[str, str],
    explicit: Sequence[str | int] | None = None,
    unanswered: int = 0,
) -> DeviceSelection:
    """The reserved GPUs: from the caller, else from SLURM, else from what CUDA may see, else all that NVML shows.

    `explicit` holds UUIDs, unambiguous UUID prefixes or NVML indices. `unanswered` is how many GPUs NVML counts beside
    `gpus` that do not answer.
    """
    if explicit is not None:
        return _resolved(gpus, [str(item) for item in explicit], "explicit", "named by the caller")
    slurm = _slurm_variable(environ)
    if slurm is not None:
        return _from_slurm(gpus, slurm, environ)
    if "CUDA_VISIBLE_DEVICES" in environ:
        return visible_devices(gpus, environ, unanswered)
    if "GPU_DEVICE_ORDINAL" in environ:
        value = environ["GPU_DEVICE_ORDINAL"]
        return _resolved(gpus, _words(value), "gpu_device_ordinal", f"GPU_DEVICE_ORDINAL={value}")
    assumption = f"{_all(len(gpus))} taken as reserved: neither SLURM nor CUDA names any"
    return DeviceSelection(
        uuids=tuple(gpu.uuid for gpu in gpus),
        source="all",
        reason="every GPU that NVML shows",
        assumptions=(assumption,) if gpus else (),
    )


def visible_devices(gpus: Sequence[Gpu], environ: Mapping[str, str], unanswered: int = 0) -> DeviceSelection:
    """The devices that CUDA shows this process, in CUDA's order: `uuids[i]` is torch's `cuda:i`.

    Follows the rules of CUDA_VISIBLE_DEVICES: indices, UUIDs or their prefixes; the list ends at the first item that
    names no device; a device named twice leaves none; empty or -1 hides all. The name of a GPU that does not answer, of
    which there are `unanswered`, does not end the list: it is missing.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    listed = [gpu.uuid for gpu in gpus]
    if value is None:
        reason = "CUDA_VISIBLE_DEVICES is not set: CUDA shows all"
        return DeviceSelection(
            uuids=tuple(listed), source="all", reason=reason, assumptions=_order_caveat(gpus, environ)
        )
    by_index = re.match(r"\s*-?\d", value) is not None
    uuids: list[str] = []
    lost: list[str] = []
    words = [word.strip() for word in value.split(",")]
    cut_off = None
    for word in words:
        uuid = _by_leading_index(gpus, word) if by_index else _by_prefix(gpus, word)
        if uuid is not None:
            uuids.append(uuid)
        elif len(lost) < unanswered and _may_name(word, len(gpus) + unanswered):
            lost.append(word)
        else:
            if word and not word.startswith("-"):  # those are how a list is meant to end
                cut_off = (
                    f"CUDA_VISIBLE_DEVICES={value} names {word}, which is no GPU that the driver counts: CUDA ends the "
                    f"list there, so that the job sees {plural(len(uuids), 'GPU')}"
                )
            break
    if len(set(uuids)) != len(uuids):
        uuids = []
        cut_off = f"CUDA_VISIBLE_DEVICES={value} names a GPU twice: CUDA then shows the job none"
    return DeviceSelection(
        uuids=tuple(uuids),
        source="cuda_visible_devices",
        reason=f"CUDA_VISIBLE_DEVICES={value}",
        missing=tuple(lost),
        cut_off=cut_off,
        assumptions=(
            *((cut_off,) if cut_off else ()),
            *(_order_caveat(gpus, environ) if by_index else ()),
        ),
    )


def _slurm_variable(environ: Mapping[str, str]) -> str | None:
    """SLURM_JOB_GPUS is set on the first node only and srun carries it to the others, where its numbers may be wrong;
    SLURM_STEP_GPUS is each node's own."""
    several_nodes = environ.get("SLURM_NNODES", environ.get("SLURM_JOB_NUM_NODES", "1")) != "1"
    order = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if several_nodes else ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
    return next((name for name in order if environ.get(name)), None)


def _has_tasks_with_gpus_of_their_own(environ: Mapping[str, str]) -> bool:
    """Whether other tasks of the step may see the GPUs of this node that this task does not see.

    `SLURM_STEP_TASKS_PER_NODE` is "1" under a launcher that starts the ranks itself, and like "8(x2)" where each rank
    is a task, perhaps in a container that shows one GPU.
    """
    tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return any(variable in environ for variable in _SLURM_PER_TASK) or (tasks is not None and int(tasks[0]) > 1)


def _from_slurm(gpus: Sequence[Gpu], name: str, environ: Mapping[str, str]) -> DeviceSelection:
    words = _words(environ[name])
    reason = f"{name}={environ[name]}"
    if len(words) == len(gpus):
        # Under cgroup device isolation NVML shows exactly the job's GPUs, numbered from 0, and SLURM's numbers differ.
        return DeviceSelection(
            uuids=tuple(gpu.uuid for gpu in gpus), source="slurm", reason=f"{reason}, as many as NVML shows"
        )
    if 0 < len(gpus) < len(words) and _has_tasks_with_gpus_of_their_own(environ):
        # Each task sees its own GPUs only; the numbers are the node's, so they say nothing about which.
        hidden = len(words) - len(gpus)
        return DeviceSelection(
            uuids=tuple(gpu.uuid for gpu in gpus),
            source="slurm",
            reason=f"{reason}, of which this task sees {len(gpus)}",
            hidden=hidden,
            assumptions=(
                f"{plural(hidden, 'more GPU')} of the job on this node {verb(hidden, 'is', 'are')} seen, and "
                "metered, by its other tasks",
            ),
        )
    minors = {str(gpu.minor): gpu.uuid for gpu in gpus if gpu.minor is not None}
    if len(words) < len(gpus) and all(word in minors for word in words):
        uuids = tuple(minors[word] for word in words)
        return DeviceSelection(uuids=uuids, source="slurm", reason=f"{reason}, as numbers of /dev/nvidia files")
    return _resolved(gpus, words, "slurm", reason)


def _resolved(gpus: Sequence[Gpu], words: Sequence[str], source: SelectionSource, reason: str) -> DeviceSelection:
    """Look up each word; keep every device once, and a slice not beside its whole GPU."""
    found: list[str] = []
    missing: list[str] = []
    for word in words:
        uuid = _by_index(gpus, int(word)) if word.isdigit() else _by_prefix(gpus, word)
        (missing if uuid is None else found).append(word if uuid is None else uuid)
    inside = {part.uuid for gpu in gpus if gpu.uuid in found for part in gpu.slices}
    uuids = tuple(dict.fromkeys(uuid for uuid in found if uuid not in inside))
    return DeviceSelection(uuids=uuids, source=source, reason=reason, missing=tuple(dict.fromkeys(missing)))


def _words(value: str) -> list[str]:
    """Items of a list such as "0,2-4" or "GPU-8f21,GPU-90aa"."""
    words: list[str] = []
    for item in (part.strip() for part in value.split(",")):
        ends = re.fullmatch(r"(\d+)-(\d+)", item)
        if ends:
            words += [str(number) for number in range(int(ends[1]), int(ends[2]) + 1)]
        elif item:
            words.append(item)
    return words


def _may_name(word: str, counted: int) -> bool:
    """Whether a word may be the name of a GPU that NVML counts, of so many."""
    return int(word) < counted if word.isdigit() else word.upper().startswith(("GPU-", "MIG-"))


def _by_leading_index(gpus: Sequence[Gpu], word: str) -> str | None:
    """CUDA reads the digits at the start of an item and ignores what follows."""
    digits = re.match(r"\s*\+?(\d+)", word)
    return _by_index(gpus, int(digits[1])) if digits else None


def _by_index(gpus: Sequence[Gpu], index: int) -> str | None:
    return next((gpu.uuid for gpu in gpus if gpu.index == index), None)


def _by_prefix(gpus: Sequence[Gpu], prefix: str) -> str | None:
    """The one GPU or MIG device whose UUID starts so; None if none does, or several."""
    if not prefix.upper().startswith(("GPU-", "MIG-")):
        return None
    everything = [gpu.uuid for gpu in gpus] + [part.uuid for gpu in gpus for part in gpu.slices]
    matches = [uuid for uuid in everything if uuid.lower().startswith(prefix.lower())]
    return matches[0] if len(matches) == 1 else None


def _order_caveat(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[str, ...]:
    """On mixed nodes CUDA's numbers are not NVML's unless CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    names = sorted({gpu.name for gpu in gpus})
    if len(names) < 2 or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return ()
    return (
        f"CUDA indices are taken as NVML indices, but this node mixes {', '.join(names)} and CUDA lists the fastest "
        "first unless CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )


def _all(count: int) -> str:
    return "the one GPU that NVML shows is" if count == 1 else f"all {count} GPUs that NVML shows are"
