"""Define the plain values of carbon accounting: factors, energies and reservations, and the resulting footprint."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.numbers.figure import Assumption, Figure, Kind
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Instrument

# Rungs whose energy is given; that of the facility follows from theirs and the PUE.
IT_RUNGS: tuple[Rung, ...] = ("gpu", "host", "network")
BUILDING = "building"


CountedCarbon = Literal["total_kg", "operational_kg"]
"""A field of `Footprint` that holds all carbon that is known of a run."""

EmissionScope = Literal["lifecycle", "direct"]
"""Which emissions of a grid count: those of fuels and plants over their life, or those of the stacks alone."""


class Basis(Struct, frozen=True, kw_only=True):
    """One basis says which emissions and which electricity an intensity counts. Intensities of different basis are
    never silently added or compared.
    """

    scope: EmissionScope
    signal: Literal["average", "marginal"]
    boundary: Literal["generation", "consumption"]
    method: Literal["location", "market"] = "location"


class IntensityPart(Struct, frozen=True, kw_only=True):
    """One source of a mean intensity: its basis, its own mean in g/kWh, and its share of the energy, 0 to 1.

    `zone`, `zone_name` and `granularity` are those of the source. They are empty in what older releases wrote.
    """

    source: str
    basis: Basis | None
    g_per_kwh: float
    share: float
    zone: str = ""
    zone_name: str = ""
    granularity: str = ""


class Intensity(Struct, frozen=True, kw_only=True):
    """Holds the grid intensity of a zone, gCO2e/kWh, with vintage, basis, source, licence and the range used for
    sampling.

    `granularity` is how finely it resolves time ("annual", "hourly", ...). `notes` are what a reader must know about
    it: an old vintage, an area that stands for a cloud region. `parts` are the sources of the mean over the windows of
    a run, empty for an intensity that was looked up or stated; parts that count different things leave no `basis`.
    `asked` is the zone as the user wrote it ("aws:us-east-1"), empty in older ledgers. `gases` are the
    greenhouse gases that count, and `gwp` the global warming potentials that they are added with.
    """

    zone: str
    zone_name: str
    figure: Figure
    year: int | None
    basis: Basis | None
    licence: str
    attribution: str
    granularity: str = "annual"
    notes: tuple[str, ...] = ()
    parts: tuple[IntensityPart, ...] = ()
    asked: str = ""
    gwp: str = "not stated"
    gases: str = "not stated"

    @property
    def bases(self) -> tuple[Basis | None, ...]:
        """Return each basis of the intensity once. There are several where its parts have different ones."""
        return tuple(dict.fromkeys(part.basis for part in self.parts)) or (self.basis,)


class Factors(Struct, frozen=True, kw_only=True):
    """Holds every factor in force for one run.

    `embodied_kg` maps a scope to cradle-to-gate kgCO2e of one unit: "device" (one accelerator), "host" (one node
    without its accelerators), "network" (share of one accelerator). `lifetime_years` amortises them by reserved
    time over calendar life (ISO/IEC 21031), or over the share of it in which the fleet works where
    `fleet_utilisation` is given. `building_kg` is kgCO2e of the building a device and reserved year.

    `marginal` is the marginal intensity, for what-if only. `instruments` and `residual` (g/kWh of what they do not
    cover; None: the location's average) make the market-based line. `water_l_per_kwh` maps "on-site" (a kWh of IT
    energy) and "off-site" (a kWh of the facility) to liters. `warnings` are for the eyes of the user.
    """

    intensity: Intensity
    pue: Figure
    lifetime_years: Figure
    embodied_kg: dict[str, Figure]
    assumptions: tuple[Assumption, ...] = ()
    fleet_utilisation: Figure | None = None
    building_kg: Figure | None = None
    marginal: Intensity | None = None
    instruments: tuple[Instrument, ...] = ()
    residual: Figure | None = None
    water_l_per_kwh: dict[str, Figure] = {}
    warnings: tuple[str, ...] = ()

    @property
    def amortisation(self) -> str:
        """Return in words the rule that charges embodied carbon to the run."""
        life = f"calendar life of {self.lifetime_years.value:g} years"
        if self.fleet_utilisation is None:
            return f"reserved time over {life} (ISO/IEC 21031)"
        return (
            f"reserved time over the {percent(self.fleet_utilisation.value, 0)} of {life} in which the fleet is in use"
        )


class EnergyItem(Struct, frozen=True, kw_only=True, gc=False):
    """Holds the energy of one IT rung and uncertainty scope, J. Items with the same `scope` share one draw (one device
    model's systematic error does not average away). `intensity_g_per_kwh` overrides the run's intensity for this item
    (energy-weighted mean of its windows); its relative uncertainty stays that of the run. `kind` says how the energy is
    known.
    """

    rung: Rung
    scope: str
    energy: Range
    intensity_g_per_kwh: float | None = None
    kind: Kind = "modelled"


class Reservation(Struct, frozen=True, kw_only=True, gc=False):
    """Says that so many units of an embodied scope ("device", "host", "network") are reserved for `time_s`
    seconds.
    """

    scope: str
    units: float
    time_s: float


class MarketLine(Struct, frozen=True, kw_only=True):
    """Holds the energy of the facility that one instrument covers, or that none does (`kind` "residual"), and its
    carbon.
    """

    kind: str
    source: str
    energy_kwh: float
    g_per_kwh: float
    carbon_kg: float


class MarketBased(Struct, frozen=True, kw_only=True):
    """Holds the operational carbon by contract (GHG Protocol scope 2, market-based). It stands beside the
    location-based figure, never in its place. The lines are central values and add up to `operational_kg`.
    """

    operational_kg: Figure
    lines: tuple[MarketLine, ...]

    def scaled(self, share: float) -> MarketBased:
        """Return what a share of the energy has of each contract: one over a number of kWh serves all of it alike."""
        lines = tuple(
            replace(line, energy_kwh=line.energy_kwh * share, carbon_kg=line.carbon_kg * share) for line in self.lines
        )
        return MarketBased(operational_kg=self.operational_kg.scaled(share), lines=lines)


class Footprint(Struct, frozen=True, kw_only=True):
    """Holds the energy by rung (J; "gpu", "host", "network", "it" = their sum, "facility" = it times PUE) and carbon
    (kgCO2e).

    A rung without an energy item is absent, not 0. Embodied by scope adds up to `embodied_kg`; operational and
    embodied add up to `total_kg`, central values exactly, ranges by sampling. Without any embodied part both are None,
    because the manufacture of the hardware is then unknown; `counted_kg` is what is known. `interval_95` holds the
    2.5th and 97.5th percentile of "operational_kg", "embodied_kg" and "total_kg", and `means` the mean of each,
    which lies above the central value where the range is skewed. `operational_kg` is location-based;
    `market` stands beside it where there are instruments. `water_l` is water in liters, "on-site" and "off-site", as
    far as known.
    """

    energy_j: dict[str, Figure]
    operational_kg: Figure
    embodied_kg: Figure | None
    embodied_parts_kg: dict[str, Figure]
    total_kg: Figure | None
    interval_95: dict[str, tuple[float, float]] = {}
    means: dict[str, float] = {}
    market: MarketBased | None = None
    water_l: dict[str, Figure] = {}

    def __post_init__(self) -> None:
        """Set embodied and total carbon to None where there is no embodied part.

        Its sum over no parts is 0, which reports of earlier releases hold too; nobody knows that it is 0.
        """
        if not self.embodied_parts_kg:
            for name in ("embodied_kg", "total_kg"):
                force_setattr(self, name, None)
            for name in ("interval_95", "means"):
                kept = {key: value for key, value in getattr(self, name).items() if key == "operational_kg"}
                force_setattr(self, name, kept)

    @property
    def counted(self) -> CountedCarbon:
        """Return the name of the widest known carbon: the total, or that of the operation alone."""
        return "operational_kg" if self.total_kg is None else "total_kg"

    @property
    def counted_kg(self) -> Figure:
        """Return the total, or the operational carbon where the manufacture of the hardware is unknown."""
        return self.operational_kg if self.total_kg is None else self.total_kg


def comparable_kg(one: Footprint, other: Footprint) -> tuple[CountedCarbon, Figure, Figure]:
    """Return the widest carbon that both footprints know, with its name, so that a total is never compared
    with a part.
    """
    if one.total_kg is None or other.total_kg is None:
        return "operational_kg", one.operational_kg, other.operational_kg
    return "total_kg", one.total_kg, other.total_kg


class CarbonTotals(Struct, frozen=True, kw_only=True):
    """Holds the sums of a `Footprint` without its parts: IT energy, J, and carbon, kgCO2e, each with its p10 and p90.

    `embodied_kg` and `total_kg` are None where no embodied carbon is known.
    """

    energy_j: Range
    operational_kg: Range
    embodied_kg: Range | None
    total_kg: Range | None

    @property
    def counted_kg(self) -> Range:
        """Return the total, or the operational carbon where the manufacture of the hardware is unknown."""
        return self.operational_kg if self.total_kg is None else self.total_kg


class CentralCarbon(Struct, frozen=True, kw_only=True):
    """Holds the central values of a `Footprint`, kgCO2e. The fields are those of `CarbonTotals`."""

    operational_kg: float
    embodied_kg: float | None
    total_kg: float | None


class RunPeriod(NamedTuple):
    """Says when a run takes place. `start_unix_s` is None where that is not decided."""

    start_unix_s: float | None
    duration_s: float
