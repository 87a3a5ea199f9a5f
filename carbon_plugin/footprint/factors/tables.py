"""Read the shipped data tables (data/*.yaml) as typed values. Each file is read once per process, when first asked
for. `embodied.tables` has those of embodied carbon.
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
    """One table holds the intensities of all areas of one source."""

    source: TableSource
    areas: dict[str, AreaIntensity]


class Country(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The name of an area, its alpha-2 code (aggregates have none), and other common names."""

    name: str
    alpha2: str | None = None
    aliases: tuple[str, ...] = ()


class AreaNames(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a country: its names, the area whose value it takes (an alpha-3 code, or "gcp:us-central1" with the
    name of the table), further rows of it, of which the newest counts, and areas that serve a part of it.
    """

    name: str
    area: str
    rivals: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


class CloudRegion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The area whose value a cloud region takes, as in `AreaNames`, or the code of a place."""

    area: str
    place: str


class FactorSpread(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A p10-p90 range as factors or values, by context."""

    low: float
    high: float


class Estimate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value of a table with its p10-p90 range and its source. Where the range is None, the general rule of the table
    applies.
    """

    value: float
    low: float | None = None
    high: float | None = None
    source: str

    @property
    def range(self) -> Range:
        """Return the value with its range. Both ends are the value where the table gives no range."""
        return Range.of(self.value, self.low, self.high)


class RegionValues(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The values of regions from one publication, by the provider's code of the region."""

    source: str
    values: dict[str, float]


class ByRegion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure of a cloud provider: for its fleet, and for regions where it is published.

    `regions` are groups in order of preference. The first group that contains a region applies.
    """

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
    """The PUE of providers, the values for an unknown facility and for a desktop computer, and the spread between sites
    around a published value.
    """

    site_spread: FactorSpread
    unknown: Estimate
    desktop: Estimate
    providers: dict[str, ByRegion]


class WaterTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Liters a kWh, on site by provider and off site by area, and the spread between sites around such an average."""

    site_spread: FactorSpread
    on_site: dict[str, ByRegion]
    off_site: dict[str, Estimate]


class BasesTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The line between direct and lifecycle emissions of a grid, the factor around it within which 80 % of the `pairs`
    lie, and the countries for which both are published, with the row of their direct emissions.
    """

    offset_g_per_kwh: float
    slope: float
    spread: float
    source: str
    pairs: dict[str, str]


class OutsideTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Estimates of emissions that no run accounts for: the end of life of hardware as a share of its manufacture, and
    shared storage as a share of the machines' energy.
    """

    end_of_life: Estimate
    storage: Estimate


@cache
def country_intensities() -> IntensityTable:
    """Return countries and aggregates by ISO 3166-1 alpha-3 code."""
    return load_table("grid_countries.yaml", IntensityTable)


@cache
def consumption_intensities() -> IntensityTable:
    """Return the intensities of countries' consumption, with imports, by alpha-3 code."""
    return load_table("grid_consumption.yaml", IntensityTable)


@cache
def egrid_intensities() -> IntensityTable:
    """Return US eGRID subregions by acronym."""
    return load_table("grid_egrid.yaml", IntensityTable)


@cache
def gcp_intensities() -> IntensityTable:
    """Return Google Cloud regions by name."""
    return load_table("grid_gcp.yaml", IntensityTable)


@cache
def canada_intensities() -> IntensityTable:
    """Return Canadian provinces and territories by ISO 3166-2 code."""
    return load_table("grid_canada.yaml", IntensityTable)


@cache
def australia_intensities() -> IntensityTable:
    """Return Australian states by ISO 3166-2 code."""
    return load_table("grid_australia.yaml", IntensityTable)


@cache
def china_intensities() -> IntensityTable:
    """Return Chinese provinces by ISO 3166-2 code."""
    return load_table("grid_china.yaml", IntensityTable)


@cache
def places() -> Mapping[str, AreaNames]:
    """Return the parts of countries by their code in ISO 3166-2 or at Electricity Maps."""
    return load_table("places.yaml", dict[str, AreaNames])


@cache
def unpublished_parts() -> Mapping[str, Sequence[str]]:
    """Return the names of parts that have no value in any table, by the alpha-3 code of their country."""
    return load_table("unpublished_parts.yaml", dict[str, tuple[str, ...]])


@cache
def countries() -> Mapping[str, Country]:
    """Return the codes and names of areas by alpha-3 code."""
    return load_table("countries.yaml", dict[str, Country])


@cache
def cloud_regions() -> Mapping[CloudProvider, Mapping[str, CloudRegion]]:
    """Return the areas for the regions of each provider, except Google, whose regions have a table of intensities."""
    return load_table("cloud_regions.yaml", dict[CloudProvider, dict[str, CloudRegion]])


@cache
def pue_table() -> PueTable:
    """Return the table of PUE by provider and region."""
    return load_table("pue.yaml", PueTable)


@cache
def water_table() -> WaterTable:
    """Return the table of water use by provider and area."""
    return load_table("water.yaml", WaterTable)


@cache
def trade() -> Mapping[str, Sequence[str]]:
    """Return the neighbours of countries that trade a good part of their electricity, by alpha-3 code."""
    return load_table("trade.yaml", dict[str, tuple[str, ...]])


@cache
def source_addresses() -> Mapping[str, str]:
    """Return the address of each publication by the words with which sources of factors and profiles name it."""
    return load_table("addresses.yaml", dict[str, str])


@cache
def bases_table() -> BasesTable:
    """Return the relation of direct and lifecycle emissions of grids."""
    return load_table("bases.yaml", BasesTable)


@cache
def outside_table() -> OutsideTable:
    """Return the estimates of emissions that no run accounts for."""
    return load_table("outside.yaml", OutsideTable)


def load_table(name: str, kind: type[T]) -> T:
    """Return a file of the shipped data as a value of type `kind`."""
    # The C loader reads the largest table (216 areas) in milliseconds; the pure Python one takes ten times that.
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (_DATA / name).read_text(encoding="utf-8")
    return msgspec.convert(yaml.load(text, Loader=loader), kind)
