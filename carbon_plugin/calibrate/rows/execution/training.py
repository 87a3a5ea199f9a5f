"""Read the training plan of a published row: its lengths, optimizer and what it offloads."""

from __future__ import annotations

import re
from typing import get_args

from carbon_plugin.calibrate.rows.execution.precision import is_pure
from carbon_plugin.calibrate.rows.execution.sharding import OFFLOADED
from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.spec.defaults import pure_states
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.training import Optimizer, Precision, TrainingPlan

HALF_STATES = re.compile(r"bf16 (?:moments|states)|(?:moments|states) in bf16")


def training_plan(
    row: Fields,
    model: TransformerModel,
    cluster: Cluster,
    layout: ParallelLayout,
    batch: int,
    precision: Precision,
    conventions: Conventions,
    assumed: list[str],
) -> TrainingPlan:
    """Return the training plan of a row, and append what was assumed. Raises `MissingFieldError` without a length."""
    pure = pure_states(conventions.stack, precision) or is_pure(row, model, layout, cluster, assumed)
    optimizer = row.text("optimizer").lower()
    eight_bit = re.search(r"8[- ]?bit", optimizer) is not None
    if model.has_encoder and not row.states("input_len"):
        raise MissingFieldError("input_len")
    return TrainingPlan(
        seq_len=row.count("seq_len"),
        global_batch_size=batch,
        steps=1,
        precision=precision,
        optimizer=next((known for known in get_args(Optimizer) if optimizer.startswith(known)), "adamw"),
        master_weights=not pure,
        optimizer_state_dtype="fp8" if eight_bit else "bf16" if pure or HALF_STATES.search(optimizer) else "fp32",
        optimizer_in_backward="in backward" in optimizer,
        optimizer_offload=OFFLOADED.search(row.text("sharding")) is not None,
        activation_offload=_activation_offload(row, model),
        input_len=row.optional_count("input_len"),
        scored_len=row.optional_count("scored_len"),
    )


def _activation_offload(row: Fields, model: TransformerModel) -> float:
    """Return the share of layers whose activations wait in host memory.

    It comes from a stated number of layers, and is 1 where the row says that all are offloaded.
    """
    if "activation offload" in row.text("recompute") or row.states("activation_offload"):
        return 1.0
    return min(1.0, (row.optional_count("cpu_offload_layers") or 0) / model.layers)
