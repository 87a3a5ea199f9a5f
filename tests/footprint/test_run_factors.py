"""All factors of a run, each assumed one named with its source, stored and read back unchanged."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest

from carbon_plugin.errors import FootprintError, SpecError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.site import Site

TODAY = date(2026, 11, 22)


def test_every_number_that_nobody_stated_is_an_assumption_with_a_source(h100_cluster: Cluster) -> None:
    factors = resolve_factors(Site(zone="aws:us-east-1"), h100_cluster, today=TODAY)

    assert [assumption.field for assumption in factors.assumptions] == [
        "site.intensity_g_per_kwh",
        "site.zone",
        "site.pue",
        "node.cooling",
        "site.lifetime_years",
        "embodied.device",
        "embodied.host",
        "embodied.network",
        "water.on-site",
        "water.off-site",
    ]
    assert all(assumption.source and assumption.value for assumption in factors.assumptions)


def test_what_the_user_states_is_no_assumption_but_for_its_range() -> None:
    site = Site(intensity_g_per_kwh=50, pue=1.1, lifetime_years=4)

    factors = resolve_factors(site, None, today=TODAY)

    assert [assumption.field for assumption in factors.assumptions] == ["site.zone", "site.pue_range"]
    assert "its basis is not stated" in factors.assumptions[0].source
    assert factors.embodied_kg == {}


def test_factors_survive_json_and_plain_data(h100_cluster: Cluster) -> None:
    factors = resolve_factors(Site(zone="FRA"), h100_cluster, today=TODAY)

    assert msgspec.convert(msgspec.to_builtins(factors), Factors) == factors
    assert msgspec.json.decode(msgspec.json.encode(factors), type=Factors) == factors


def test_with_an_intensity_of_its_own_a_place_may_have_any_name() -> None:
    factors = resolve_factors(Site(zone="our hall in the woods", intensity_g_per_kwh=50), None, today=TODAY)

    assert factors.intensity.zone_name == "our hall in the woods"
    assert factors.water_l_per_kwh == {}


def test_an_unknown_zone_is_an_error(h100_cluster: Cluster) -> None:
    with pytest.raises(FootprintError, match=r"nearest: .*Sweden"):
        resolve_factors(Site(zone="Sweeden"), h100_cluster)


def test_the_node_says_on_which_side_of_the_pue_its_cooling_is(h100_cluster: Cluster) -> None:
    liquid = msgspec.structs.replace(h100_cluster, node=msgspec.structs.replace(h100_cluster.node, cooling="liquid"))

    air_side, liquid_side = (
        next(a for a in resolve_factors(Site(zone="FRA"), cluster).assumptions if a.field == "node.cooling")
        for cluster in (h100_cluster, liquid)
    )

    assert "part of IT energy" in air_side.source
    assert "part of the PUE" in liquid_side.source


def test_an_old_vintage_is_a_warning_for_the_user() -> None:
    assert not resolve_factors(Site(zone="FRA"), None, today=TODAY).warnings
    (warning,) = resolve_factors(Site(zone="UKR"), None, today=TODAY).warnings

    assert warning == "grid intensity of Ukraine is of 2022, 4 years old: state a newer one"


@pytest.mark.parametrize(("stated", "warned"), [(0.4, True), (0.0, False), (12.0, False)])
def test_an_intensity_in_kilograms_is_asked_about(stated: float, warned: bool) -> None:
    factors = resolve_factors(Site(intensity_g_per_kwh=stated), None)

    assert [f"was {stated:g} kg/kWh meant?" in warning for warning in factors.warnings] == [True] * warned


def test_a_published_zero_is_not_taken_for_a_clean_grid() -> None:
    # Our World in Data has 0 g/kWh, lifecycle, for the hydropower of the Central African Republic.
    assert any(
        "is 0 g/kWh, which no grid has over its life" in text
        for text in resolve_factors(Site(zone="CAF"), None).warnings
    )


def test_an_intensity_a_megawatt_hour_is_refused() -> None:
    with pytest.raises(SpecError, match=r"intensity_g_per_kwh is 41400, expected at most 3000 \(gCO2e/kWh\)"):
        Site(intensity_g_per_kwh=41_400)


@pytest.mark.parametrize(("years", "asked"), [(0.5, True), (1, False), (5, False), (15, False), (48, True)])
def test_a_lifetime_that_few_machines_have_is_asked_about(years: float, asked: bool) -> None:
    warnings = resolve_factors(Site(zone="FRA", lifetime_years=years), None).warnings

    assert any(f"lifetime_years is {years:g}" in warning for warning in warnings) == asked


@pytest.mark.parametrize(("pue", "listed"), [(1.0, False), (1.2, True)])
def test_a_stated_pue_without_overhead_has_no_range_that_is_assumed(pue, listed):
    factors = resolve_factors(Site(zone="FRA", pue=pue), None)

    assert ("site.pue_range" in [assumption.field for assumption in factors.assumptions]) is listed
