"""Compute the seconds of an optimizer's update, once a step, on the device or on the host."""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, maximum, minimum, sqrt, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates

OPTIMIZER_BYTES_PER_PARAMETER = 44
"""Bytes per parameter of an Adam step in mixed precision. It reads the gradient, the master and two moments, and writes
the master, the moments and the 16-bit copy."""
PURE_UPDATE_BYTES = 6
"""Bytes per parameter of a step without master weight and moments. It reads the 16-bit gradient and parameter, and
writes the parameter."""
STEP_FIXED_TIME = 1e-3
MUON_ITERATIONS = 5
"""Newton-Schulz iterations of Muon (Jordan et al. 2024)."""
OFFLOAD_LINK_BYTES = 6
"""Bytes per parameter over the link: the fp32 gradient to the host and the 16-bit parameter back (ZeRO-Offload, arXiv
2101.06840)."""


def optimizer_time(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, parameters: tuple[Values, Values]
) -> tuple[Values, Values]:
    """Return the seconds of the optimizer's update on the device, and the seconds of an update on the host.

    The update covers the local shard of trainable parameters and is element-wise. For Muon the seconds on the device
    include the orthogonalisation of its matrices.
    """
    shared, routed = parameters
    sharded = layout.zero_stage > 0
    count = shared / where(sharded, layout.dp_shard * layout.cp, 1)
    count = (count + routed / where(sharded, layout.expert_shards, 1)) * shape.trainable
    kernels = 30 * rates.kernel_time * sqrt(shape.layers / layout.pp)
    moved = update_bytes(work.optimizer_bytes, work.master) + work.list_bytes
    element_wise = moved * count / rates.updates + kernels
    on_device = where(work.offload > 0, 0.0, element_wise)
    if any_of(work.muon > 0):
        on_device = on_device + work.muon * _muon_flops_per_parameter(shape) * count / rates.wide_gemm_flops
    return on_device + STEP_FIXED_TIME, work.offload * offload_time(count, work.optimizer_bytes, work.master, rates)


def update_bytes(state_bytes: Values, master: Values) -> Values:
    """Return the bytes per parameter that an element-wise update moves with `state_bytes` of optimizer state per
    parameter.

    Without a master weight, gradient and parameter are 16-bit values that are read and written once.
    """
    return where(master > 0, OPTIMIZER_BYTES_PER_PARAMETER - 16, PURE_UPDATE_BYTES) + 2 * state_bytes


def offload_time(parameters: Values, state_bytes: Values, master: Values, rates: Rates) -> Values:
    """Return the seconds of an optimizer step on the host.

    The link takes gradients to the host, the host updates the parameters, and the link takes the parameters back.
    """
    return parameters * (update_bytes(state_bytes, master) / rates.host_memory + OFFLOAD_LINK_BYTES / rates.host_link)


def _muon_flops_per_parameter(shape: Shape) -> Values:
    """Return the FLOPs per parameter of Muon's orthogonalisation.

    They are 4 m^2 n + 2 m^3 per matrix (m <= n) and iteration, for the feed-forward matrices, which hold most
    parameters.
    """
    width = where(shape.moe_layers > 0, shape.expert_ffn, shape.ffn)
    m, n = minimum(shape.hidden, width), maximum(shape.hidden, width)
    return MUON_ITERATIONS * (4 * m + 2 * m * m / n)
