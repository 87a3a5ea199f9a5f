"""Decide which GPUs of this machine belong to the job: those that it has reserved, whether a rank uses them or not.

These are pure functions from what the drivers list and what the environment says to UUIDs. A framework and a driver see
GPUs differently: NVML ignores CUDA_VISIBLE_DEVICES and lists in PCI order, CUDA by default lists the fastest GPU first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from carbon_plugin.meters.gpu.driver import Gpu, GpuVendor
from carbon_plugin.meters.gpu.vendors import gpu_vendors, vendor_of
from carbon_plugin.spec.numbers.amounts import plural, verb

_SLURM_PER_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND", "SLURM_NTASKS_PER_GPU")
"""The variables that are set where SLURM gives each task its own GPUs, which its cgroup then hides from the other
tasks.
"""


class DeviceSelection(Struct, frozen=True, kw_only=True):
    """One instance holds the GPUs of a job on this node.

    `uuids` are UUIDs of whole GPUs or of parts of them, in the order of the source (so that `visible_devices` answers
    in the framework's order). `source` is "explicit", "slurm", "all", or the name of the variable in lower case.
    `reason` says how they were found. `missing` are the names that were asked for and that belong to no GPU that
    answers. `hidden` is how many GPUs the job has on this node that only its other processes see. `cut_off` says what
    CUDA leaves out of a list that it cannot take whole. `assumptions` are sentences that the ledger must carry,
    including that one.
    """

    uuids: tuple[str, ...]
    source: str
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
    """Return the reserved GPUs: from the caller, else from SLURM, else what the framework may see, else all GPUs.

    `explicit` holds UUIDs, unambiguous UUID prefixes or the drivers' indices. `unanswered` is how many GPUs the drivers
    count beside `gpus` that do not answer.
    """
    if explicit is not None:
        return _resolved(gpus, [str(item) for item in explicit], "explicit", "named by the caller")
    slurm = _slurm_variable(environ)
    if slurm is not None:
        return _from_slurm(gpus, slurm, environ)
    groups = _by_vendor(gpus)
    variables = _variables_in_force([vendor for vendor, _ in groups], environ)
    return _together([_of_vendor(vendor, own, variables, environ, unanswered) for vendor, own in groups])


def visible_devices(gpus: Sequence[Gpu], environ: Mapping[str, str], unanswered: int = 0) -> DeviceSelection:
    """Return the devices of one vendor that its framework shows this process, in its order: `uuids[i]` is `cuda:i`.

    The rules are those of CUDA_VISIBLE_DEVICES and its relatives: it lists indices, UUIDs or their prefixes; the list
    ends at the first item that names no device; on CUDA a device that is named twice leaves none; an empty value or -1
    hides all. A second variable, as HIP_VISIBLE_DEVICES after ROCR_VISIBLE_DEVICES, numbers what the first one left.
    The name of a GPU that does not answer, of which there are `unanswered`, does not end the list; it is in `missing`.
    """
    vendor = _vendor_of_group(gpus)
    names = _variables_in_force([vendor], environ)[vendor.code]
    if not names:
        uuids = tuple(uuid for gpu in gpus for _, uuid in gpu.devices)
        reason = f"{vendor.visible_devices[-1][0]} is not set: {vendor.runtime} shows all"
        return DeviceSelection(
            uuids=uuids, source="all", reason=reason, assumptions=_order_caveat(gpus, vendor, environ)
        )
    return _visible(vendor, gpus, names, environ, unanswered)


def names_devices(environ: Mapping[str, str]) -> bool:
    """Return whether a variable of any vendor tells which devices a process may see."""
    return any(name in environ for vendor in gpu_vendors() for group in vendor.visible_devices for name in group)


def driver_names(uuid: str) -> tuple[str, ...]:
    """Return what a driver may call the device that PyTorch knows by this UUID, without the "GPU-" or "MIG-" before it.

    CUDA knows a MIG device by the same UUID as NVML. On ROCm the 16 bytes of the UUID are letters: the hexadecimal
    digits of the name that HIP and AMD SMI use.
    """
    name = uuid.partition("-")[2]
    try:
        letters = bytes.fromhex(name.replace("-", "")).decode("ascii")
        int(letters, 16)
    except ValueError:
        return (name,)
    return (name, letters.lower())


def _by_vendor(gpus: Sequence[Gpu]) -> list[tuple[GpuVendor, list[Gpu]]]:
    """Return the GPUs of each vendor that has any; without GPUs an empty group of the first vendor."""
    groups: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        groups.setdefault(gpu.vendor, []).append(gpu)
    return [(vendor_of(code), own) for code, own in groups.items()] or [(_vendor_of_group(()), [])]


def _vendor_of_group(gpus: Sequence[Gpu]) -> GpuVendor:
    return vendor_of(gpus[0].vendor if gpus else "")


def _variables_in_force(vendors: Sequence[GpuVendor], environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the variables that select devices of each vendor, in the order in which they apply.

    HIP reads CUDA_VISIBLE_DEVICES too. If there are NVIDIA GPUs as well, that variable is taken as theirs.
    """
    taken: set[str] = set()
    found: dict[str, list[str]] = {}
    for vendor in vendors:
        first = [next((n for n in group if n in environ and n not in taken), None) for group in vendor.visible_devices]
        found[vendor.code] = [name for name in first if name is not None]
        taken.update(name for group in vendor.visible_devices for name in group)
    return found


def _of_vendor(
    vendor: GpuVendor,
    gpus: Sequence[Gpu],
    variables: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    unanswered: int,
) -> DeviceSelection:
    """Return the reserved GPUs of one vendor where neither the caller nor SLURM names any."""
    own = variables[vendor.code]
    if own:
        return _visible(vendor, gpus, own, environ, unanswered)
    if "GPU_DEVICE_ORDINAL" in environ:
        value = environ["GPU_DEVICE_ORDINAL"]
        return _resolved(gpus, _words(value), "gpu_device_ordinal", f"GPU_DEVICE_ORDINAL={value}")
    others = [name for names in variables.values() for name in names]
    if others:
        sentence = f"{others[0]} names GPUs of another vendor, and nothing names {vendor.maker} GPUs: none is reserved"
        return DeviceSelection(uuids=(), source="all", reason=sentence, assumptions=(sentence,))
    uuids = tuple(uuid for gpu in gpus for _, uuid in gpu.devices)
    assumption = f"{_all(len(uuids), vendor)} taken as reserved: neither SLURM nor {vendor.runtime} names any"
    return DeviceSelection(
        uuids=uuids,
        source="all",
        reason=f"every GPU that {vendor.library} shows",
        assumptions=(assumption,) if uuids else (),
    )


def _together(parts: Sequence[DeviceSelection]) -> DeviceSelection:
    """Return the selections of several vendors as one."""
    if len(parts) == 1:
        return parts[0]
    sources = list(dict.fromkeys(part.source for part in parts if part.uuids))
    return DeviceSelection(
        uuids=tuple(uuid for part in parts for uuid in part.uuids),
        source=sources[0] if len(sources) == 1 else "several",
        reason="; ".join(part.reason for part in parts),
        missing=tuple(dict.fromkeys(name for part in parts for name in part.missing)),
        cut_off=next((part.cut_off for part in parts if part.cut_off), None),
        assumptions=tuple(sentence for part in parts for sentence in part.assumptions),
    )


def _visible(
    vendor: GpuVendor, gpus: Sequence[Gpu], names: Sequence[str], environ: Mapping[str, str], unanswered: int
) -> DeviceSelection:
    numbered = {index: uuid for gpu in gpus for index, uuid in gpu.devices}
    known = _names(gpus)
    lost: list[str] = []
    cut_off: str | None = None
    by_index = False
    for name in names:
        numbered, missing, cut, by_number = _layer(vendor, name, environ[name], numbered, known, unanswered)
        known = list(numbered.values())
        lost += missing
        cut_off = cut_off or cut
        by_index = by_index or by_number
    return DeviceSelection(
        uuids=tuple(numbered.values()),
        source=names[-1].lower(),
        reason=", ".join(f"{name}={environ[name]}" for name in names),
        missing=tuple(lost),
        cut_off=cut_off,
        assumptions=(
            *((cut_off,) if cut_off else ()),
            *(_order_caveat(gpus, vendor, environ) if by_index else ()),
        ),
    )


def _layer(
    vendor: GpuVendor, name: str, value: str, numbered: Mapping[int, str], known: Sequence[str], unanswered: int
) -> tuple[dict[int, str], list[str], str | None, bool]:
    """Return what one variable leaves of the devices that it numbers.

    These are the devices left, numbered anew; the names of GPUs that do not answer; what the framework leaves out; and
    whether the variable lists numbers.
    """
    by_index = re.match(r"\s*-?\d", value) is not None
    uuids: list[str] = []
    lost: list[str] = []
    cut_off = None
    for word in (word.strip() for word in value.split(",")):
        uuid = _by_leading_index(numbered, word) if by_index else _by_prefix(known, word)
        if uuid is not None:
            uuids.append(uuid)
        elif len(lost) < unanswered and _may_name(word, len(numbered) + unanswered):
            lost.append(word)
        else:
            if word and not word.startswith("-"):  # a negative number ends a list on purpose
                cut_off = (
                    f"{name}={value} names {word}, which is no GPU that the driver counts: {vendor.runtime} ends the "
                    f"list there, so that the job sees {plural(len(uuids), 'GPU')}"
                )
            break
    if len(set(uuids)) != len(uuids) and vendor.repeat_hides_all:
        uuids = []
        cut_off = f"{name}={value} names a GPU twice: {vendor.runtime} then shows the job none"
    return dict(enumerate(dict.fromkeys(uuids))), lost, cut_off, by_index


def _slurm_variable(environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable of SLURM that lists this node's GPUs, or None where none is set.

    SLURM_JOB_GPUS is set on the first node only, and srun carries it to the others, where its numbers may be wrong;
    SLURM_STEP_GPUS is set for each node.
    """
    several_nodes = environ.get("SLURM_NNODES", environ.get("SLURM_JOB_NUM_NODES", "1")) != "1"
    order = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if several_nodes else ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
    return next((name for name in order if environ.get(name)), None)


def _has_tasks_with_gpus_of_their_own(environ: Mapping[str, str]) -> bool:
    """Return whether other tasks of the step may see the GPUs of this node that this task does not see.

    `SLURM_STEP_TASKS_PER_NODE` is "1" under a launcher that starts the ranks itself. It is like "8(x2)" where each rank
    is a task, perhaps in a container that shows one GPU.
    """
    tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return any(variable in environ for variable in _SLURM_PER_TASK) or (tasks is not None and int(tasks[0]) > 1)


def _from_slurm(gpus: Sequence[Gpu], name: str, environ: Mapping[str, str]) -> DeviceSelection:
    words = _words(environ[name])
    reason = f"{name}={environ[name]}"
    listed = tuple(uuid for gpu in gpus for _, uuid in gpu.devices)
    if len(words) == len(listed):
        # Under cgroup device isolation a driver shows exactly the job's GPUs, from 0, and SLURM's numbers differ.
        library = _vendor_of_group(gpus).library
        return DeviceSelection(uuids=listed, source="slurm", reason=f"{reason}, as many as {library} shows")
    if 0 < len(listed) < len(words) and _has_tasks_with_gpus_of_their_own(environ):
        # Each task sees its own GPUs only; the numbers are the node's, so they say nothing about which.
        hidden = len(words) - len(listed)
        return DeviceSelection(
            uuids=listed,
            source="slurm",
            reason=f"{reason}, of which this task sees {len(listed)}",
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


def _resolved(gpus: Sequence[Gpu], words: Sequence[str], source: str, reason: str) -> DeviceSelection:
    """Return the devices that the words name, each once; a slice is left out if its whole GPU is there."""
    numbered = {index: uuid for gpu in reversed(gpus) for index, uuid in gpu.devices}
    known = _names(gpus)
    found: list[str] = []
    missing: list[str] = []
    for word in words:
        uuid = numbered.get(int(word)) if word.isdigit() else _by_prefix(known, word)
        (missing if uuid is None else found).append(word if uuid is None else uuid)
    inside = {part.uuid for gpu in gpus if gpu.uuid in found for part in gpu.slices}
    uuids = tuple(dict.fromkeys(uuid for uuid in found if uuid not in inside))
    return DeviceSelection(uuids=uuids, source=source, reason=reason, missing=tuple(dict.fromkeys(missing)))


def _words(value: str) -> list[str]:
    """Return the items of a list such as "0,2-4" or "GPU-8f21,GPU-90aa"."""
    words: list[str] = []
    for item in (part.strip() for part in value.split(",")):
        ends = re.fullmatch(r"(\d+)-(\d+)", item)
        if ends:
            words += [str(number) for number in range(int(ends[1]), int(ends[2]) + 1)]
        elif item:
            words.append(item)
    return words


def _may_name(word: str, counted: int) -> bool:
    """Return whether a word may be the name of one of the `counted` GPUs that the driver counts."""
    return int(word) < counted if word.isdigit() else word.upper().startswith(("GPU-", "MIG-"))


def _by_leading_index(numbered: Mapping[int, str], word: str) -> str | None:
    """Return the device with the number at the start of an item: CUDA reads these digits and ignores what follows."""
    digits = re.match(r"\s*\+?(\d+)", word)
    return numbered.get(int(digits[1])) if digits else None


def _names(gpus: Sequence[Gpu]) -> list[str]:
    return [gpu.uuid for gpu in gpus] + [part.uuid for gpu in gpus for part in gpu.slices]


def _by_prefix(known: Sequence[str], prefix: str) -> str | None:
    """Return the only GPU or part of a GPU whose UUID starts with a prefix, or None if none does, or several do."""
    if not prefix.upper().startswith(("GPU-", "MIG-")):
        return None
    matches = [uuid for uuid in known if uuid.lower().startswith(prefix.lower())]
    return matches[0] if len(matches) == 1 else None


def _order_caveat(gpus: Sequence[Gpu], vendor: GpuVendor, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the assumption about the order of indices on a node with several kinds of GPUs.

    There CUDA's numbers are those of NVML only under CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    names = sorted({gpu.name for gpu in gpus})
    if vendor.order_variable is None or len(names) < 2:
        return ()
    variable, value = vendor.order_variable
    if environ.get(variable) == value:
        return ()
    return (
        f"{vendor.runtime} indices are taken as {vendor.library} indices, but this node mixes {', '.join(names)} and "
        f"{vendor.runtime} lists the fastest first unless {variable}={value}",
    )


def _all(count: int, vendor: GpuVendor) -> str:
    shown = f"that {vendor.library} shows"
    return f"the one GPU {shown} is" if count == 1 else f"all {count} GPUs {shown} are"
