"""Intensity of a site: published values, the user's word, and a range that says how little an average knows."""

from __future__ import annotations

import math
import statistics
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.grid import (
    PART_SPREAD,
    TRADE_SPREAD,
    WIDEST_TRADE,
    direct_warning,
    relative_spread,
    resolve_intensity,
    stand_in_warning,
    zone_intensity,
)
from carbon_plugin.footprint.factors.zones import DIVIDED
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.spec.site import Site

TODAY = date(2026, 11, 22)


@pytest.mark.parametrize(
    ("zone", "g_per_kwh", "year"),
    [
        # Our World in Data on Ember, release of April 2026.
        ("FRA", 41.4, 2025),
        ("USA", 384.4, 2025),
        ("SWE", 35.3, 2025),
        ("TWN", 633.2, 2025),
        ("WORLD", 458.3, 2025),
        ("EU27", 209.9, 2025),
        # EPA eGRID2024 by the Emission Factors Hub 2026, table 6 (CO2: CAMX 403.6 lb/MWh, SRVC 637.4 lb/MWh).
        ("egrid:CAMX", 183.7, 2024),
        ("egrid:SRVC", 290.6, 2024),
        ("egrid:US", 340.8, 2024),
        # GoogleCloudPlatform/region-carbon-info, 2025.csv.
        ("gcp:us-central1", 431.95, 2025),
    ],
)
def test_published_values_are_returned_with_their_year(zone: str, g_per_kwh: float, year: int) -> None:
    intensity = resolve_intensity(Site(zone=zone), today=TODAY)

    assert intensity.figure.value == pytest.approx(g_per_kwh, abs=0.06)
    assert intensity.figure.unit == "gCO2e/kWh"
    assert intensity.year == year


def test_the_basis_of_each_source_is_part_of_the_intensity() -> None:
    country, egrid, gcp = (zone_intensity(zone, today=TODAY) for zone in ("USA", "egrid:US", "gcp:us-central1"))

    assert country.basis is not None
    assert egrid.basis is not None
    assert gcp.basis is not None
    assert (country.basis.scope, country.basis.boundary) == ("lifecycle", "generation")
    assert (egrid.basis.scope, egrid.basis.boundary) == ("direct", "generation")
    assert (gcp.basis.scope, gcp.basis.boundary) == ("direct", "consumption")
    assert country.licence == "CC-BY-4.0"


def test_the_users_number_wins_with_the_range_of_an_unknown_source() -> None:
    site = Site(zone="FRA", intensity_g_per_kwh=12.0, intensity_source="PPA statement 2026")

    intensity = resolve_intensity(site, today=TODAY)

    assert (intensity.figure.low, intensity.figure.value, intensity.figure.high) == (9.0, 12.0, 15.0)
    assert (intensity.figure.kind, intensity.figure.source) == ("declared", "PPA statement 2026")
    assert intensity.basis is None


def test_a_site_with_a_number_may_name_a_zone_that_no_table_has() -> None:
    site = Site(zone="our hall 3", intensity_g_per_kwh=12.0)

    assert resolve_intensity(site, today=TODAY).zone == "our hall 3"


def test_an_unknown_zone_is_never_replaced_by_the_world() -> None:
    with pytest.raises(FootprintError, match="Frnace"):
        resolve_intensity(Site(zone="Frnace"), today=TODAY)


def test_a_vintage_more_than_two_years_old_is_noted() -> None:
    fresh = zone_intensity("egrid:SRVC", today=date(2025, 6, 1))
    stale = zone_intensity("egrid:SRVC", today=date(2027, 6, 1))

    assert fresh.notes == ()
    assert stale.notes == ("the newest value of eGRID SERC Virginia/Carolina is of 2024, 3 years old",)


def test_a_mapped_cloud_region_is_noted() -> None:
    assert zone_intensity("aws:eu-west-3", today=TODAY).notes[0] == "France stands for aws:eu-west-3 (Paris) by place"


def test_a_part_of_a_country_takes_the_value_of_its_own_grid_and_not_that_of_the_country() -> None:
    quebec, canada = zone_intensity("Quebec", today=TODAY), zone_intensity("CAN", today=TODAY)

    assert (quebec.zone, quebec.zone_name, quebec.figure.value) == ("CA-QC", "Quebec", 11.36)
    assert quebec.notes == ("Google northamerica-northeast1 (Montréal) stands for Quebec (CA-QC) by place",)
    assert "Google northamerica-northeast1 (Montréal) 2025" in quebec.figure.source
    assert canada.figure.value == pytest.approx(190.7, abs=0.1)


