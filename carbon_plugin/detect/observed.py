"""Define the results of detection: values, each with the object that showed it, as plain data without torch."""

from __future__ import annotations

from math import prod
from typing import Any

from msgspec import Struct

from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.numbers.figure import Assumption

DEGREES = ("tp", "cp", "pp", "dp_replicate", "dp_shard")
"""The axes that multiply to the world size; `ep` divides it and is not among them."""

BY_ELIMINATION = "the other axes account for all"
"""The beginning of the source of an axis that no object showed and for which no ranks are left."""

AXES = (
    *DEGREES, "ep", "expert_tp", "zero_stage", "sequence_parallel", "async_tp", "context_parallel_kind",
    "pipeline_schedule", "virtual_stages", "pipeline_rounds",
)  # fmt: skip
"""The fields of a layout that say how ranks are arranged."""


class Observed(Struct, frozen=True):
    """One instance holds a value and names the live object that showed it."""

    value: Any
    source: str


class DetectedLayout(Struct, frozen=True, kw_only=True):
    """One instance holds the fields of a `ParallelLayout` that live objects show, in a world of `world_size` ranks."""

    axes: dict[str, Observed]
    world_size: int

    @property
    def explained(self) -> int:
        """Return how many ranks the axes found account for."""
        return prod(int(self.axes[axis].value) for axis in DEGREES if axis in self.axes)

    @property
    def unexplained(self) -> float:
        """Return world size over explained ranks: 1 when the axes found account for every rank."""
        return self.world_size / self.explained


class DetectedModel(Struct, frozen=True, kw_only=True):
    """One instance holds the model as its module shows it.

    `fields` are those of a `TransformerModel` that were seen, `assumed` what its structure leaves open. `counted`
    replaces them for a module whose structure is not known. `parameters` and `trainable_parameters` are those of the
    whole model under any sharding, unless `partial` says that only a part is here: a pipeline stage, or this rank's
    experts.
    """

    name: str
    parameters: int
    trainable_parameters: int
    source: str
    fields: dict[str, Any] = {}
    assumed: tuple[Assumption, ...] = ()
    counted: CountedModel | None = None
    partial: bool = False


class Detected(Struct, frozen=True, kw_only=True):
    """One instance holds everything that a look at a training job showed on one rank.

    `fields` maps names such as "layout.recompute" or "training.seq_len" to what was seen. `device_kind` is the kind of
    device that holds the parameters ("cpu", "cuda"). `problems` are (kind, sentence) for what could not be read.
    `duration_s` is the time that the look took from the training thread.
    """

    layout: DetectedLayout
    model: DetectedModel | None
    fields: dict[str, Observed]
    device_kind: str | None = None
    problems: tuple[tuple[str, str], ...] = ()
    duration_s: float = 0.0
