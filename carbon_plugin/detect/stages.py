"""Put a pipelined model together from the stages that each rank reports, because no rank holds the whole model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.detect.observed import Detected, DetectedModel
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.amounts import plural

STAGES = "model.stages"
"""The field in which a rank's own stages are found."""
_TOLERANCE = 0.05


class StagePart(Struct, frozen=True, kw_only=True):
    """One instance describes stage `number` of `of` stages. `layers` is 0 where its repeated blocks are not found."""

    number: int
    of: int
    parameters: int
    trainable_parameters: int
    layers: int


def own_stages(detected: Detected) -> tuple[StagePart, ...]:
    """Return the stages on the rank that looked, empty without a pipeline."""
    seen = detected.fields.get(STAGES)
    return () if seen is None else tuple(seen.value)


def with_all_stages(detected: Detected, parts: Iterable[StagePart]) -> Detected:
    """Return what was detected, with the whole model where `parts` of several ranks are all of its stages."""
    stages = {part.number: part for part in (*own_stages(detected), *parts)}
    model = detected.model
    if model is None or not stages or set(stages) != set(range(next(iter(stages.values())).of)):
        return detected
    total = sum(part.parameters for part in stages.values())
    layers = sum(part.layers for part in stages.values()) if all(part.layers for part in stages.values()) else 0
    source = f"{model.source}, with {plural(len(stages), 'stage')} of all ranks"
    whole = replace(
        model,
        parameters=total,
        trainable_parameters=sum(part.trainable_parameters for part in stages.values()),
        partial=False,
        source=source,
        fields=_whole_shape(model, layers, total),
    )
    return replace(detected, model=whole)


def _whole_shape(model: DetectedModel, layers: int, total: int) -> dict[str, Any]:
    """Return the shape with all layers and with tied or untied embeddings, whichever fits the parameters, or
    nothing.
    """
    assumed = {assumption.field.removeprefix("model."): int(assumption.value) for assumption in model.assumed}
    for tied in (False, True):
        fields = {"tied_embeddings": tied, **model.fields} | ({"layers": layers} if layers else {})
        try:
            shape = TransformerModel(name=model.name, **(assumed | fields))
        except (SpecError, TypeError):
            continue
        if abs(shape.parameters - total) <= _TOLERANCE * total:
            return fields
    return {}
