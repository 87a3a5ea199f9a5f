"""What the step-time equations count in a piece of work: bytes, FLOPs, kernels.

Read from `predict` by evaluating its own equations with one rate at 1 and the others free of cost, so that a rate
measured by the probe means there what it means here, and goes on doing so when the equations change.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from carbon_plugin.predict import operators
from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case import Layout, Shape, Work
from carbon_plugin.predict.case_of_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.layer import HOST_OPS_BACKWARD, HOST_OPS_FORWARD, layer_time
from carbon_plugin.predict.rates import Rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import Precision, TrainingPlan

COSTS = (
    "kernel_time", "host_op_time", "scaleup_latency", "nic_latency", "attention_unfused", "fused", "cast_bytes",
    "contention", "dp_overlap", "gather_overlap", "p2p_overlap", "attention_length", "shard_host_ops",
    "deduplicated", "expert_loop",
)  # fmt: skip
"""Fields of `Rates` that are costs or switches, and free at 0; the others are rates, and free at infinity."""


def elementwise_bytes(model: TransformerModel, sequences: int, length: int, precision: Precision) -> float:
    """Bytes of one layer's elementwise chain, forward and backward, for `sequences` of `length` tokens."""
    shape, layout, work = _case(model, sequences, length, precision)
    cost = operators.elementwise(shape, layout, work, values(sequences * length), shape.ffn, _rates(memory=1.0))
    return float(cost.forward + cost.backward)


def attention_flops(model: TransformerModel, sequences: int, length: int, precision: Precision) -> float:
    """Causal-counted FLOPs of one layer's attention core as they enter its time, forward and backward."""
    cost = operators.attention_core(*_case(model, sequences, length, precision), _rates(attention_flops=1.0))
    return float(cost.forward + cost.backward)


def layer_kernels(model: TransformerModel) -> float:
    """Kernels of one dense layer, forward and backward."""
    case = _case(model, 1, 1, "fp32")
    return float(layer_time(*case, _rates(kernel_time=1.0), values(1), sparse=False).total)


def layer_host_operations() -> float:
    """Operations that the host issues for one dense layer, forward and backward, without parallelism."""
    return HOST_OPS_FORWARD + HOST_OPS_BACKWARD


def _rates(**known: float) -> Rates:
    free = {field.name: 0.0 if field.name in COSTS else np.inf for field in fields(Rates)}
    return Rates(**{name: values(number) for name, number in (free | known).items()})


def _case(model: TransformerModel, sequences: int, length: int, precision: Precision) -> tuple[Shape, Layout, Work]:
    plan = TrainingPlan(seq_len=length, global_batch_size=sequences, steps=1, precision=precision)
    return shape_of(model), layout_of(ParallelLayout(micro_batch_size=sequences)), work_of(plan, Stack())
