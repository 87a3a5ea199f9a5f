"""A number that the user states has a range too: the stated one, or a usual one for its kind of source."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.factors.grid import resolve_intensity
from carbon_plugin.footprint.factors.pue import resolve_pue
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Site


@pytest.mark.parametrize(("kind", "spread"), [("metered", 0.03), ("annual_report", 0.15), ("unknown", 0.25)])
def test_stated_intensity_has_the_range_of_its_kind_of_source(kind, spread: float) -> None:
    figure = resolve_intensity(Site(intensity_g_per_kwh=384.4, intensity_kind=kind)).figure
    assert (figure.low, figure.value, figure.high) == pytest.approx((384.4 * (1 - spread), 384.4, 384.4 * (1 + spread)))


@pytest.mark.parametrize(
    ("kind", "ends"), [("metered", (1.19, 1.21)), ("annual_report", (1.16, 1.25)), ("unknown", (1.14, 1.3))]
)
def test_stated_pue_has_a_range_of_its_overhead(kind, ends: tuple[float, float]) -> None:
    figure = resolve_pue(Site(zone="FRA", pue=1.2, pue_kind=kind))
    assert (figure.low, figure.high) == pytest.approx(ends)


def test_stated_range_takes_the_place_of_the_usual_one() -> None:
    site = Site(intensity_g_per_kwh=100.0, intensity_range=(90.0, 130.0), pue=1.1, pue_range=(1.1, 1.1))
    factors = resolve_factors(site, None)
    assert (factors.intensity.figure.low, factors.intensity.figure.high) == (90.0, 130.0)
    assert (factors.pue.low, factors.pue.high) == (1.1, 1.1)
    assert "range stated by the user" in factors.intensity.notes[0]


def test_carbon_of_exact_energy_at_stated_numbers_is_not_exact_and_says_why() -> None:
    factors = resolve_factors(Site(intensity_g_per_kwh=384.4, pue=1.2), None)
    kwh = EnergyItem(rung="gpu", scope="gpu", energy=Range.exactly(3.6e6))
    carbon = account([kwh], [], factors).operational_kg
    assert carbon.value == pytest.approx(1.2 * 0.3844)
    assert carbon.low < 0.8 * carbon.value
    assert carbon.high > 1.2 * carbon.value
    assert "usual for a source of unknown kind" in factors.intensity.notes[0]
    assert any(one.field == "site.pue_range" and "unknown kind" in one.source for one in factors.assumptions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zone": "FRA", "pue_range": (1.0, 1.2)}, "site: pue_range counts only with pue"),
        ({"intensity_g_per_kwh": 100, "intensity_range": (110, 120)}, r"expected 0 <= low <= intensity_g_per_kwh"),
        ({"zone": "FRA", "pue": 1.2, "pue_range": (0.9, 1.3)}, r"pue_range is 0.9 to 1.3, expected 1 <= low"),
    ],
)
def test_impossible_range_is_refused(fields, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Site(**fields)
