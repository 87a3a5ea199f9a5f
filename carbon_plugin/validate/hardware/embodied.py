"""Compare the bottom-up model of embodied carbon with published footprints to which it was not fitted.

Devices are modelled from their parts and never taken from the profile, whose number may be the published one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.embodied.bill import BillLine, device_form, host_parts
from carbon_plugin.footprint.embodied.bottom_up import modelled_device_kg
from carbon_plugin.footprint.embodied.devices import building_kg
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Host
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import BYTES_PER_MEMORY_GB, BYTES_PER_STORAGE_GB


class ValidationRow(Struct, frozen=True, kw_only=True):
    """One published footprint beside the modelled value, kgCO2e."""

    name: str
    published_kg: float
    modelled_kg: Range
    calibrated: bool
    source: str
    note: str

    @property
    def error(self) -> float:
        """Return modelled over published, minus 1."""
        return self.modelled_kg.value / self.published_kg - 1

    @property
    def inside(self) -> bool:
        """Return whether the published value lies within the model's range."""
        return self.modelled_kg.low <= self.published_kg <= self.modelled_kg.high


def validation_rows() -> tuple[ValidationRow, ...]:
    """Return every published footprint of the shipped table beside its modelled value."""
    return tuple(_row(published) for published in tables.published_footprints())


def markdown_table() -> str:
    """Return the rows as the table of docs/embodied.md."""
    head = "| object | published, kg | model, kg (range) | error | in range | source |\n|---|---|---|---|---|---|"
    lines = [
        f"| {row.name}{' (fitted to it)' if row.calibrated else ''} | {row.published_kg:,.0f} | {model.value:,.0f} "
        f"({model.low:,.0f} to {model.high:,.0f}) | {percent(row.error, 0, signed=True)} | "
        f"{'yes' if row.inside else 'no'} | "
        f"{row.source}{f'; {row.note}' if row.note else ''} |"
        for row in validation_rows()
        for model in [row.modelled_kg]
    ]
    return "\n".join([head, *lines])


def _row(published: tables.PublishedFootprint) -> ValidationRow:
    if published.host is not None:
        modelled_kg = _host_kg(published.host)
    elif published.chip_life is not None:
        modelled_kg = _chip_life_kg(load_accelerator(published.chip_life.device), published.chip_life.years)
    else:
        modelled_kg = _device_kg(load_accelerator(published.device), published.form)
    return ValidationRow(
        name=published.name,
        published_kg=published.published_kg,
        modelled_kg=modelled_kg,
        calibrated=published.calibrated,
        source=published.source,
        note=published.note,
    )


def _device_kg(accelerator: Accelerator, form: str = "") -> Range:
    memory_bytes, tdp_w = accelerator.memory_bytes.value, accelerator.tdp_w.value
    return modelled_device_kg(accelerator.dies, memory_bytes, tdp_w, form or device_form(accelerator)).range


def _host_kg(parts: tables.PublishedHost) -> Range:
    return sum_of_parts(
        host_parts(bare_host(parts.sockets, parts.dram_gb, parts.ssd_gb, parts.nics), parts.rated_power_w)
    )


def bare_host(sockets: int, dram_gb: float, ssd_gb: float, nics: int) -> Host:
    """Return a host with only those parts on which its manufacture depends."""
    return Host(
        cpu="",
        sockets=sockets,
        cpu_tdp_w=_plain(0),
        dram_bytes=_plain(dram_gb * BYTES_PER_MEMORY_GB),
        ssd_bytes=_plain(ssd_gb * BYTES_PER_STORAGE_GB),
        nics=nics,
        base_power_w=_plain(0),
        overhead_fraction=_plain(0),
        embodied_kg=_plain(0),
    )


def _chip_life_kg(accelerator: Accelerator, years: float) -> Range:
    """Return the kgCO2e of a chip with its share of the usual host, and of the building over `years`."""
    node = default_node_for(accelerator)
    cluster = Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=node.accelerators)
    device, building = _device_kg(accelerator), building_kg(cluster)
    host = node.host
    draw_w = host.base_power_w.value + node.accelerators * accelerator.tdp_w.value
    share = sum_of_parts(host_parts(host, draw_w)).scaled(1 / node.accelerators)
    return device.plus(share).plus(building.range.scaled(years))


def sum_of_parts(parts: Sequence[BillLine]) -> Range:
    """Return the kgCO2e of a server from its parts.

    The errors of the parts are independent, so the distances from the central value are added in quadrature.
    """
    central = math.fsum(part.kg.value for part in parts)
    down = math.hypot(*(part.kg.value - part.kg.low for part in parts))
    up = math.hypot(*(part.kg.high - part.kg.value for part in parts))
    return Range(central, central - down, central + up)


def _plain(value: float) -> Sourced:
    return Sourced(value=value, source="published table", confidence="read")
