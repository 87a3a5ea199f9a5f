"""Define the options of a monitor that most jobs leave at their defaults."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.options import SpanRule
from carbon_plugin.spec.stack import Stack

MIN_WINDOW_S = 5.0
"""Shorter windows are noise, because the energy counter steps every ~100 ms and lags: 2 % of 5 s."""


class MonitorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Holds options that most jobs leave at their defaults.

    `training` declares fields of a `TrainingPlan`; `node` and `stack` declare the hardware and the software of the job.
    `reserved_gpus` are the job's GPUs on this node (UUIDs or NVML indices) where the environment does not tell.
    `run_id` is the id of a run that is known elsewhere, and `parent_run_id` the run that this one branched from.
    `min_window_s` is the least length of a window and is for tests. `span_rule` says when a comparison span is long
    enough.
    """

    training: dict[str, Any] = {}
    node: Node | str | None = None
    stack: Stack | None = None
    reserved_gpus: tuple[str | int, ...] | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    min_window_s: float = MIN_WINDOW_S
    span_rule: SpanRule = SpanRule()
