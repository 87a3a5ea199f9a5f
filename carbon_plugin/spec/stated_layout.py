"""Find the layout that a run states: all of it, nothing, or fields that a search has to keep to."""

from __future__ import annotations

from typing import Any

import msgspec

from carbon_plugin.spec.defaults import pipeline_chunks
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import ParallelLayout, StatedLayout
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document
from carbon_plugin.spec.stack import Stack

AUTO = "auto"
"""The word for a layout that is to be searched."""
PIPELINED = frozenset(("pipeline_schedule", "virtual_stages"))
"""The fields of a layout that say how many model chunks a pipeline rank holds."""


def stated_layout(
    document: Document, stated: str | dict[str, Any] | None, cluster: Cluster
) -> tuple[ParallelLayout | None, dict[str, Any], list[Assumption]]:
    """Return the stated layout, or None where it is to be searched; the fields the search has to keep to; and
    assumptions.
    """
    if stated is None or stated == AUTO:
        return None, {}, []
    if isinstance(stated, str):
        raise document.error(("layout",), f"expected {AUTO} or a mapping, got {stated!r}")
    given = decode(document, StatedLayout, ("layout",))
    if not given.is_whole(cluster.devices):
        return None, given.held, []
    layout = decode(document, ParallelLayout, ("layout",))
    fields = ["micro_batch_size", "recompute", *(["sequence_parallel"] if layout.tp > 1 else [])]
    assumed = [field for field in fields if field not in stated]
    return layout, {}, [Assumption(f"layout.{field}", _word(getattr(layout, field)), "not stated") for field in assumed]


def with_chunks(
    layout: ParallelLayout, layers: int, micro_batches: int, stack: Stack
) -> tuple[ParallelLayout, list[Assumption]]:
    """Return a layout with the number of model chunks a pipeline rank that its stack gives it, and that assumption.

    It is called where nobody stated the schedule.
    """
    if layout.pp == 1:
        return layout, []
    taken = pipeline_chunks(layout.pp, layers, micro_batches, interleaves=stack.interleaves)
    if taken.value > 1:
        layout = msgspec.structs.replace(layout, pipeline_schedule="interleaved", virtual_stages=taken.value)
    return layout, [Assumption("layout.virtual_stages", str(taken.value), taken.why)]


def states_schedule(stated: str | dict[str, Any] | None) -> bool:
    """Return whether a run states how many model chunks a pipeline rank holds."""
    return bool(PIPELINED & set(stated or ()))


def _word(value: Any) -> str:
    """Return a value as a YAML file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
