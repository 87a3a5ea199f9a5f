"""Read what the software of a published row gathers of sharded or split weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.conventions import XLA_DEVICE
from carbon_plugin.calibrate.rows.software.loss import is_compiled
from carbon_plugin.calibrate.rows.software.releases import year_of
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.stack import ShardUnit

WHOLE_COPIES = re.compile(r"(?i)(none|ddp)\b")
"""Start of a `sharding` that splits nothing, for which software that shards by hooks hooks nothing (DeepSpeed without a
stage of ZeRO; on one device ZeRO-3 has its hooks all the same)."""
FSDP_FORM = re.compile(r"FSDP([12])\b")
FSDP_FORMS: Mapping[str, ShardUnit] = MappingProxyType({"1": "flat", "2": "layer"})
"""The two forms of PyTorch's FSDP by their number, and what each gathers at a time (`Stack.shard_unit`)."""
FULLY_SHARD_SINCE = 2025
"""The year from which on PyTorch's FSDP is its second form, unless somebody says otherwise: `fully_shard` is public
since release 2.6 of January 2025, and its makers call the first form deprecated."""


def sharded(conventions: Conventions, row: Fields, stage: int, assumed: list[str]) -> dict[str, Any]:
    """Return the fields that follow from how the row shards parameters, and append what was assumed to `assumed`.

    A form of FSDP that is named is that one. Else it is the framework's, and PyTorch's of the row's date, which is that
    of a plan where the row has none.
    """
    sharding, framework = row.text("sharding"), row.text("framework")
    changes: dict[str, Any] = {"shard_host_ops": 0.0} if WHOLE_COPIES.match(sharding) else {}
    form = FSDP_FORM.search(f"{framework} {sharding}")
    by_fsdp = conventions.stack.shard_unit in (None, "layer", "flat") and not conventions.stack.gradient_buffers
    if not by_fsdp:
        return changes
    if form is not None:
        return changes | {"shard_unit": FSDP_FORMS[form[1]]}
    if conventions.stack.shard_unit is not None:
        return changes
    year = year_of(row)
    if XLA_DEVICE.search(framework):
        why = "XLA's has no second"
    elif year is not None and year < FULLY_SHARD_SINCE:
        why = f"PyTorch of {year}"
    else:
        return changes
    if stage == 3:
        assumed.append(f"FSDP's first form: {why}")
    return changes | {"shard_unit": "flat"}


def pipelined(row: Fields) -> dict[str, Any]:
    """Return whether XLA pipelines the collectives of the step, where the row says so."""
    said = f"{row.text('overlap')} {row.text('notes')}"
    if "pipelined collectives" not in said:
        return {}
    return {"gathers_ahead": "no pipelined collectives" not in said}


def wrapped(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return whether weights that tensor parallelism splits are DTensors, where it is not as in the row's stack."""
    if "DTensor" in row.text("notes"):
        return {"wraps_weights": "eager"}
    by_stack = conventions.stack.wraps_weights
    return {"wraps_weights": "eager"} if by_stack == "always" and is_compiled(row, device) else {}
