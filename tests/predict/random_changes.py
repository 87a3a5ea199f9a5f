"""Changes of a run: by how much of what a machine gets faster, and inputs that move a little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from carbon_plugin.predict.rates.resolve import PRIORS, resolve_constants
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import host_op_time_of

replace = msgspec.structs.replace
Change = Callable[[RunSpec, float], RunSpec]


def step_s(spec: RunSpec) -> float:
    return predict_step(spec).step_time_s.value


def need_bytes(spec: RunSpec) -> float:
    return predict_step(spec).memory.total_bytes


def times(value: Sourced, factor: float) -> Sourced:
    return replace(value, value=value.value * factor, low=None, high=None)


def with_device(spec: RunSpec, **changes: Any) -> RunSpec:
    device = replace(spec.cluster.accelerator, **changes)
    return replace(spec, cluster=replace(spec.cluster, accelerator=device))


def with_network(spec: RunSpec, **changes: Any) -> RunSpec:
    node = spec.cluster.node
    node = replace(node, network=replace(node.network, **changes))
    return replace(spec, cluster=replace(spec.cluster, node=node))


def of_peaks(spec: RunSpec, factor: float) -> RunSpec:
    """Peaks of all precisions together: how far power bounds a clock follows from the peak in 16 bit."""
    peaks = {dtype: times(peak, factor) for dtype, peak in spec.cluster.accelerator.peak_flops.items()}
    return with_device(spec, peak_flops=peaks)


def of_memory(spec: RunSpec, factor: float) -> RunSpec:
    bandwidth = spec.cluster.accelerator.memory_bandwidth_bytes_per_s
    return with_device(spec, memory_bandwidth_bytes_per_s=times(bandwidth, factor))


def of_links(spec: RunSpec, factor: float) -> RunSpec:
    scaleup = spec.cluster.accelerator.scaleup
    faster = replace(scaleup, bandwidth_bytes_per_s=times(scaleup.bandwidth_bytes_per_s, factor))
    return with_device(spec, scaleup=faster)


def of_nics(spec: RunSpec, factor: float) -> RunSpec:
    return with_network(spec, bandwidth_bytes_per_s=times(spec.cluster.node.network.bandwidth_bytes_per_s, factor))


def of_power(spec: RunSpec, factor: float) -> RunSpec:
    return with_device(spec, tdp_w=times(spec.cluster.accelerator.tdp_w, factor))


def of_constant(name: str) -> Change:
    """Return the change of a constant of the device, from what it is for this run."""

    def changed(spec: RunSpec, factor: float) -> RunSpec:
        device = spec.cluster.accelerator
        constants, _ = resolve_constants(device, spec.stack, spec.training.precision)
        stated = Sourced(float(getattr(constants, name)) * factor, "a test", "fitted")
        return with_device(spec, efficiency=replace(device.efficiency, **{name: stated}))

    return changed


def of_host(spec: RunSpec, factor: float) -> RunSpec:
    efficiency = spec.cluster.accelerator.efficiency
    own = efficiency.host_op_time_s.value if efficiency.host_op_time_s else PRIORS["host_op_time_s"][0]
    now = host_op_time_of(spec.stack)
    return replace(spec, stack=replace(spec.stack, host_op_time_s=factor * (own if now is None else now)))


def of_attention(spec: RunSpec, factor: float) -> RunSpec:
    efficiency = spec.cluster.accelerator.efficiency
    known = {kernel: times(rate, factor) for kernel, rate in efficiency.attention_flops.items()}
    return with_device(spec, efficiency=replace(efficiency, attention_flops=known))


FASTER: Mapping[str, tuple[Change, int]] = {
    # The change, and whether more of it (1) or less of it (-1) makes a machine faster.
    "peak": (of_peaks, 1),
    "memory bandwidth": (of_memory, 1),
    "links": (of_links, 1),
    "NICs": (of_nics, 1),
    "power": (of_power, 1),
    "attention kernels": (of_attention, 1),
    **{
        name: (of_constant(name), 1)
        for name in ("gemm_share", "memory_share", "scaleup_share", "scaleout_share", "all_to_all_share")
    },
    **{
        name: (of_constant(name), -1)
        for name in ("kernel_time_s", "scaleup_latency_s", "scaleout_latency_s", "overlap_contention")
    },
    "host time": (of_host, -1),
    "framework factor": (lambda spec, factor: replace(spec, stack=replace(spec.stack, framework_factor=factor)), -1),
}


def numbers_of(found: StepPrediction) -> list[float]:
    figures = [found.step_time_s, found.gpu_power_w, found.gpu_energy_per_step_j]
    return [
        *(number for figure in figures for number in (figure.value, figure.low, figure.high)),
        *found.step_time_95_s,
        found.tokens_per_s_per_device,
        found.model_flops_per_step,
        found.hardware_flops_per_step,
        found.mfu,
        found.hfu,
        found.memory.total_bytes,
    ]


def of_cap(spec: RunSpec, factor: float) -> RunSpec:
    limit, idle = spec.cluster.accelerator.tdp_w.value, spec.cluster.accelerator.idle_with_context_w
    return replace(spec, cluster=replace(spec.cluster, power_cap_w=min(limit, (idle + 0.7 * (limit - idle)) * factor)))


def of_plan(name: str, middle: float) -> Change:
    return lambda spec, factor: replace(spec, training=replace(spec.training, **{name: middle * factor}))


def of_stack(name: str, middle: float) -> Change:
    return lambda spec, factor: replace(spec, stack=replace(spec.stack, **{name: middle * factor}))


def of_model(name: str, middle: float) -> Change:
    return lambda spec, factor: replace(spec, model=replace(spec.model, **{name: middle * factor}))


def of_vocabulary(spec: RunSpec, factor: float) -> RunSpec:
    """Change the vocabulary of a padded head: where it is not padded, products of odd columns take twice as long."""
    model, stack = (
        replace(spec.model, vocab=round(spec.model.vocab * factor)),
        replace(spec.stack, pads_vocabulary=True),
    )
    return replace(spec, model=model, stack=stack)


def of_imbalance(spec: RunSpec, factor: float) -> RunSpec:
    moe = spec.model.moe
    return spec if moe is None else replace(spec, model=replace(spec.model, moe=replace(moe, imbalance=1.5 * factor)))


def of_oversubscription(spec: RunSpec, factor: float) -> RunSpec:
    """Where no rails are stated: with them, a job outgrows a leaf switch at a whole number of nodes."""
    return with_network(spec, oversubscription=2.0 * factor, rails=None)


SMALL: Mapping[str, Change] = {
    **{name: change for name, (change, _) in FASTER.items()},
    "power cap": of_cap,
    "imbalance": of_imbalance,
    "oversubscription": of_oversubscription,
    "vocabulary": of_vocabulary,
    "share of gradients that overlap": of_stack("dp_overlap", 0.5),
    "capacity": of_stack("capacity_factor", 1.25),
    "spread of the routing": of_stack("routing_spread", 0.3),
    "slots of sharding": of_stack("shard_host_ops", 60.0),
    "wait at transfers": of_stack("transfer_wait_s", 1e-3),
    "share of offloaded activations": of_plan("activation_offload", 0.5),
    "trained share": of_model("trainable_fraction", 0.5),
    "adapters": of_model("trainable_fraction", 0.005),
}
"""Inputs that need not be whole numbers, and the vocabulary.

No relation holds for a tenth of a percent where a rule has a threshold: at 10 % of trained parameters adapters end
(`ADAPTER_FRACTION`), at 15 % of waiting for the host a run becomes `host_bound`, which has another range
(`accuracy_class`), and a job leaves one leaf switch of a network with known rails (`leaf_nodes`). Counts have
thresholds of their own: heads in whole lanes, softmax kernels up to 4,096 keys and for multiples of four
heads, layers that do not divide evenly, a second micro-batch, a second island.
"""
