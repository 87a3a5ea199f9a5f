"""Assume full recompute for a published row that states none and could not have run without it."""

from __future__ import annotations

import msgspec
import numpy as np

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.memory import memory_bytes
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.run import RunSpec

NOT_STATED = "recompute none"
BEYOND_DOUBT = 1.25
"""Predicted need over capacity from which on a layout that ran cannot be the assumed one. It is about twice the spread
between measured and predicted peaks (`predict.uncertainty.fit`)."""


def with_needed_recompute(spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with full recompute where none was assumed, and only full recompute lets the run fit.

    What is assumed instead is written into `assumed`.
    """
    layout = spec.layout
    if layout is None or NOT_STATED not in assumed:
        return spec
    capacity = spec.cluster.accelerator.memory_bytes.value
    if need_bytes(spec) <= BEYOND_DOUBT * capacity:
        return spec
    full = msgspec.structs.replace(spec, layout=msgspec.structs.replace(layout, recompute="full"))
    if need_bytes(full) > BEYOND_DOUBT * capacity:
        return spec
    assumed[assumed.index(NOT_STATED)] = "recompute full: without it the run does not fit in memory"
    return full


def need_bytes(spec: RunSpec) -> float:
    """Return the predicted bytes on the fullest device, 0 where the model has no layers to count."""
    if not isinstance(spec.model, TransformerModel) or spec.layout is None:
        return 0.0
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    parts = memory_bytes(shape_of(spec.model), layout_of(spec.layout), work_of(spec.training, spec.stack), rates)
    return float(np.asarray(sum(parts.values())))