@pytest.mark.parametrize(
    ("zone", "whole", "parts"),
    [
        ("JP-HKD", 477.26, (298.92, 449.23)),
        ("azure:southindia", 670.13, (472.55, 598.45)),
        ("SE1", 35.26, (19.39,)),
        ("azure:norwayeast", 28.11, ()),
        ("Oregon", 97.85, (264.2,)),
        ("South Carolina", 290.6, (579.44,)),
        ("New York", 123.6, (401.1, 534.9)),
    ],
)
def test_where_a_larger_area_stands_for_a_place_its_range_covers_the_published_parts(
    zone: str, whole: float, parts: tuple[float, ...]
) -> None:
    figure, site = zone_intensity(zone, today=TODAY).figure, Site(zone=zone)

    assert figure.value == pytest.approx(whole, abs=0.05)
    assert figure.low <= min((whole, *parts))
    assert figure.high >= max((whole, *parts))
    said = stand_in_warning(site, zone_intensity(zone, today=TODAY))
    assert said is not None
    assert f"its range covers {number(figure.low)} to {number(figure.high)} g/kWh" in said


@pytest.mark.parametrize(
    ("zone", "parts"), [("USA", "124 to 726"), ("Canada", "4 to 1,030"), ("CHN", "107 to 725"), ("AU", "150 to 710")]
)
def test_a_country_whose_parts_differ_is_asked_which_part(zone: str, parts: str) -> None:
    intensity = zone_intensity(zone, today=TODAY)

    said = stand_in_warning(Site(zone=zone), intensity)

    assert said is not None
    assert f"its published parts have {parts} g/kWh; name the part" in said
    assert said.endswith("; the country's own value is lifecycle)")
    assert (
        stand_in_warning(Site(zone=zone, intensity_g_per_kwh=50), resolve_intensity(Site(intensity_g_per_kwh=50)))
        is None
    )


@pytest.mark.parametrize("zone", ["JP-HKD", "NO1", "IT-SIC", "DK1"])
def test_a_part_that_nobody_published_may_differ_from_its_country_as_published_parts_do(zone: str) -> None:
    figure = zone_intensity(zone, today=TODAY).figure

    assert figure.high / figure.value >= math.exp(PART_SPREAD)
    assert figure.value / figure.low >= math.exp(PART_SPREAD)


def test_the_spread_of_parts_is_the_80th_percentile_over_the_countries_whose_parts_are_published() -> None:
    wholes = {
        tables.canada_intensities: tables.country_intensities().areas["CAN"],
        tables.australia_intensities: tables.country_intensities().areas["AUS"],
        tables.china_intensities: tables.country_intensities().areas["CHN"],
        tables.egrid_intensities: tables.egrid_intensities().areas["US"],
    }
    apart = [
        abs(math.log(row.g_per_kwh / whole.g_per_kwh))
        for table, whole in wholes.items()
        for code, row in table().areas.items()
        if code != "US"
    ]

    assert np.percentile(apart, 80) == pytest.approx(PART_SPREAD, abs=0.005)


@pytest.mark.parametrize(
    "zone", ["FRA", "NOR", "SWE", "IND", "EU27", "Florida", "aws:eu-west-3", "CA-AB", "gcp:us-west1"]
)
def test_a_place_with_a_value_of_its_own_needs_no_warning(zone: str) -> None:
    assert stand_in_warning(Site(zone=zone), zone_intensity(zone, today=TODAY)) is None


def test_range_of_a_country_that_imports_reaches_what_it_consumes() -> None:
    """Switzerland generates 39 g/kWh; it consumed 50 in 2025, and up to 122 in the years before."""
    swiss = zone_intensity("CHE")

    assert swiss.figure.value == pytest.approx(39.22)
    assert swiss.figure.high > 98.0
    assert any("has 50 g/kWh (Electricity Maps 2025, lifecycle; zone consumption:CHE)" in note for note in swiss.notes)


@pytest.mark.parametrize("code", sorted(tables.trade()))
def test_half_of_imports_counts_no_farther_from_the_published_consumption_than_a_year_has_taken_any(code: str) -> None:
    """Albania generates 25 g/kWh by water and consumed 69; its neighbours have 429, half of which would be 227."""
    figure = zone_intensity(code, today=TODAY).figure
    consumed = tables.consumption_intensities().areas[code].g_per_kwh
    row = tables.country_intensities().areas[code]
    own = math.exp(relative_spread(row, TODAY.year - row.year))

    assert figure.high <= max(figure.value * own, consumed * WIDEST_TRADE) * (1 + 1e-9)
    assert figure.low >= min(figure.value / own, consumed / WIDEST_TRADE) * (1 - 1e-9)


