"""Choose recompute and micro-batch of a published row that does not state them by what fits in the memory of its
devices.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.spec.layout import Recompute
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import ORDINARY, THROUGH_MEMORY

RECOMPUTE_NOT_STATED = ("recompute none", "recompute operators")
MICRO_BATCH_NOT_STATED = "mbs 1"
WHOLE_SHARE_TAKEN = re.compile(r"mbs (\d+)")
BEYOND_DOUBT = 1.15
"""Predicted need over capacity from which on a layout that ran is not taken to be the assumed one: it fits with one in
fifty or less (`predict.uncertainty.fit`)."""


def with_needed_recompute(spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with the least recompute that lets it fit, where less of it was assumed and does not: that of the
    attention core, where its scores go through memory, or whole layers.

    What is assumed instead is written into `assumed`.
    """
    layout = spec.layout
    said = next((words for words in RECOMPUTE_NOT_STATED if words in assumed), None)
    if layout is None or said is None:
        return spec
    capacity = spec.cluster.accelerator.memory_bytes.value
    if need_bytes(spec) <= BEYOND_DOUBT * capacity:
        return spec
    less = "without it" if said == RECOMPUTE_NOT_STATED[0] else "with less of it"
    kinds: tuple[Recompute, ...] = ("selective", "full") if spec.stack.attention_kernel in THROUGH_MEMORY else ("full",)
    for kind in kinds:
        more = msgspec.structs.replace(spec, layout=msgspec.structs.replace(layout, recompute=kind))
        if need_bytes(more) <= BEYOND_DOUBT * capacity:
            assumed[assumed.index(said)] = f"recompute {kind}: {less} the run does not fit in memory"
            return more
    return spec


def with_share_that_fits(spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with a smaller micro-batch, where the whole share of a rank was assumed to be one and cannot fit.

    It is halved until it fits, as people halve it who run out of memory. What is assumed instead is written into
    `assumed`.
    """
    layout = spec.layout
    said = next((words for words in assumed if WHOLE_SHARE_TAKEN.fullmatch(words)), None)
    if layout is None or said is None:
        return spec
    capacity = spec.cluster.accelerator.memory_bytes.value
    taken, size = spec, layout.micro_batch_size
    while size % 2 == 0 and need_bytes(taken) > BEYOND_DOUBT * capacity:
        size //= 2
        taken = msgspec.structs.replace(spec, layout=msgspec.structs.replace(layout, micro_batch_size=size))
    if need_bytes(taken) > BEYOND_DOUBT * capacity:
        return spec
    if taken is not spec:
        assumed[assumed.index(said)] = f"mbs {size}: more of a rank's share does not fit in memory"
    return taken


def with_filled_memory(spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with the largest micro-batch that fits, where micro-batches of one sequence were assumed.

    People who shard parameters gather them once for each micro-batch, so that they fill the memory before they
    accumulate. So do those whose every device has a whole copy in ordinary software, where small kernels wait for the
    host. Pipelines want many micro-batches, and Megatron's relatives run one sequence unless they are told otherwise:
    both are left alone. What is assumed is written into `assumed`.
    """
    layout = spec.layout
    if layout is None or MICRO_BATCH_NOT_STATED not in assumed or spec.stack.interleaves:
        return spec
    whole_copies = layout.zero_stage == 0 and layout.tp == 1 and spec.stack.population == ORDINARY
    if layout.pp > 1 or not (layout.zero_stage >= 2 or whole_copies):
        return spec
    capacity = spec.cluster.accelerator.memory_bytes.value
    share = spec.training.global_batch_size // (layout.dp_replicate * layout.dp_shard)
    taken = spec
    size = 2
    while share % size == 0:
        larger = msgspec.structs.replace(spec, layout=msgspec.structs.replace(layout, micro_batch_size=size))
        if need_bytes(larger) > capacity:
            break
        taken, size = larger, 2 * size
    if taken.layout is not None and taken is not spec:
        size = taken.layout.micro_batch_size
        assumed[assumed.index(MICRO_BATCH_NOT_STATED)] = f"mbs {size}: the largest that fits in memory"
    return taken


def need_bytes(spec: RunSpec) -> float:
    """Return the predicted bytes on the fullest device, or 0 where the model has no layers to count."""
    if not isinstance(spec.model, TransformerModel) or spec.layout is None:
        return 0.0
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    parts = memory_bytes(shape_of(spec.model), layout_of(spec.layout), work_of(spec.training, spec.stack), rates)
    return float(np.asarray(sum(parts.values())))
