"""Model the embodied carbon of an accelerator from its silicon, memory, cooling and assembly.

    E = U * ( sum over dies of CPA(process) * area + ics * n + k_mem * GB + k_th * TDP + fixed )
    n = max(1, round(area of all dies / reticle field))
    CPA = (energy * grid + mean of the gas emissions at 95 % and 99 % abatement + materials) / yield

CPA after ACT (Gupta et al., ISCA 2022); everything else calibrated on NVIDIA's product footprint of the HGX H100
baseboard (2025), where silicon alone is a sixth of the whole. For devices without a published footprint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.embodied import tables
from carbon_plugin.spec.hardware.cluster import Die
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import P90_SIGMAS
from carbon_plugin.spec.numbers.units import BYTES_PER_MEMORY_GB, MM2_PER_CM2


def carbon_per_area_kg_per_cm2(process: str) -> float:
    """Return the kgCO2e per cm2 of good die of a process ("tsmc-n7" or "7nm"). Raises `FootprintError` for an unknown
    one."""
    fab = tables.embodied_table().fab
    row = fab.processes.get(fab.aliases.get(process.lower(), process.lower()))
    if row is None:
        known = ", ".join([*fab.processes, *fab.aliases])
        raise FootprintError(f"die process {process!r} is unknown, expected one of {known}")
    gas = (row.gas95_kg_per_cm2 + row.gas99_kg_per_cm2) / 2
    return (row.energy_kwh_per_cm2 * fab.grid_kg_per_kwh + gas + fab.materials_kg_per_cm2) / fab.yield_


def device_bill_kg(dies: Sequence[Die], memory_bytes: float, tdp_w: float, form: str) -> dict[str, float]:
    """Return the kgCO2e of an accelerator by part. The parts add up to the device.

    `form` is "sxm" (module with its share of baseboard and switches), "pcie" (card with HBM) or "gddr_card". Parts:
    "logic dies", "other ICs", "memory", "cooling", "fixed parts", "assembly and transport". Raises `FootprintError`
    for an unknown form or process, and where no die is given.
    """
    model = tables.embodied_table().device
    shape = model.forms.get(form)
    if shape is None:
        raise FootprintError(f"device form {form!r} is unknown, expected one of {', '.join(model.forms)}")
    if not dies:
        raise FootprintError("dies is empty, expected at least one logic die with its area and process")
    full_size_dies = max(1, round(sum(die.count * die.area_mm2 for die in dies) / model.reticle_mm2))
    memory_kg_per_gb = model.hbm_kg_per_gb if shape.memory == "hbm" else model.gddr_kg_per_gb
    parts = {
        "logic dies": sum(
            die.count * carbon_per_area_kg_per_cm2(die.process) * die.area_mm2 / MM2_PER_CM2 for die in dies
        ),
        "other ICs": shape.other_ics_kg * full_size_dies,
        "memory": memory_kg_per_gb * memory_bytes / BYTES_PER_MEMORY_GB,
        "cooling": model.thermal_kg_per_w * tdp_w,
        "fixed parts": shape.fixed_kg,
    }
    parts["assembly and transport"] = (model.assembly_and_transport_factor - 1) * sum(parts.values())
    return parts


def modelled_device_kg(dies: Sequence[Die], memory_bytes: float, tdp_w: float, form: str) -> Figure:
    """Return the cradle-to-gate kgCO2e of an accelerator. The arguments are those of `device_bill_kg`.

    The range is the model's error on footprints that it was not calibrated on.
    """
    model = tables.embodied_table().device
    total = sum(device_bill_kg(dies, memory_bytes, tdp_w, form).values())
    factor = math.exp(P90_SIGMAS * model.relative_uncertainty_2sigma / 2)
    return Figure(total, total / factor, total * factor, "kgCO2e", "modelled", model.source)
