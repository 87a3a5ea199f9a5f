"""Compute the market-based line: facility energy at the rates of contracts, and the rest at the residual mix.

    market = sum over instruments of g_i * kWh_i + g_residual * (E_facility - sum of kWh_i)

Instruments are used in the order in which they are given, until the energy of the facility is covered, so that more
certificates than energy do not give a negative value. Without a residual mix the rest counts at the location's own
intensity. This follows the GHG Protocol's scope 2 guidance. Nothing here is ever subtracted from the location-based
figure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbon_plugin.footprint.uncertainty import Floats
from carbon_plugin.footprint.values import Factors, MarketLine
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH
from carbon_plugin.spec.site import Instrument

RESIDUAL = "residual"


class Market(NamedTuple):
    """Holds the operational carbon by contract, kgCO2e, one value per draw, and the lines of the first draw."""

    operational_kg: Floats
    lines: tuple[MarketLine, ...]


class Contracts(NamedTuple):
    """Holds the instruments of a site, and the g/kWh of energy without a contract, or None for the location's
    intensity.
    """

    instruments: tuple[Instrument, ...]
    residual_g_per_kwh: float | None
    residual_source: str

    @classmethod
    def of(cls, factors: Factors) -> Contracts | None:
        """Return the contracts among the factors, or None where there are none, so that no line is invented."""
        if not factors.instruments and factors.residual is None:
            return None
        if factors.residual is None:
            return cls(factors.instruments, None, "no residual mix was given: the location's intensity")
        return cls(factors.instruments, factors.residual.value, factors.residual.source)

    def settle(self, facility_j: Floats, location_kg: Floats) -> Market:
        """Return the carbon by contract of facility energy (J) with location-based carbon `location_kg`, both of shape
        (draws,).
        """
        left_kwh = energy_kwh = facility_j / JOULES_PER_KWH
        market_kg = np.zeros_like(energy_kwh)
        lines = []
        for instrument in self.instruments:
            covered = np.minimum(left_kwh, _wanted_kwh(instrument, energy_kwh))
            left_kwh = left_kwh - covered
            carbon_kg = covered * (instrument.g_per_kwh / GRAMS_PER_KG)
            market_kg = market_kg + carbon_kg
            lines.append(_line(instrument.kind, instrument.source, covered, instrument.g_per_kwh, carbon_kg))
        # Without energy there is nothing to cover and no intensity to divide for.
        location_g = GRAMS_PER_KG * location_kg / np.where(energy_kwh > 0, energy_kwh, 1.0)
        rate = location_g if self.residual_g_per_kwh is None else np.full_like(location_g, self.residual_g_per_kwh)
        rest_kg = left_kwh * rate / GRAMS_PER_KG
        lines.append(_line(RESIDUAL, self.residual_source, left_kwh, float(rate[0]), rest_kg))
        return Market(market_kg + rest_kg, tuple(lines))


def _wanted_kwh(instrument: Instrument, energy_kwh: Floats) -> Floats:
    if instrument.share is not None:
        return energy_kwh * instrument.share
    return np.full_like(energy_kwh, instrument.energy_kwh)


def _line(kind: str, source: str, energy_kwh: Floats, g_per_kwh: float, carbon_kg: Floats) -> MarketLine:
    return MarketLine(
        kind=kind,
        source=source,
        energy_kwh=float(energy_kwh[0]),
        g_per_kwh=g_per_kwh,
        carbon_kg=float(carbon_kg[0]),
    )
