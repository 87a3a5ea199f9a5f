"""Find the layout that a run states: all of it, nothing, or fields that a search has to keep to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from carbon_plugin.spec.defaults import usual_schedule
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import ParallelLayout, StatedLayout
from carbon_plugin.spec.numbers.amounts import yaml_word
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document
from carbon_plugin.spec.stack import Stack

AUTO = "auto"
"""The word for a layout that is to be searched."""
BY_STACK = {
    "sequence_parallel": {
        True: "with tensor parallelism this software splits sequences between the blocks too",
        False: "this software splits layers alone unless told otherwise",
    },
    "async_tp": {
        True: "this software runs the collectives of tensor parallelism beside products",
        False: "this software waits for the collectives of tensor parallelism unless told otherwise",
    },
    "recompute_reentrant": {
        True: "this software repeats all of a layer that it recomputes",
        False: "this software stops before the last work of a layer that it recomputes",
    },
    "balanced_stages": {
        True: "this software cuts pipelines into stages by work, to which embedding and head belong",
        False: "this software deals its layers out to the stages evenly unless told otherwise",
    },
}
"""Why a layout has a field that it does not state, by the value that its stack gives."""
PIPELINED = frozenset(("pipeline_schedule", "virtual_stages"))
"""The fields of a layout that say how many model chunks a pipeline rank holds."""


def stated_layout(
    document: Document, stated: str | dict[str, Any] | None, cluster: Cluster, stack: Stack
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
    left_open = [field for field in ("micro_batch_size", "recompute") if field not in stated]
    assumed = [Assumption(f"layout.{field}", yaml_word(getattr(layout, field)), "not stated") for field in left_open]
    untold = [field for field in left_to_stack(layout) if field not in stated]
    layout, of_stack = with_fields_of_stack(layout, stack, untold)
    return layout, {}, [*assumed, *of_stack]


def with_fields_of_stack(
    layout: ParallelLayout, stack: Stack, untold: Sequence[str]
) -> tuple[ParallelLayout, list[Assumption]]:
    """Return a layout with these fields, which nobody states, as the software has them, and these assumptions."""
    taken = {field: value for field, value in fields_of_stack(stack).items() if field in untold}
    said = [Assumption(f"layout.{field}", yaml_word(value), BY_STACK[field][value]) for field, value in taken.items()]
    return msgspec.structs.replace(layout, **taken), said


def fields_of_stack(stack: Stack) -> dict[str, bool]:
    """Return the fields of a layout that this software decides where nobody states them."""
    return {
        "sequence_parallel": stack.shards_sequences,
        "async_tp": stack.hides_tensor_traffic,
        "recompute_reentrant": stack.reentrant,
        "balanced_stages": stack.balances_stages,
    }


def left_to_stack(layout: ParallelLayout) -> tuple[str, ...]:
    """Return the fields of this layout that its software decides where nobody states them."""
    tensor = ("sequence_parallel", "async_tp") if layout.tp > 1 else ()
    again = ("recompute_reentrant",) if layout.recompute == "full" else ()
    return tensor + again + (("balanced_stages",) if layout.pp > 1 else ())


def with_schedule(
    layout: ParallelLayout, layers: int, micro_batches: int, stack: Stack
) -> tuple[ParallelLayout, list[Assumption]]:
    """Return a layout with the schedule of its pipeline that its stack gives it, and that assumption.

    It is called where nobody stated the schedule.
    """
    if layout.pp == 1:
        return layout, []
    schedule, taken = usual_schedule(layout.pp, layers, micro_batches, stack)
    layout = msgspec.structs.replace(layout, pipeline_schedule=schedule, virtual_stages=taken.value)
    scheduled = [Assumption("layout.virtual_stages", str(taken.value), taken.why)]
    if schedule == "dualpipe":
        scheduled.insert(0, Assumption("layout.pipeline_schedule", schedule, taken.why))
    return layout, scheduled


def states_schedule(stated: str | dict[str, Any] | None) -> bool:
    """Return whether a run states how many model chunks a pipeline rank holds."""
    return bool(PIPELINED & set(stated or ()))
