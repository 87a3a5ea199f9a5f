"""Read the shipped data tables (data/*.yaml) as typed values. Each file is read once per process, when first asked
for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from carbon_plugin.footprint.values import Basis
from carbon_plugin.spec.numbers.range import Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

CloudProvider = Literal["aws", "azure", "oci", "coreweave", "lambda", "nebius", "crusoe", "scaleway", "ovh"]

_DATA = Path(__file__).parent / "data"


class TableSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe where an intensity table comes from, what it counts, and on which terms it is shipped.

    `gases` are the greenhouse gases that it counts, and `gwp` says by which global warming potentials they are
    added."""

    title: str
    url: str
    licence: str
    attribution: str
    basis: Basis
    gwp: str
    gases: str
    retrieved: str
    note: str


class AreaIntensity(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Annual average intensity of one area in `year`, in gCO2e/kWh. `previous` is the value of the year before."""

    g_per_kwh: float
    year: int
    previous: float | None = None
    name: str | None = None


class IntensityTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All areas of one source."""

    source: TableSource
    areas: dict[str, AreaIntensity]


class Country(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Name, alpha-2 code (aggregates have none) and other common names of an area."""

    name: str
    alpha2: str | None = None
    aliases: tuple[str, ...] = ()


class AreaNames(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a country: its names, the area whose value counts for it (an alpha-3 code, or "gcp:us-central1" with
    the name of the table), other rows of it, of which the newest counts, and areas that serve part of it."""

    name: str
    area: str
    rivals: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


class CloudRegion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The area that stands for a cloud region, as in `AreaNames`, or the code of a place."""

    area: str
    place: str


class FactorSpread(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A p10-p90 range as factors or values, by context."""

    low: float
    high: float


class Estimate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table value with its p10-p90 range (None: the table's general rule applies) and source."""

    value: float
    low: float | None = None
    high: float | None = None
    source: str

    @property
    def range(self) -> Range:
        """Return the value with its range, which is the value itself where the table gives none."""
        return Range.of(self.value, self.low, self.high)


class RegionValues(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values of regions that one publication gives, by the provider's code of the region."""

    source: str
    values: dict[str, float]


class ByRegion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure of a cloud provider: of its fleet, and of its regions where published.

    `regions` are groups in order of preference: the first group that has a region counts for it."""

    fleet: Estimate
    name: str = ""
    regions: tuple[RegionValues, ...] = ()

    def of_region(self, region: str) -> Estimate | None:
        """Return the published estimate for a region, or None where nobody published one."""
        for group in self.regions:
            if region in group.values:
                return Estimate(value=group.values[region], source=f"{group.source}, {region}")
        return None


class PueTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """PUE by provider, the value for an unknown facility, and the spread of one site around a published value."""

    site_spread: FactorSpread
    unknown: Estimate
    providers: dict[str, ByRegion]


class WaterTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Liters a kWh: on site by provider, off site by area, and the spread of one site around such an average."""

    site_spread: FactorSpread
    on_site: dict[str, ByRegion]
    off_site: dict[str, Estimate]


class FabProcess(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Wafer fabrication per cm2 of die: electricity in kWh, gases in kgCO2e at 95 % and 99 % abatement."""

    energy_kwh_per_cm2: float
    gas95_kg_per_cm2: float
    gas99_kg_per_cm2: float


class Fab(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Inputs of carbon per die area; `aliases` map a marketed process to the row that stands for it."""

    source: str
    grid_kg_per_kwh: float
    yield_: float = msgspec.field(name="yield")
    materials_kg_per_cm2: float
    processes: dict[str, FabProcess]
    aliases: dict[str, str]


class PartRange(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Range of a part of a device, as factors on its central kg."""

    low: float
    high: float
    source: str


class HostModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """kgCO2e of the parts of a server (kg a unit, or as the name says) and how many units there are of them."""

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
    """kgCO2e of switches and transceivers, and how many of them one accelerator needs."""

    switch: Estimate
    switch_ports: int
    ports_per_device: Estimate
    transceiver: Estimate
    transceivers_per_device: Estimate


class DeviceForm(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the form of a device adds around its dies, kgCO2e (other ICs: a full-size die), and its kind of memory."""

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
    """A device with its share of host and building over so many years."""

    device: str
    years: float


class PublishedFootprint(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A published footprint, kgCO2e, and what it is of: a device profile, a server, or a chip over its life."""

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
    """Servers of one vendor by one method: the publication, the collection that it was read in, and its last year."""

    source: str
    collection: str
    year: int
    servers: dict[str, PublishedServer]


class EmbodiedTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lifetime, what divides it or adds to it, and the bottom-up model."""

    lifetime_years: Estimate
    fleet_utilisation: Estimate
    building_kg_per_kw_year: Estimate
    fab: Fab
    device: DeviceModel
    host: HostModel
    network: NetworkModel


class BasesTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The line between direct and lifecycle emissions of a grid, the factor around it within which 80 % of the `pairs`
    lie, and the countries that are published on both, with the row of their direct emissions."""

    offset_g_per_kwh: float
    slope: float
    spread: float
    source: str
    pairs: dict[str, str]


class OutsideTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Estimates of what no run accounts for: the end of life of hardware as a share of its manufacture, and shared
    storage as a share of the machines' energy."""

    end_of_life: Estimate
    storage: Estimate


@cache
def country_intensities() -> IntensityTable:
    """Return countries and aggregates by ISO 3166-1 alpha-3 code."""
    return _load("grid_countries.yaml", IntensityTable)


@cache
def consumption_intensities() -> IntensityTable:
    """Return what countries consume, with imports, by alpha-3 code."""
    return _load("grid_consumption.yaml", IntensityTable)


@cache
def egrid_intensities() -> IntensityTable:
    """Return US eGRID subregions by acronym."""
    return _load("grid_egrid.yaml", IntensityTable)


@cache
def gcp_intensities() -> IntensityTable:
    """Return Google Cloud regions by name."""
    return _load("grid_gcp.yaml", IntensityTable)


@cache
def canada_intensities() -> IntensityTable:
    """Return Canadian provinces and territories by ISO 3166-2 code."""
    return _load("grid_canada.yaml", IntensityTable)


@cache
def australia_intensities() -> IntensityTable:
    """Return Australian states by ISO 3166-2 code."""
    return _load("grid_australia.yaml", IntensityTable)


@cache
def china_intensities() -> IntensityTable:
    """Return Chinese provinces by ISO 3166-2 code."""
    return _load("grid_china.yaml", IntensityTable)


@cache
def places() -> Mapping[str, AreaNames]:
    """Return the parts of countries by their code in ISO 3166-2 or at Electricity Maps."""
    return _load("places.yaml", dict[str, AreaNames])


@cache
def unpublished_parts() -> Mapping[str, Sequence[str]]:
    """Return the names of parts that have no value in any table, by the alpha-3 code of their country."""
    return _load("unpublished_parts.yaml", dict[str, tuple[str, ...]])


@cache
def countries() -> Mapping[str, Country]:
    """Return the codes and names of areas by alpha-3 code."""
    return _load("countries.yaml", dict[str, Country])


@cache
def cloud_regions() -> Mapping[CloudProvider, Mapping[str, CloudRegion]]:
    """Return the areas that stand for the regions of each provider but Google, whose regions are in a table."""
    return _load("cloud_regions.yaml", dict[CloudProvider, dict[str, CloudRegion]])


@cache
def pue_table() -> PueTable:
    """Return the table of PUE by provider and region."""
    return _load("pue.yaml", PueTable)


@cache
def water_table() -> WaterTable:
    """Return the table of water use by provider and area."""
    return _load("water.yaml", WaterTable)


@cache
def trade() -> Mapping[str, Sequence[str]]:
    """Return the neighbours of countries that trade a good part of their electricity, by alpha-3 code."""
    return _load("trade.yaml", dict[str, tuple[str, ...]])


@cache
def source_addresses() -> Mapping[str, str]:
    """Return the address of each publication that sources of factors and profiles name, by its words in them."""
    return _load("addresses.yaml", dict[str, str])


@cache
def bases_table() -> BasesTable:
    """Return the relation of direct and lifecycle emissions of grids."""
    return _load("bases.yaml", BasesTable)


@cache
def outside_table() -> OutsideTable:
    """Return the estimated sizes of what no run accounts for."""
    return _load("outside.yaml", OutsideTable)


@cache
def embodied_table() -> EmbodiedTable:
    """Return the lifetime and the bottom-up constants of embodied carbon."""
    return _load("embodied.yaml", EmbodiedTable)


@cache
def published_footprints() -> Sequence[PublishedFootprint]:
    """Return the published footprints that the bottom-up model is compared with."""
    return _load("embodied_published.yaml", list[PublishedFootprint])


@cache
def published_servers() -> Sequence[ServerSheets]:
    """Return the published footprints of servers that the host model is fitted to."""
    return _load("embodied_servers.yaml", list[ServerSheets])


def _load(name: str, kind: type[T]) -> T:
    # The C loader reads the largest table (216 areas) in milliseconds; the pure Python one takes ten times that.
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (_DATA / name).read_text(encoding="utf-8")
    return msgspec.convert(yaml.load(text, Loader=loader), kind)
