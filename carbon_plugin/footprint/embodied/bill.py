"""List the embodied carbon of every part of an accelerator, a server and the network, with its range and source.

    host = board + sockets * (socket + base + area * k_cpu) + GB * k_dram + GB * k_ssd + disks
           + supplies * W * k_supply + rack units * k_chassis + NICs + assembly
    network = ports / 64 * switch + transceivers

Parts are modelled; the total is the profile's, which may be a published footprint. What lies between the two is a line
of its own, so that the lines add up to the total. Ranges of lines are of each line by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct

from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.embodied.bottom_up import device_bill_kg
from carbon_plugin.footprint.embodied.devices import UNIT, node_rating_w
from carbon_plugin.footprint.factors.tables import Estimate
from carbon_plugin.spec.hardware.cluster import Accelerator, Host, Node
from carbon_plugin.spec.numbers.amounts import quantity
from carbon_plugin.spec.numbers.figure import Figure, Sourced
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import BYTES_PER_MEMORY_GB, BYTES_PER_STORAGE_GB, POWER_UNITS

DIFFERENCE = "total less the parts"


class BillLine(Struct, frozen=True, kw_only=True):
    """One line of a bill: its kgCO2e, how they are computed, and the source."""

    name: str
    quantity: str
    kg: Range
    source: str


class Bill(Struct, frozen=True, kw_only=True):
    """Holds the parts of one unit ("h100-sxm, one accelerator"), whose central values add up to `total`."""

    name: str
    unit: str
    parts: tuple[BillLine, ...]
    total: Figure


def device_bill(accelerator: Accelerator) -> Bill:
    """Return the bill of one accelerator with its share of the baseboard. It has a single line where the dies are not
    known.
    """
    parts = _device_parts(accelerator) if accelerator.dies else ()
    return _bill(accelerator.name, "one accelerator", parts, _total(accelerator.embodied_kg, accelerator.sources))


def host_bill(node: Node, device_tdp_w: float) -> Bill:
    """Return the bill of one server without its accelerators. Its power limit decides how many power supplies it
    has.
    """
    parts = host_parts(node.host, node_rating_w(node, device_tdp_w))
    return _bill(node.name, "one node without accelerators", parts, _total(node.host.embodied_kg, node.sources))


def network_bill(node: Node) -> Bill:
    """Return the bill of the switches and optics that one accelerator needs."""
    total = _total(node.network.embodied_kg_per_device, node.sources)
    return _bill(node.network.technology, "share of one accelerator", network_parts(), total)


def host_parts(host: Host, rated_power_w: float, disks: int = 0) -> tuple[BillLine, ...]:
    """Return the parts of a server from its sockets, DRAM, SSD, NICs, power rating in W and number of hard disks.

    The rating decides on the number of power supplies: as many as are needed, and two spare ones, or one where one
    would do. The height of the server follows from its rating.
    """
    model = tables.embodied_table().host
    needed = math.ceil(rated_power_w / model.supply_w)
    supplies, supply_w = needed + (2 if needed > 1 else 1), min(rated_power_w, model.supply_w)
    rack_units = max(model.least_rack_units, model.rack_units_per_kw * rated_power_w / 1e3)
    dram_gb = host.dram_bytes.value / BYTES_PER_MEMORY_GB
    ssd_gb = host.ssd_bytes.value / BYTES_PER_STORAGE_GB
    dies = _product("CPU dies", host.sockets, "sockets", _times(model.cpu_die_mm2, model.cpu_kg_per_mm2))
    supply = f"units of {quantity(supply_w, POWER_UNITS)}"
    spinning = (_product("hard disks", disks, "units", model.hard_disk),) if disks else ()
    return (
        dies,
        _product("CPU packages", host.sockets, "sockets", model.cpu_base),
        _product("DRAM", dram_gb, "GB", model.dram_kg_per_gb),
        _product("SSD", ssd_gb, "GB", model.ssd_kg_per_gb),
        *spinning,
        _product("power supplies", supplies, supply, _scaled(model.supply_kg_per_w, supply_w)),
        _product("mainboard", 1, "server", model.board),
        _product("sockets on it", host.sockets, "sockets", model.socket),
        _product("chassis", rack_units, "rack units", model.chassis_kg_per_unit),
        _product("NICs", host.nics, "units", model.nic),
        _product("assembly", 1, "server", model.assembly),
    )


def network_parts() -> tuple[BillLine, ...]:
    """Return the parts of the network that one accelerator needs."""
    model = tables.embodied_table().network
    port = _scaled(model.switch, 1 / model.switch_ports)
    ports, transceivers = model.ports_per_device, model.transceivers_per_device
    return (
        _part("switches", f"{ports.value:g} of {model.switch_ports} ports", _times(ports, port)),
        _part("transceivers", f"{transceivers.value:g} units", _times(transceivers, model.transceiver)),
    )


def device_form(accelerator: Accelerator) -> str:
    """Return the form of a device that the bottom-up model knows, from its memory and the size of its fast island."""
    if (accelerator.memory_type or "").startswith("gddr"):
        return "gddr_card"
    return "sxm" if accelerator.scaleup.domain > 2 else "pcie"


def _device_parts(accelerator: Accelerator) -> tuple[BillLine, ...]:
    model = tables.embodied_table().device
    form = device_form(accelerator)
    memory_bytes, tdp_w = accelerator.memory_bytes.value, accelerator.tdp_w.value
    modelled = device_bill_kg(accelerator.dies, memory_bytes, tdp_w, form)
    dies = " + ".join(f"{die.count} x {die.area_mm2:g} mm2 {die.process}" for die in accelerator.dies)
    quantities = {
        "logic dies": dies,
        "memory": f"{memory_bytes / BYTES_PER_MEMORY_GB:g} GB {accelerator.memory_type or ''}".strip(),
        "cooling": f"{tdp_w:g} W",
    }
    kinds = {"logic dies": "logic dies", "memory": model.forms[form].memory}
    sources = {"logic dies": tables.embodied_table().fab.source}
    return tuple(
        _ranged(name, quantities.get(name, form), kg, model.ranges[kinds.get(name, "other")], sources, model.source)
        for name, kg in modelled.items()
    )


def _ranged(
    name: str, quantity: str, kg: float, spread: tables.PartRange, sources: Mapping[str, str], usual: str
) -> BillLine:
    source = f"{sources.get(name, usual)}; range: {spread.source}"
    return BillLine(name=name, quantity=quantity, kg=Range(kg, kg * spread.low, kg * spread.high), source=source)


def _product(name: str, amount: float, unit: str, each: Estimate) -> BillLine:
    return _part(name, f"{amount:,.5g} {unit}", _scaled(each, amount))


def _part(name: str, quantity: str, kg: Estimate) -> BillLine:
    return BillLine(name=name, quantity=quantity, kg=kg.range, source=kg.source)


def _times(amount: Estimate, each: Estimate) -> Estimate:
    return _estimate(amount.range.times(each.range), f"{each.source}; {amount.source}")


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return _estimate(estimate.range.scaled(factor), estimate.source)


def _estimate(number: Range, source: str) -> Estimate:
    return Estimate(value=number.value, low=number.low, high=number.high, source=source)


def _total(value: Sourced, sources: Mapping[str, str]) -> Figure:
    figure = value.figure(UNIT)
    source = f"{sources.get(value.source, value.source)} ({value.confidence})"
    return Figure.of(figure.range, figure.unit, figure.kind, source)


def _bill(name: str, unit: str, parts: Iterable[BillLine], total: Figure) -> Bill:
    lines = list(parts)
    rest = total.value - math.fsum(part.kg.value for part in lines)
    if lines:
        reason = "the profile's total is not the sum of the modelled parts"
        lines.append(BillLine(name=DIFFERENCE, quantity="", kg=Range.exactly(rest), source=reason))
    else:
        whole = "its parts are not known"
        lines = [BillLine(name="whole", quantity=whole, kg=total.range, source=total.source)]
    return Bill(name=name, unit=unit, parts=tuple(lines), total=total)
