"""Read the shipped tables of embodied carbon as typed values: the constants of its models and published footprints."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from carbon_plugin.footprint.factors.tables import Estimate, load_table

if TYPE_CHECKING:
    from collections.abc import Sequence


class FabProcess(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process of wafer fabrication, per cm2 of die: electricity in kWh, and gases in kgCO2e at 95 % and 99 %
    abatement.
    """

    energy_kwh_per_cm2: float
    gas95_kg_per_cm2: float
    gas99_kg_per_cm2: float


class Fab(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The inputs of carbon per die area. `aliases` map a marketed process to the row that stands for it."""

    source: str
    grid_kg_per_kwh: float
    yield_: float = msgspec.field(name="yield")
    materials_kg_per_cm2: float
    processes: dict[str, FabProcess]
    aliases: dict[str, str]


class PartRange(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One range belongs to a part of a device, as factors on its central kg."""

    low: float
    high: float
    source: str


class HostModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kgCO2e of the parts of a server (per unit, or as the name says), and the number of units."""

    source: str
    cpu_base: Estimate
    cpu_kg_per_mm2: Estimate
    cpu_die_mm2: Estimate
    dram_kg_per_gb: Estimate
    ssd_kg_per_gb: Estimate
    hard_disk: Estimate
    supply_kg_per_w: Estimate
    board: Estimate
    socket: Estimate
    chassis_kg_per_unit: Estimate
    nic: Estimate
    assembly: Estimate
    supply_w: float
    rack_units_per_kw: float
    least_rack_units: float


class NetworkModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kgCO2e of switches and transceivers, and the number of them that one accelerator needs."""

    switch: Estimate
    switch_ports: int
    ports_per_device: Estimate
    transceiver: Estimate
    transceivers_per_device: Estimate


class DeviceForm(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One form of a device says what it adds around the dies, kgCO2e, and the kind of memory. Other ICs are those of a
    device with a full-size die.
    """

    other_ics_kg: float
    fixed_kg: float
    memory: Literal["hbm", "gddr"]


class DeviceModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Coefficients of the bottom-up model of an accelerator."""

    source: str
    assembly_and_transport_factor: float
    hbm_kg_per_gb: float
    gddr_kg_per_gb: float
    thermal_kg_per_w: float
    forms: dict[str, DeviceForm]
    reticle_mm2: float
    relative_uncertainty_2sigma: float
    ranges: dict[str, PartRange]


class PublishedHost(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parts of a server whose footprint was published."""

    sockets: int
    dram_gb: float
    ssd_gb: float
    nics: int
    rated_power_w: float


class ChipLife(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device with its share of host and building over a number of years."""

    device: str
    years: float


class PublishedFootprint(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A published footprint, kgCO2e, and its object: a device profile, a server, or a chip over its life."""

    name: str
    published_kg: float
    source: str
    device: str = ""
    form: str = ""
    host: PublishedHost | None = None
    chip_life: ChipLife | None = None
    calibrated: bool = False
    note: str = ""


class PublishedServer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kgCO2e of manufacture that was published for a server, and the parts that it was stated for."""

    kg: float
    sockets: int
    dram_gb: float
    ssd_gb: float
    disks: int


class ServerSheets(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Servers of one manufacturer by one method: the publication, the collection that it was read in, its last year."""

    manufacturer: str
    source: str
    collection: str
    year: int
    servers: dict[str, PublishedServer]


class EmbodiedTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The lifetime, the terms that divide it or add to it, and the bottom-up model."""

    lifetime_years: Estimate
    fleet_utilisation: Estimate
    building_kg_per_kw_year: Estimate
    fab: Fab
    device: DeviceModel
    host: HostModel
    network: NetworkModel


@cache
def embodied_table() -> EmbodiedTable:
    """Return the lifetime and the bottom-up constants of embodied carbon."""
    return load_table("embodied.yaml", EmbodiedTable)


@cache
def published_footprints() -> Sequence[PublishedFootprint]:
    """Return the published footprints that the bottom-up model is compared with."""
    return load_table("embodied_published.yaml", list[PublishedFootprint])


@cache
def published_servers() -> Sequence[ServerSheets]:
    """Return the published footprints of servers that the host model is fitted to."""
    return load_table("embodied_servers.yaml", list[ServerSheets])
