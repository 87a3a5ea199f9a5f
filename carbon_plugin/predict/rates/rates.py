"""Define the inputs of the step-time equations that describe hardware and software.

`Datasheet` is known without calibration, `Constants` are what calibration fits, and `combine` multiplies both to get
the sustained `Rates` that the equations take. `predict.rates.resolve` makes all three of a cluster and a software
stack.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from carbon_plugin.predict.arrays import Values, maximum, minimum, where
from carbon_plugin.predict.rates.laws import MOST_GEMM_SHARE

ROWWISE_SHARE = 0.5
"""Ratio of the rate of row-wise scaled fp8 products to that of tensor-wise ones: the rate of 16 bit. In torchtitan's
rows on H100 they gain nothing over bf16 (70B: 27.3 s against 27.4 s)."""
STREAMING_SHARE = 0.85
"""Share of memory bandwidth that single pointwise operations over large tensors reach. STREAM kernels reach 0.85 to 0.9
of it on A100, H100 and MI250X."""


UNIFORM_GAIN = 295 / 257
"""Ratio of the rates of products of predictable values and of random ones, which switch more transistors and draw more
power.

An A100 reaches 295 TFLOP/s with zeros and 257 with random numbers (Horace He, "Strangely, Matrix Multiplications on
GPUs Run Faster When Given Predictable Data"). On H100 fewer random bits bring 7 % (issue 2004 of NVIDIA/cutlass). Where
the tokens of a batch are alike, so are the rows of all activations, but the weights stay random: the full gain is an
upper bound.
"""

HOP_BETWEEN_S = 14e-6
"""Seconds of one step of a ring over a network, with the simple protocol (NCCL src/graph/tuning.cc, hwLat)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenAsKnown:
    """One instance holds what enters the equations as it is known of hardware and software, without calibration.

    Each field is in SI units and can be broadcast, and flags are 0 or 1. `attention_unfused` is 1 where the scores go
    through memory, and `attention_eager` where single PyTorch operations move them. `attention_masked` is 1 where a
    fused kernel computes the whole square of scores. Fused kernels compute whole multiples of `attention_lanes` of a
    head's width, where it is not 0. `attention_length` are the tokens by which they fill with the length of sequences,
    and `attention_exponentials` is the width of a head whose products take as long as its exponentials. `laid_out` is 1
    where a compiler gives every buffer of a step its place in memory. `aligned_bytes` are the bytes by whose multiples
    the rows of matrices must begin for products to run at their rate, or 0 where any will do. `scoped_graphs` and
    `fused_experts` are the flags of `spec.stack`. `deduplicated` is 1 where a token goes once to each rank,
    `round_robin` where its experts are neighbours, and `expert_loop` where experts run one by one, `sorted_loop` where
    their tokens are sorted before, `sliced_weights` where their weights are slices of one tensor. `counts_on_host` is 1
    where the host always needs counts of routed tokens, and `counts_to_exchange` where only an exchange or a loop needs
    them there. `routed_row_time` are the seconds of a pass beside its bytes to sort one routed row and to add it up
    again. `gathers_ahead`, `plain_dispatch`, `static_dispatch`, `one_hot_dispatch`, `one_hot_batch`, `capacity_factor`
    (0 where no token is dropped), `routing_spread`, `transfer_wait` (s) and `broadcasts` are fields of `spec.stack`.
    `island` is the number of devices that reach one another without a network, and `joined` the number of those that
    scale-up links join: others in the island are reached over the bus of the host. `exchange_peers` is the largest
    number of them between which tokens reach experts over these links. `devices_per_nic` is
    how many of them share a NIC. `host_memory` and `host_link` are the shares of
    one device. `wrapped_op_time` are the seconds by which the host takes longer for an operation where tensor
    parallelism splits weights, 0 where they are plain tensors.
    """

    attention_unfused: Values
    attention_eager: Values
    attention_masked: Values
    attention_lanes: Values
    laid_out: Values
    attention_length: Values
    attention_exponentials: Values
    aligned_bytes: Values
    fused: Values
    scoped_graphs: Values
    launch_blocking: Values
    fused_experts: Values
    deduplicated: Values
    round_robin: Values
    expert_loop: Values
    sorted_loop: Values
    sliced_weights: Values
    routed_row_time: Values
    plain_dispatch: Values
    static_dispatch: Values
    counts_on_host: Values
    counts_to_exchange: Values
    indexed_biases: Values
    one_kind_of_token: Values
    one_hot_dispatch: Values
    one_hot_batch: Values
    capacity_factor: Values
    transfer_wait: Values
    broadcasts: Values
    routing_spread: Values
    shard_host_ops: Values
    wrapped_op_time: Values
    island: Values
    joined: Values
    exchange_peers: Values
    devices_per_nic: Values
    devices: Values
    in_network: Values
    dp_overlap: Values
    gather_overlap: Values
    gathers_ahead: Values
    framework_factor: Values
    host_memory: Values
    host_link: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet(TakenAsKnown):
    """One datasheet holds all that is known of hardware and software without calibration, in SI units.

    `bus` is what collectives reach over the lanes to the host, where no link joins the devices. `nic`
    is the rate between devices of the same index in their nodes, and `nic_across` that of an exchange among all
    devices of several nodes. `narrow` is 1 where matrix products run below 16 bit, and `rowwise` where they scale every
    row. `capped_share` is the share of their rate that a power cap leaves. `uniform_tokens` is 1 where tokens that are
    all alike spare power. `iteration_graphs` is 1 where graphs hold whole iterations.
    """

    peak: Values
    wide_peak: Values
    memory: Values
    scaleup: Values
    bus: Values
    nic: Values
    nic_across: Values
    capped_share: Values
    uniform_tokens: Values
    narrow: Values
    rowwise: Values
    iteration_graphs: Values


@dataclass(frozen=True, slots=True)
class Constants:
    """Shares of the datasheet's rates and fixed costs, which calibration fits (`spec.hardware.cluster.Efficiency`).

    `overhead` divides the rates at which software moves bytes through memory and over links.
    """

    gemm_share: Values
    fp8_gemm_share: Values
    memory_share: Values
    attention_flops: Values
    fp8_cast_bytes: Values
    kernel_time_s: Values
    host_op_time_s: Values
    scaleup_share: Values
    scaleup_latency_s: Values
    scaleout_share: Values
    scaleout_latency_s: Values
    overlap_contention: Values
    all_to_all_share: Values
    overhead: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates(TakenAsKnown):
    """Sustained rates and fixed costs in SI units, which a datasheet gives under constants, and what is taken as it is
    known. Each field can be broadcast.

    `gemm_flops` is the rate of the layers' matrix products at the training precision, `wide_gemm_flops` that of
    products that stay in 16 bit (head, attention). `memory` is the rate of kernels that do more than move bytes, and
    `streaming` that of single passes over large tensors and `updates` that of an optimizer's. `attention_flops` is
    counted as causal. `cast_bytes` are the bytes moved per element for a cast to low precision (0 in 16 bit). Graphs of
    whole iterations make `host_op_time` 0. `nic_hop` are the seconds of one step of a ring between nodes.
    """

    gemm_flops: Values
    wide_gemm_flops: Values
    memory: Values
    streaming: Values
    updates: Values
    attention_flops: Values
    cast_bytes: Values
    kernel_time: Values
    host_op_time: Values
    scaleup: Values
    bus: Values
    scaleup_latency: Values
    nic: Values
    nic_across: Values
    nic_latency: Values
    nic_hop: Values
    contention: Values
    all_to_all_share: Values


TAKEN_AS_KNOWN = tuple(field.name for field in fields(TakenAsKnown))


def combine(sheet: Datasheet, constants: Constants) -> Rates:
    """Return the rates that a datasheet sustains under constants."""
    narrow_share = where(sheet.narrow > 0, constants.fp8_gemm_share, 1.0)
    narrow_share = where(sheet.rowwise > 0, ROWWISE_SHARE * narrow_share, narrow_share)
    alike = maximum(constants.gemm_share, minimum(UNIFORM_GAIN * constants.gemm_share, MOST_GEMM_SHARE))
    gemm_share = where(sheet.uniform_tokens > 0, alike, constants.gemm_share) * sheet.capped_share
    return Rates(
        **{name: getattr(sheet, name) for name in TAKEN_AS_KNOWN},
        gemm_flops=sheet.peak * gemm_share * narrow_share,
        wide_gemm_flops=sheet.wide_peak * gemm_share,
        memory=sheet.memory * constants.memory_share / constants.overhead,
        streaming=sheet.memory * STREAMING_SHARE / constants.overhead,
        updates=sheet.memory * STREAMING_SHARE,
        attention_flops=constants.attention_flops * sheet.capped_share,
        cast_bytes=constants.fp8_cast_bytes * sheet.narrow,
        kernel_time=constants.kernel_time_s,
        host_op_time=where(sheet.iteration_graphs > 0, 0.0, constants.host_op_time_s),
        scaleup=sheet.scaleup * constants.scaleup_share / constants.overhead,
        bus=sheet.bus / constants.overhead,
        scaleup_latency=constants.scaleup_latency_s,
        nic=sheet.nic * constants.scaleout_share / constants.overhead,
        nic_across=sheet.nic_across * constants.scaleout_share / constants.overhead,
        nic_latency=constants.scaleout_latency_s,
        nic_hop=HOP_BETWEEN_S,
        contention=constants.overlap_contention,
        all_to_all_share=constants.all_to_all_share,
    )


def with_slower_network(rates: Rates, slower: float) -> Rates:
    """Return the rates where everything between nodes takes `slower` times as long."""
    return replace(
        rates,
        nic=rates.nic / slower,
        nic_across=rates.nic_across / slower,
        nic_latency=rates.nic_latency * slower,
        nic_hop=rates.nic_hop * slower,
    )
