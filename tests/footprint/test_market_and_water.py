"""What stands beside location-based carbon: contracts, water, the building, another amortisation, wider intervals."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError, SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem, Factors, Reservation
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Instrument, LiveSource, Site

MakeFactors = Callable[..., Factors]
KWH = 3.6e6
YEAR_S = 31_557_600.0
GPU = EnergyItem(rung="gpu", scope="gpu", energy=Range(1000 * KWH, 900 * KWH, 1100 * KWH))
DEVICE_YEAR = Reservation(scope="device", units=1, time_s=YEAR_S)

instruments = st.builds(
    Instrument,
    kind=st.sampled_from(["ppa", "certificate", "supplier"]),
    g_per_kwh=st.floats(0, 500),
    source=st.just("contract"),
    share=st.none(),
    energy_kwh=st.floats(1, 2000),
) | st.builds(
    Instrument,
    kind=st.just("ppa"),
    g_per_kwh=st.floats(0, 500),
    source=st.just("contract"),
    share=st.floats(0.01, 1),
)


def test_a_contract_for_a_share_leaves_the_rest_at_the_residual_mix(make_factors: MakeFactors) -> None:
    wind = Instrument(kind="ppa", g_per_kwh=10, share=0.6, source="wind farm, 2026")
    residual = Figure(500, 500, 500, "gCO2e/kWh", "declared", "residual mix")
    factors = msgspec.structs.replace(make_factors(400, 1.2), instruments=(wind,), residual=residual)

    footprint = account([GPU], [], factors)

    assert footprint.operational_kg.value == pytest.approx(1200 * 0.4)
    assert footprint.market is not None
    assert footprint.market.operational_kg.value == pytest.approx(720 * 0.010 + 480 * 0.5)
    assert [(line.kind, line.energy_kwh) for line in footprint.market.lines] == [
        ("ppa", pytest.approx(720)),
        ("residual", pytest.approx(480)),
    ]


def test_without_a_residual_mix_the_rest_counts_at_the_location(make_factors: MakeFactors) -> None:
    certificates = Instrument(kind="certificate", g_per_kwh=0, energy_kwh=200, source="REC 2026")
    factors = msgspec.structs.replace(make_factors(400, 1.2), instruments=(certificates,))

    market = account([GPU], [], factors).market

    assert market is not None
    assert market.operational_kg.value == pytest.approx(1000 * 0.4)
    assert "location" in market.lines[-1].source


def test_there_is_no_market_line_without_contracts(make_factors: MakeFactors) -> None:
    assert account([GPU], [], make_factors()).market is None


@given(bought=st.lists(instruments, max_size=4))
def test_contracts_never_touch_the_location_based_figure_nor_cover_more_than_there_is(
    make_factors: MakeFactors, bought: list[Instrument]
) -> None:
    plain = make_factors((400, 300, 500), (1.2, 1.1, 1.4))
    factors = msgspec.structs.replace(plain, instruments=tuple(bought))

    with_contracts, without = account([GPU], [], factors, draws=100), account([GPU], [], plain, draws=100)

    assert with_contracts.operational_kg == without.operational_kg
    assert with_contracts.total_kg == without.total_kg
    if with_contracts.market is not None:
        lines = with_contracts.market.lines
        assert sum(line.energy_kwh for line in lines) == pytest.approx(1200)
        assert all(line.energy_kwh >= 0 for line in lines)
        assert with_contracts.market.operational_kg.value == pytest.approx(sum(line.carbon_kg for line in lines))


def test_an_instrument_covers_a_share_or_an_amount() -> None:
    with pytest.raises(SpecError, match="share or energy_kwh"):
        Instrument(kind="ppa", g_per_kwh=0, source="x")


def test_water_is_on_site_by_it_energy_and_off_site_by_facility_energy(make_factors: MakeFactors) -> None:
    site = Site(zone="aws:us-east-1", pue=1.2)
    water = account([GPU], [], resolve_factors(site, None)).water_l

    assert water["on-site"].value == pytest.approx(0.06 * 1000)  # AWS us-east-1 WUE 2025
    assert water["off-site"].value == pytest.approx(3.142 * 1200)  # US mean, arXiv 2304.03271
    assert water["on-site"].low < water["on-site"].value < water["on-site"].high


def test_water_that_nobody_published_is_absent_and_the_users_comes_first() -> None:
    assert resolve_factors(Site(zone="FRA"), None).water_l_per_kwh == {}
    stated = resolve_factors(Site(zone="FRA", wue_l_per_kwh=0.3, water_l_per_kwh=1.8), None).water_l_per_kwh
    assert {place: (figure.value, figure.kind) for place, figure in stated.items()} == {
        "on-site": (0.3, "declared"),
        "off-site": (1.8, "declared"),
    }


def test_active_share_divides_the_life_by_the_use_of_the_fleet(h100_cluster: Cluster) -> None:
    by_time = resolve_factors(Site(zone="FRA"), h100_cluster)
    by_use = resolve_factors(Site(zone="FRA", amortisation="active_share", fleet_utilisation=0.5), h100_cluster)

    plain, charged = (account([], [DEVICE_YEAR], factors).embodied_kg.value for factors in (by_time, by_use))

    assert charged == pytest.approx(2 * plain)
    assert "calendar life of 5 years (ISO/IEC 21031)" in by_time.amortisation
    assert "50 % of calendar life" in by_use.amortisation


def test_the_building_is_charged_by_device_time_and_only_where_asked_for(h100_cluster: Cluster) -> None:
    asked = resolve_factors(Site(zone="FRA", building=True), h100_cluster)

    parts = account([], [DEVICE_YEAR], asked).embodied_parts_kg

    # A node of 2 kW and 8 x 700 W with 10 % overhead, 75 W of network a device (10 NICs for 8): 75 kg a kW, year.
    assert parts["building"].value == pytest.approx(75 * (2000 + 1.1 * 8 * 700) / 8e3 + 75 * 0.075)
    assert (
        "building" not in account([], [DEVICE_YEAR], resolve_factors(Site(zone="FRA"), h100_cluster)).embodied_parts_kg
    )


def test_the_95_percent_interval_holds_the_80_percent_one(h100_cluster: Cluster) -> None:
    footprint = account([GPU], [DEVICE_YEAR], resolve_factors(Site(zone="POL"), h100_cluster))

    for name in ("operational_kg", "embodied_kg", "total_kg"):
        figure, (low, high) = getattr(footprint, name), footprint.interval_95[name]
        assert low < figure.low < figure.value < figure.high < high


def test_a_basis_is_three_words_in_any_order() -> None:
    intensity = resolve_factors(
        Site(intensity_g_per_kwh=50, intensity_basis="direct, consumption average"), None
    ).intensity

    assert intensity.basis is not None
    assert (intensity.basis.scope, intensity.basis.signal, intensity.basis.boundary) == (
        "direct",
        "average",
        "consumption",
    )
    with pytest.raises(FootprintError, match="lifecycle or direct, average or marginal, generation or consumption"):
        resolve_factors(Site(intensity_g_per_kwh=50, intensity_basis="green"), None)


def test_marginal_and_average_providers_are_kept_apart() -> None:
    with pytest.raises(SpecError, match="marginal intensity, expected it as live_marginal"):
        Site(zone="USA", live=LiveSource(provider="watttime"))


@pytest.mark.parametrize(
    ("zone", "liters", "words"),
    [
        ("azure:westeurope", 0.03, "Europe, the Middle East and Africa"),
        ("azure:southcentralus", 0.34, "the Americas"),
        ("azure:japaneast", 0.25, "Asia-Pacific"),
        ("azure:chinaeast", 0.27, "fleet average"),
        ("scaleway:nl-ams-1", 0.85, "Scaleway data centre"),
        ("scaleway:pl-waw-1", 0.27, "mean of the four zones"),
    ],
)
def test_water_on_site_is_that_of_the_region_of_its_part_of_the_world_or_of_the_fleet(
    zone: str, liters: float, words: str
) -> None:
    figure = resolve_factors(Site(zone=zone), None).water_l_per_kwh["on-site"]

    assert figure.value == liters
    assert words in figure.source
