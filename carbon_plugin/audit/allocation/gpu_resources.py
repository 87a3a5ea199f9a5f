"""Read the names that schedulers give to GPUs and parts of GPUs, and say which part of a GPU each name stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

MOST_GPUS = 1_000_000
"""This is several times the largest cluster. A record that gives one job more is wrong."""

_SLICE = re.compile(r"(?:(?P<compute>[1-7])c\.)?(?P<slices>[1-7])g\.(?P<memory_gb>[0-9]{1,4})gb")
_OF_A_WHOLE = 7
_OF_A_30 = {("1", "6"): 4, ("2", "12"): 4, ("4", "24"): 4}
"""The MIG profiles of the one GPU that has four compute slices and not seven, by slices and GB."""

# Device plugins register these names for one GPU or another accelerator each.
_WHOLE = re.compile(
    r"[^/]+/gpu|gpu\.intel\.com/(?:i915|xe)|habana\.ai/gaudi|google\.com/tpu|aws\.amazon\.com/neuron(?:device)?"
)
_SHARED = re.compile(r"[^/]+/(?:gpu|mig-.+)\.shared")


class AllocatedGpus(Struct, frozen=True):
    """The GPUs of an allocation.

    With `sized` a slice counts as its share of a GPU. Otherwise everything that the scheduler calls a GPU counts as
    one. `notes` name what is not a whole GPU of its own.
    """

    gpus: float = 0.0
    sized: bool = False
    notes: tuple[str, ...] = ()


def slice_share(name: str) -> float | None:
    """Return the share of a GPU that the MIG profile in a name has, by compute slices: 1/7 for "mig-1g.10gb". Return
    None for a name without a profile.
    """
    found = _SLICE.search(name)
    if found is None:
        return None
    whole = _OF_A_30.get((found["slices"], found["memory_gb"]), _OF_A_WHOLE)
    return int(found["compute"] or found["slices"]) / whole


def held_of(counts: Iterable[tuple[str, int]]) -> AllocatedGpus:
    """Return the GPUs in a list of resources, given as (name, count). Other resources are ignored."""
    gpus, sized, notes = 0.0, False, []
    for name, count in counts:
        share = slice_share(name) if "mig-" in name else None
        if not count or not (share or _WHOLE.fullmatch(name) or _SHARED.fullmatch(name)):
            continue
        gpus += count * (share or 1.0)
        if share:
            sized = True
            notes.append(f"{count} x {name}, {share:.3g} of a GPU each")
        if _SHARED.fullmatch(name):
            notes.append(f"{count} x {name}, which others may have shared: each counts as all of it")
    return AllocatedGpus(gpus, sized, tuple(notes))
