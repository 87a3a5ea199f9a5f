"""Turn measurements of this machine into profiles in the format of every other device and node.

A GPU for which a datasheet is shipped keeps it and gets measured efficiencies. A CPU, or a GPU that nobody described,
is described by what it reached. What a probe cannot measure (power, embodied carbon) is assumed, with wide ranges and a
source that says so.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import cast

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.embodied.tables import embodied_table
from carbon_plugin.predict.rates.laws import LENGTH_REFERENCE, length_scale
from carbon_plugin.probe.collectives import Link, all_reduce_bandwidth, fit_link
from carbon_plugin.probe.measure import GPU_SIZES
from carbon_plugin.probe.result import Machine, Measurements, contention
from carbon_plugin.spec.hardware.cluster import Accelerator, Efficiency, Host, Network, Node, ScaleUp
from carbon_plugin.spec.numbers.amounts import memory, plural, quantity
from carbon_plugin.spec.numbers.figure import Confidence, Sourced
from carbon_plugin.spec.numbers.range import ZERO, Range
from carbon_plugin.spec.numbers.units import (
    BYTE_RATE_UNITS,
    BYTES_PER_MEMORY_GB,
    BYTES_PER_STORAGE_GB,
    CALL_TIME_UNITS,
    FLOP_RATE_UNITS,
)
from carbon_plugin.spec.stack import AttentionKernel

SHARE_DTYPES = ("bf16", "fp16", "fp32")
"""The dtypes of which the sustained share is taken, the first measured one first. On a CPU it is that of fp32."""
CPU_W_PER_CORE = Range(5.0, 2.5, 10.0)
"""The package power per core in W: central, low and high. It is 3.8 to 6.3 on server parts, less on laptops and 10 on
desktops. The modelled host meter uses the same conventions, as it does for the idle share and the watts of DRAM below.
"""
CPU_IDLE_SHARE = Range(0.1, 0.0, 0.3)
DRAM_W_PER_BYTE = Range(0.2 / 1e9, 0.1 / 1e9, 0.375 / 1e9)
OVERHEAD_FRACTION = Range(0.10, 0.05, 0.25)
GPU_W = Range(300.0, 75.0, 750.0)
GPU_IDLE_SHARE = Range(0.12, 0.05, 0.25)
CPU_KG = Range(25.0, 10.0, 50.0)
GPU_KG = Range(150.0, 40.0, 450.0)
BOARD_AND_SUPPLY_KG = Range(139.0, 70.0, 750.0)

SOURCES = {
    "firmware": "Power limit that the firmware states (Linux powercap, constraint_0 of each package)",
    "system": "What the operating system reports",
    "cpu-convention": "Convention: 5 W a core (2.5 to 10); no power limit could be read",
    "idle-convention": "Convention: a CPU package idles at 10 % of its limit (0 to 30 %)",
    "driver": "Default power limit that the driver states (NVML)",
    "gpu-convention": "Convention: 300 W (75 to 750); no profile of this GPU is shipped and its driver states no limit",
    "gpu-idle-convention": "Convention: a GPU idles at 12 % of its limit (5 to 25 %)",
    "dram-convention": "0.2 W/GB of DRAM (0.1 to 0.375): CodeCarbon's 3 W per 8 GB and 5 W per DIMM as bounds",
    "overhead-convention": "Fans, regulators and supply losses, 10 % of device power (5 to 25 %)",
    "component-factors": (
        "DRAM and SSD as in a server (footprint/factors/data/embodied.yaml), board 66 kg and power supply 73 kg "
        "(Boavizta; high: a server's by 46 published footprints), CPU 25 kg (Boavizta 0.0197 kg/mm2 + 9.14)"
    ),
    "unknown-gpu": "Convention of 150 kg a GPU of unknown make (Cloud Carbon Footprint, BLOOM), 40 to 450",
    "one-machine": "One machine without a training network: no switch, no optics",
    "memory-path": "Processes of one machine exchange through its memory: a quarter of its bandwidth, not measured",
    "synchronous": "FSDP on CPU waits for each collective: nothing is hidden under compute (torch source)",
}


def build_profiles(
    name: str, machine: Machine, measurements: Measurements, datasheet: Accelerator | None
) -> tuple[Accelerator, Node]:
    """Return the profiles of this machine's device and of the machine as a node, both called `name`.

    `datasheet` is the shipped profile of the same GPU, if there is one. The ranges of its other fields stay.
    """
    link = fit_link(measurements.collectives, machine.ranks) if measurements.collectives else None
    if machine.kind == "gpu" and datasheet is not None:
        accelerator = _from_datasheet(name, machine, measurements, datasheet, link)
    else:
        accelerator = _from_measurements(name, machine, measurements, link)
    accelerator = _with_attention_at_reference(accelerator, measurements)
    return accelerator, _node(name, machine, accelerator)


def _with_attention_at_reference(device: Accelerator, measurements: Measurements) -> Accelerator:
    """Return the device with the attention rates that its kernels have on `LENGTH_REFERENCE` tokens.

    They were measured on other lengths too, of which the mean was kept. On shorter sequences a kernel is slower
    (`predict.time.operators`).
    """
    rates = dict(device.efficiency.attention_flops)
    for kernel in measurements.attention_flops:
        scale = length_scale(cast("AttentionKernel", kernel), device)
        filled = fmean((1 + scale / LENGTH_REFERENCE) / (1 + scale / length) for length in GPU_SIZES.attention_lengths)
        rates[kernel] = msgspec.structs.replace(rates[kernel], value=rates[kernel].value / filled)
    return msgspec.structs.replace(device, efficiency=msgspec.structs.replace(device.efficiency, attention_flops=rates))


def probe_source(machine: Machine) -> str:
    """Return who measured, when and with what, as the `probe` source of a profile."""
    ranks = "1 process" if machine.ranks == 1 else f"{machine.ranks} processes at once over {machine.backend}"
    threads = plural(machine.threads, "thread")
    return f"carbon-plugin probe, {machine.date}, torch {machine.torch_version}, {ranks}, {threads} each"


def _measured(value: float, note: str | None = None) -> Sourced:
    return Sourced(value, "probe", "measured", note=note)


def _assumed(number: Range, source: str, factor: float = 1.0, note: str | None = None) -> Sourced:
    scaled = number.scaled(factor)
    return Sourced(scaled.value, source, "assumed", scaled.low, scaled.high, note)


def best_rates(measurements: Measurements) -> dict[str, float]:
    """Return the highest FLOP/s at any size, by dtype."""
    best: dict[str, float] = {}
    for gemm in measurements.gemms:
        best[gemm.dtype] = max(gemm.flops_per_s, best.get(gemm.dtype, 0.0))
    return best


def sustained_rates(measurements: Measurements) -> dict[str, float]:
    """Return the median FLOP/s over sizes, by dtype."""
    return {
        dtype: median(gemm.flops_per_s for gemm in measurements.gemms if gemm.dtype == dtype)
        for dtype in dict.fromkeys(gemm.dtype for gemm in measurements.gemms)
    }


def _from_measurements(name: str, machine: Machine, measurements: Measurements, link: Link | None) -> Accelerator:
    peaks = {dtype: _measured(rate, "best of all sizes") for dtype, rate in best_rates(measurements).items()}
    memory = measurements.memory_bytes_per_s
    bandwidth = _measured(link.bandwidth_bytes_per_s) if link else Sourced(memory / 4, "memory-path", "assumed")
    is_cpu = machine.kind == "cpu"
    power, idle, embodied = _device_power_and_carbon(machine)
    return Accelerator(
        name=name,
        full_name=f"{machine.device}, as probed",
        vendor=_vendor(machine.device),
        architecture=machine.cpu_architecture if is_cpu else "unknown",
        kind=machine.kind,
        device_names=[machine.device],
        peak_flops=peaks,
        memory_bytes=Sourced(machine.device_memory_bytes / (machine.devices if is_cpu else 1), "system", "read"),
        memory_bandwidth_bytes_per_s=_measured(memory, "c = a + b beyond the caches, all ranks at once"),
        tdp_w=power,
        idle_power_w=idle,
        scaleup=ScaleUp(technology=_technology(machine), bandwidth_bytes_per_s=bandwidth, domain=machine.devices),
        scaleout_bandwidth_bytes_per_s=bandwidth,
        embodied_kg=embodied,
        efficiency=_efficiency(machine, measurements, link, peaks, memory, bandwidth.value),
        default_node=name,
        sources=_used_sources(machine, power, idle, embodied, bandwidth),
        notes=_notes(machine, measurements),
    )


def _from_datasheet(
    name: str, machine: Machine, measurements: Measurements, datasheet: Accelerator, link: Link | None
) -> Accelerator:
    measured = _efficiency(
        machine,
        measurements,
        link,
        datasheet.peak_flops,
        datasheet.memory_bandwidth_bytes_per_s.value,
        datasheet.scaleup.bandwidth_bytes_per_s.value,
    )
    known = {field: getattr(measured, field) for field in measured.__struct_fields__}
    known = {field: value for field, value in known.items() if value}
    known["attention_flops"] = datasheet.efficiency.attention_flops | measured.attention_flops
    return msgspec.structs.replace(
        datasheet,
        name=name,
        full_name=f"{datasheet.full_name}, as probed",
        aliases=[],
        efficiency=msgspec.structs.replace(datasheet.efficiency, **known),
        default_node=name,
        sources=datasheet.sources | {"probe": probe_source(machine)},
        notes=[*datasheet.notes, *_notes(machine, measurements)],
    )


def _efficiency(
    machine: Machine,
    measurements: Measurements,
    link: Link | None,
    peaks: dict[str, Sourced],
    memory_bytes_per_s: float,
    scaleup_bytes_per_s: float,
) -> Efficiency:
    """Return the measured constants relative to the peaks of the profile that they are written into.

    Raises `SpecError` where no matrix product was measured.
    """
    sustained = sustained_rates(measurements)
    order = ("fp32",) if machine.kind == "cpu" else SHARE_DTYPES
    dtype = next((dtype for dtype in order if dtype in sustained and dtype in peaks), None)
    if dtype is None:
        raise SpecError(
            f"probe: no matrix product was measured on {machine.device}; expected one of {', '.join(order)}"
        )
    share = sustained[dtype] / peaks[dtype].value
    fp8 = sustained["fp8"] / peaks["fp8"].value / share if {"fp8"} <= sustained.keys() & peaks.keys() else None
    kernel, host = measurements.kernel_time_s, measurements.host_op_time_s
    on_cpu = "a CPU issues and runs on the same cores: all fixed cost is in kernel_time_s" if not host else None
    return Efficiency(
        gemm_share=_measured(share, f"{dtype}, median over sizes"),
        memory_share=_measured(
            measurements.elementwise_bytes_per_s / memory_bytes_per_s, "a layer's elementwise chain"
        ),
        attention_flops={kernel: _measured(rate) for kernel, rate in measurements.attention_flops.items()},
        fp8_gemm_share=_measured(fp8) if fp8 is not None else None,
        scaleup_share=_measured(link.bandwidth_bytes_per_s / scaleup_bytes_per_s) if link else None,
        scaleup_latency_s=_measured(link.latency_s) if link else None,
        overlap_contention=Sourced(1.0, "synchronous", "derived") if machine.kind == "cpu" else None,
        kernel_time_s=_measured(kernel) if kernel is not None else None,
        host_op_time_s=_measured(host, on_cpu) if host is not None else None,
    )


def _device_power_and_carbon(machine: Machine) -> tuple[Sourced, Sourced, Sourced]:
    """Return power limit, idle power and embodied carbon of one device.

    For a CPU they are one rank's share of the packages.
    """
    if machine.kind == "gpu":
        power = _gpu_power_limit(machine)
        idle = _assumed(GPU_IDLE_SHARE, "gpu-idle-convention", power.value)
        return power, idle, _assumed(GPU_KG, "unknown-gpu")
    share = min(1.0, machine.threads * machine.ranks / machine.cores) / machine.ranks
    power = _scaled(_cpu_power_limit(machine), share, "this rank's share of the packages")
    embodied = _assumed(CPU_KG, "component-factors", machine.sockets / machine.ranks, "this rank's share of the CPUs")
    return power, _idle_cpu(power), embodied


def _cpu_power_limit(machine: Machine) -> Sourced:
    if machine.cpu_power_limit_w is None:
        return _assumed(CPU_W_PER_CORE, "cpu-convention", machine.cores)
    return Sourced(machine.cpu_power_limit_w, "firmware", "read")


def _gpu_power_limit(machine: Machine) -> Sourced:
    if machine.gpu_power_limit_w is None:
        return _assumed(GPU_W, "gpu-convention")
    return Sourced(machine.gpu_power_limit_w, "driver", "read")


def _idle_cpu(power: Sourced) -> Sourced:
    """Return the idle draw of CPUs with this power limit. Its range combines those of limit and share."""
    idle = power.range.times(CPU_IDLE_SHARE)
    return Sourced(idle.value, "idle-convention", "assumed", idle.low, idle.high)


def _scaled(value: Sourced, factor: float, note: str) -> Sourced:
    low, high = (None if bound is None else bound * factor for bound in (value.low, value.high))
    confidence: Confidence = "derived" if value.confidence == "read" else value.confidence
    return Sourced(value.value * factor, value.source, confidence, low, high, note)


def _vendor(device: str) -> str:
    known = {"amd": "amd", "intel": "intel", "apple": "apple", "nvidia": "nvidia", "ampere": "ampere"}
    return next((vendor for word, vendor in known.items() if word in device.lower()), "unknown")


def _technology(machine: Machine) -> str:
    return f"{machine.backend}-loopback" if machine.backend else "memory"


def _used_sources(machine: Machine, *values: Sourced) -> dict[str, str]:
    keys = {value.source for value in values} | {"system"} | ({"synchronous"} if machine.kind == "cpu" else set())
    return {"probe": probe_source(machine)} | {key: text for key, text in SOURCES.items() if key in keys}


def _notes(machine: Machine, measurements: Measurements) -> list[str]:
    notes = [
        f"{gemm.dtype} products {gemm.tokens} x {gemm.width} x {gemm.width}: "
        f"{quantity(gemm.flops_per_s, FLOP_RATE_UNITS, 4)}"
        for gemm in measurements.gemms
    ]
    notes += [
        f"{one.kind} of {memory(one.size_bytes)} over {plural(machine.ranks, 'rank')}: "
        f"{quantity(one.time_s, CALL_TIME_UNITS, 4)}"
        for one in measurements.collectives
    ]
    if measurements.collectives:
        rate = all_reduce_bandwidth(measurements.collectives, machine.ranks)
        notes.append(
            f"bandwidth is that of sharded training; large all-reduces alone reach {quantity(rate, BYTE_RATE_UNITS)}"
        )
    busy = contention(measurements)
    return [*([busy] if busy else []), *notes, *measurements.notes]


def _node(name: str, machine: Machine, accelerator: Accelerator) -> Node:
    """Return the machine around its devices. For a CPU the packages are the devices and are not counted again."""
    is_cpu = machine.kind == "cpu"
    cpu_power = _cpu_power_limit(machine)
    # Beside GPUs the CPUs wait and feed data. Their idle draw, and not more, is part of the base.
    idle = ZERO if is_cpu else _idle_cpu(cpu_power).range
    base = idle.plus(DRAM_W_PER_BYTE.scaled(machine.dram_bytes))
    cpus = ZERO if is_cpu else CPU_KG.scaled(machine.sockets)
    factors = embodied_table().host
    dram = factors.dram_kg_per_gb.range.scaled(machine.dram_bytes / BYTES_PER_MEMORY_GB)
    disk = factors.ssd_kg_per_gb.range.scaled(machine.disk_bytes / BYTES_PER_STORAGE_GB)
    embodied = Range.total([cpus, BOARD_AND_SUPPLY_KG, dram, disk])
    bandwidth = accelerator.scaleout_bandwidth_bytes_per_s
    host = Host(
        cpu=machine.cpu,
        sockets=machine.sockets,
        cpu_tdp_w=_scaled(cpu_power, 1 / machine.sockets, "one socket"),
        dram_bytes=Sourced(machine.dram_bytes, "system", "read"),
        ssd_bytes=Sourced(machine.disk_bytes, "system", "read", note="the file system of the root directory"),
        nics=0,
        base_power_w=_assumed(base, "dram-convention"),
        overhead_fraction=_assumed(OVERHEAD_FRACTION, "overhead-convention"),
        embodied_kg=_assumed(embodied, "component-factors"),
    )
    return Node(
        name=name,
        full_name=f"This machine: {machine.cpu}, {plural(machine.cores, 'core')}",
        accelerator=name,
        accelerators=machine.devices,
        host=host,
        network=Network(
            technology="none",
            bandwidth_bytes_per_s=bandwidth,
            power_w_per_device=Sourced(0.0, "one-machine", "derived"),
            embodied_kg_per_device=Sourced(0.0, "one-machine", "derived"),
        ),
        sources=_node_sources(machine, accelerator, bandwidth, cpu_power),
    )


def _node_sources(machine: Machine, accelerator: Accelerator, *values: Sourced) -> dict[str, str]:
    keys = {value.source for value in values}
    keys |= {"system", "dram-convention", "overhead-convention", "component-factors", "one-machine"}
    if machine.kind == "gpu":
        keys.add("idle-convention")
    available = accelerator.sources | SOURCES | {"probe": probe_source(machine)}
    return {key: text for key, text in available.items() if key in keys}
