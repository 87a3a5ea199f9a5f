"""Count the bytes, FLOPs and kernels that the step-time equations charge for a piece of work.

The counts come from the equations of `predict` themselves, evaluated with one rate at 1 and everything else free of
cost. A rate that the probe measures therefore means the same there and here, also after a change of the equations.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import operators
from carbon_plugin.predict.time.host import HOST_OPS_BACKWARD, HOST_OPS_FORWARD
from carbon_plugin.predict.time.layer import layer_on_device, layer_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import Precision, TrainingPlan

COSTS = (
    "kernel_time", "host_op_time", "scaleup_latency", "nic_latency", "nic_hop", "attention_unfused", "fused",
    "cast_bytes", "launch_blocking", "contention", "dp_overlap", "gather_overlap", "p2p_overlap",
    "attention_length", "shard_host_ops", "deduplicated", "round_robin", "expert_loop", "sorted_loop", "indexed_biases",
    "attention_lanes", "attention_exponentials", "attention_masked", "laid_out", "sliced_weights", "routed_row_time",
    "wrapped_op_time",
)  # fmt: skip
"""The fields of `Rates` that are costs or switches and cost nothing at 0. The other fields are rates and cost nothing
at infinity.
"""


def elementwise_bytes(model: TransformerModel, sequences: int, length: int, precision: Precision) -> float:
    """Return the bytes of one layer's elementwise chain, forward and backward, for `sequences` of `length` tokens."""
    shape, layout, work = _case(model, sequences, length, precision)
    cost = operators.elementwise(shape, layout, work, values(sequences * length), shape.ffn, _rates(memory=1.0))
    return float(cost.forward + cost.backward)


def attention_flops(model: TransformerModel, sequences: int, length: int, precision: Precision) -> float:
    """Return the causal-counted FLOPs of one layer's attention core as its time contains them, forward and backward."""
    cost = operators.attention_core(*_case(model, sequences, length, precision), _rates(attention_flops=1.0))
    return float(cost.forward + cost.backward)


def layer_kernels(model: TransformerModel) -> float:
    """Return the number of kernels of one dense layer, forward and backward."""
    case = _case(model, 1, 1, "fp32")
    rates = _rates(kernel_time=1.0)
    return float(layer_time(layer_on_device(*case, rates, values(1), sparse=False), rates).total)


def layer_host_operations() -> float:
    """Return how many operations the host issues for one dense layer without parallelism, forward and backward."""
    return HOST_OPS_FORWARD + HOST_OPS_BACKWARD


def _rates(**known: float) -> Rates:
    free = {field.name: 0.0 if field.name in COSTS else np.inf for field in fields(Rates)}
    return Rates(**{name: values(number) for name, number in (free | known).items()})


def _case(model: TransformerModel, sequences: int, length: int, precision: Precision) -> tuple[Shape, Layout, StepWork]:
    """Return a layer whose norms and gate are kernels of their own, as those of the layer that is measured are."""
    plan = TrainingPlan(seq_len=length, global_batch_size=sequences, steps=1, precision=precision)
    return (
        shape_of(model),
        layout_of(ParallelLayout(micro_batch_size=sequences)),
        work_of(plan, Stack(plain_modules=False)),
    )
