"""Energy and device time in, carbon with an interval out: the one accounting that plan, monitor and audit share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.devices import Rung
from carbon_plugin.spec.figure import Assumption, Figure


class Basis(Struct, frozen=True, kw_only=True):
    """What an intensity counts. Intensities of different basis are never added or compared silently."""

    scope: Literal["lifecycle", "direct"]
    signal: Literal["average", "marginal"]
    boundary: Literal["generation", "consumption"]
    method: Literal["location", "market"] = "location"


class Intensity(Struct, frozen=True, kw_only=True):
    """Grid intensity of a zone, gCO2e/kWh, with vintage, basis, source, licence and the range used for sampling."""

    zone: str
    zone_name: str
    figure: Figure
    year: int | None
    basis: Basis | None
    licence: str
    attribution: str


class Factors(Struct, frozen=True, kw_only=True):
    """Every factor in force for one run.

    `embodied_kg` maps a scope to cradle-to-gate kgCO2e of one unit: "device" (one accelerator), "host" (one node
    without its accelerators), "network" (share of one accelerator). `lifetime_years` amortises them by reserved
    time over calendar life (ISO/IEC 21031).
    """

    intensity: Intensity
    pue: Figure
    lifetime_years: Figure
    embodied_kg: dict[str, Figure]
    assumptions: tuple[Assumption, ...] = ()


class EnergyItem(Struct, frozen=True, kw_only=True):
    """Energy of one rung and uncertainty scope. Items with the same `scope` share one draw (one device model's
    systematic error does not average away). `intensity_g_per_kwh` overrides the run's intensity for this item
    (energy-weighted mean of its windows); its relative uncertainty stays that of the run."""

    rung: Rung
    scope: str
    energy_j: float
    low_j: float
    high_j: float
    intensity_g_per_kwh: float | None = None


class Reservation(Struct, frozen=True, kw_only=True):
    """So many units of an embodied scope ("device", "host", "network"), each reserved for `time_s` seconds."""

    scope: str
    units: float
    time_s: float


class Footprint(Struct, frozen=True, kw_only=True):
    """Energy by rung (J; "gpu", "host", "network", "it" = their sum, "facility" = it times PUE) and carbon (kgCO2e).

    Embodied by scope adds up to `embodied_kg`; operational and embodied add up to `total_kg`, central values
    exactly, ranges by sampling."""

    energy_j: dict[str, Figure]
    operational_kg: Figure
    embodied_kg: Figure
    embodied_parts_kg: dict[str, Figure]
    total_kg: Figure


def account(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    *,
    duration_spread: tuple[float, float] = (1.0, 1.0),
    draws: int = 2000,
    seed: int = 0,
) -> Footprint:
    """Carbon of energy and reserved device time under the given factors.

    Central values are exact arithmetic: operational kg = sum(E_it * PUE * I) / 3.6e9 with E in J and I in g/kWh;
    embodied kg = sum(kg * units * time / lifetime). Low and high are the p10 and p90 of seeded sampling, one
    draw per scope for the whole run. `duration_spread` is the p10 and p90 of a factor on the time of the whole run:
    one draw that multiplies every energy and every reservation (a forecast's step time is uncertain, a past is not).
    """
    raise NotImplementedError