@pytest.mark.parametrize("zone", ["crusoe:eu-norway1", "lambda:asia-south-1", "crusoe:us-west1"])
def test_a_region_somewhere_in_a_country_of_several_grids_may_differ_from_it_as_parts_do(zone: str) -> None:
    intensity = zone_intensity(zone, today=TODAY)

    assert intensity.figure.high / intensity.figure.value >= math.exp(PART_SPREAD)
    assert stand_in_warning(Site(zone=zone), intensity) is not None


def test_the_countries_of_several_grids_are_those_with_parts_in_the_table_of_places() -> None:
    alpha2 = {country.alpha2: code for code, country in tables.countries().items()}

    assert {alpha2[place.partition("-")[0]] for place in tables.places()} == DIVIDED


def test_the_published_consumption_stands_beside_the_generation_of_a_country() -> None:
    swiss = zone_intensity("consumption:CHE", today=TODAY)

    assert (swiss.figure.value, swiss.year) == (50, 2025)
    assert (swiss.basis.scope, swiss.basis.boundary) == ("lifecycle", "consumption")
    assert swiss.licence == "ODbL-1.0"
    assert "Electricity Maps" in swiss.attribution


@pytest.mark.parametrize("code", sorted(tables.consumption_intensities().areas))
def test_the_range_of_every_country_reaches_its_published_consumption(code: str) -> None:
    figure = zone_intensity(code, today=TODAY).figure

    if figure.value != 24:  # a published 0, which hydropower replaces
        assert figure.low <= tables.consumption_intensities().areas[code].g_per_kwh <= figure.high


def test_the_range_of_a_country_without_a_published_consumption_is_as_wide_as_trade_makes_it() -> None:
    """Of countries that are published on both, 80 % consume within a factor of e^0.33 of what they generate."""
    generation = tables.country_intensities().areas
    pairs = [
        (row.g_per_kwh, generation[code].g_per_kwh) for code, row in tables.consumption_intensities().areas.items()
    ]
    apart = [abs(math.log(consumed / made)) for consumed, made in pairs if made > 1]
    russia = zone_intensity("RUS", today=TODAY).figure

    assert statistics.quantiles(apart, n=10)[7] == pytest.approx(TRADE_SPREAD, abs=0.005)
    assert russia.high / russia.value > math.exp(TRADE_SPREAD)


def test_a_value_that_its_source_rounded_to_zero_is_replaced_by_that_of_hydropower() -> None:
    intensity = zone_intensity("CAF", today=date(2024, 1, 1))

    assert (intensity.figure.low, intensity.figure.value, intensity.figure.high) == (11, 24, 45)
    note = intensity.notes[-1]
    assert note.startswith("the published value of Central African Republic is 0 g/kWh, which no grid has")


@pytest.mark.parametrize(
    ("zone", "gwp", "gases"),
    [("FRA", "AR5", "N2O"), ("egrid:SRVC", "AR6", "CH4"), ("CN-BJ", "one gas", "CO2 only"), ("AU-QLD", "AR5", "CO2")],
)
def test_intensity_names_its_gases_and_their_warming_potentials(zone: str, gwp: str, gases: str) -> None:
    intensity = zone_intensity(zone)
    assert gwp in intensity.gwp
    assert gases in intensity.gases


def test_the_range_widens_with_age_and_with_the_areas_own_drift() -> None:
    steady, drifting = tables.country_intensities().areas["USA"], tables.country_intensities().areas["COL"]

    assert relative_spread(steady, 1) == pytest.approx((0.065**2 + 0.15**2) ** 0.5)
    assert relative_spread(steady, 4) == pytest.approx((4 * 0.065**2 + 0.15**2) ** 0.5)
    assert relative_spread(drifting, 1) > 2 * relative_spread(steady, 1)


@given(code=st.sampled_from(sorted(tables.country_intensities().areas)), year=st.integers(2000, 2100))
def test_every_area_has_an_ordered_range_at_any_date(code: str, year: int) -> None:
    figure = zone_intensity(code, today=date(year, 1, 1)).figure

    assert 0 <= figure.low <= figure.value <= figure.high


@pytest.mark.parametrize(("zone", "value"), [("aws:eu-north-1", 19.39), ("Quebec", 11.36), ("gcp:us-west1", 97.85)])
def test_a_low_value_that_counts_direct_emissions_only_says_so(zone: str, value: float) -> None:
    said = direct_warning(zone_intensity(zone, today=TODAY))

    assert said is not None
    assert said.startswith(f"the {number(value)} g/kWh of ")
    assert "are direct emissions only" in said


@pytest.mark.parametrize("zone", ["SWE", "FRA", "Texas", "egrid:CAMX", "CA-BC"])
def test_a_lifecycle_value_or_that_of_a_fossil_grid_needs_no_word_about_its_scope(zone: str) -> None:
    assert direct_warning(zone_intensity(zone, today=TODAY)) is None
