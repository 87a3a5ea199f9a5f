"""The accounting: published totals, conservation, and what sampling may and may not do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint import propagation, uncertainty
from carbon_plugin.footprint.account import account, carbon_totals, central_carbon, make_ready
from carbon_plugin.footprint.values import EnergyItem, Factors, Footprint, Reservation
from carbon_plugin.spec.numbers.figure import Figure

MakeFactors = Callable[..., Factors]

KWH = 3.6e6


def item(rung: str, scope: str, energy_j: float, low: float = 1.0, high: float = 1.0, **more: Any) -> EnergyItem:
    energy = {"value": energy_j, "low": energy_j * low, "high": energy_j * high}
    return msgspec.convert({"rung": rung, "scope": scope, "energy": energy} | more, EnergyItem)


items = st.builds(
    item,
    rung=st.sampled_from(["gpu", "host", "network"]),
    scope=st.sampled_from(["h100", "a100", "host", "switch"]),
    energy_j=st.one_of(st.just(0.0), st.floats(1.0, 1e15)),
    low=st.floats(0.0, 1.0),
    high=st.floats(1.0, 3.0),
)
reservations = st.builds(
    Reservation,
    scope=st.sampled_from(["device", "host", "network"]),
    units=st.floats(0, 1e5),
    time_s=st.floats(0, 1e8),
)
spreads = st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.0))


@pytest.fixture(scope="module")
def h100_factors(make_factors: MakeFactors) -> Factors:
    """Return factors of H100 nodes with wide ranges."""
    embodied = {"device": (164, 125, 275), "host": (3200, 1000, 6000), "network": (25, 10, 60)}
    return make_factors((400, 300, 520), (1.3, 1.1, 1.6), (5, 3, 6), embodied)


def figures(footprint: Footprint) -> list[Figure]:
    known = [footprint.operational_kg, footprint.embodied_kg, footprint.total_kg]
    return [
        *footprint.energy_j.values(),
        *footprint.embodied_parts_kg.values(),
        *(figure for figure in known if figure is not None),
    ]


# Published totals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facility_mwh", "pue", "g_per_kwh", "published_t"),
    [
        (1287, 1.10, 429, 552.1),  # GPT-3, Patterson et al. 2021, arXiv 2104.10350, table 4
        (85.7, 1.12, 545, 46.7),  # T5-11B, same table
        (179, 1.10, 403, 72.2),  # Switch Transformer, same table
    ],
)
def test_published_operational_carbon_follows_from_published_energy(
    make_factors: MakeFactors, facility_mwh: float, pue: float, g_per_kwh: float, published_t: float
) -> None:
    it_j = facility_mwh * 1e3 * KWH / pue

    footprint = account([item("gpu", "all", it_j)], [], make_factors(intensity=g_per_kwh, pue=pue))

    assert footprint.energy_j["facility"].value == pytest.approx(facility_mwh * 1e3 * KWH)
    assert footprint.operational_kg.value / 1e3 == pytest.approx(published_t, rel=2e-3)


def test_an_h100_node_hour_amortises_eight_devices_host_and_network(make_factors: MakeFactors) -> None:
    factors = make_factors(embodied={"device": 164, "host": 3200, "network": 25})
    hour = [
        Reservation(scope="device", units=8, time_s=3600),
        Reservation(scope="host", units=1, time_s=3600),
        Reservation(scope="network", units=8, time_s=3600),
    ]

    footprint = account([], hour, factors)

    assert footprint.embodied_kg.value == pytest.approx((8 * 164 + 3200 + 8 * 25) / (5 * 8766))
    assert footprint.embodied_parts_kg["device"].value == pytest.approx(8 * 164 / (5 * 8766))
    assert footprint.operational_kg.value == 0


# Conservation -------------------------------------------------------------------------------------------------------


@given(energies=st.lists(items, max_size=8), reserved=st.lists(reservations, max_size=5), duration=spreads)
def test_parts_add_up_to_totals_and_ranges_hold_their_value(
    h100_factors: Factors,
    energies: list[EnergyItem],
    reserved: list[Reservation],
    duration: tuple[float, float],
) -> None:
    footprint = account(energies, reserved, h100_factors, duration_spread=duration, draws=200)

    energy = footprint.energy_j
    rungs = [energy[rung].value for rung in ("gpu", "host", "network") if rung in energy]
    assert energy["it"].value == sum(rungs)
    assert energy["it"].value == pytest.approx(sum(item.energy.value for item in energies))
    assert energy["facility"].value == pytest.approx(energy["it"].value * 1.3)
    assert footprint.operational_kg.value == pytest.approx(energy["facility"].value * 400 / 3.6e9)
    if footprint.embodied_parts_kg:
        assert footprint.embodied_kg.value == sum(part.value for part in footprint.embodied_parts_kg.values())
        assert footprint.total_kg.value == footprint.operational_kg.value + footprint.embodied_kg.value
    else:
        assert (footprint.embodied_kg, footprint.total_kg) == (None, None)
    assert all(0 <= figure.low <= figure.value <= figure.high for figure in figures(footprint))


@given(energies=st.lists(items, max_size=12), reserved=st.lists(reservations, max_size=5), duration=spreads)
def test_totals_alone_are_those_of_the_footprint(
    h100_factors: Factors,
    energies: list[EnergyItem],
    reserved: list[Reservation],
    duration: tuple[float, float],
) -> None:
    footprint = account(energies, reserved, h100_factors, duration_spread=duration, draws=200)
    totals = carbon_totals(energies, reserved, h100_factors, duration_spread=duration, draws=200)
    central = central_carbon(energies, reserved, h100_factors)

    assert totals.energy_j == footprint.energy_j["it"].range
    assert totals.operational_kg == footprint.operational_kg.range
    assert totals.embodied_kg == (footprint.embodied_kg.range if footprint.embodied_parts_kg else None)
    assert totals.total_kg == (footprint.total_kg.range if footprint.embodied_parts_kg else None)
    assert central.operational_kg == pytest.approx(totals.operational_kg.value, rel=1e-12)
    for alone, of_totals in ((central.embodied_kg, totals.embodied_kg), (central.total_kg, totals.total_kg)):
        assert alone == (None if of_totals is None else pytest.approx(of_totals.value, rel=1e-12))


def test_the_first_totals_after_make_ready_draw_only_the_scores_of_their_energies(h100_factors: Factors) -> None:
    uncertainty.scores.cache_clear()
    uncertainty.score_table.cache_clear()
    reserved = [Reservation(scope=scope, units=8.0, time_s=3600.0) for scope in h100_factors.embodied_kg]
    make_ready(300)
    drawn = uncertainty.scores.cache_info().misses

    carbon_totals([item("gpu", "gpu:a", 1e6), item("host", "host:b", 1e5)], reserved, h100_factors, draws=300)

    assert uncertainty.scores.cache_info().misses == drawn + 2


def test_a_rung_without_energy_items_is_absent_and_one_with_zero_joules_is_zero(make_factors: MakeFactors) -> None:
    footprint = account([item("gpu", "h100", 0.0)], [], make_factors())

    assert set(footprint.energy_j) == {"gpu", "it", "facility"}
    assert footprint.energy_j["gpu"].value == 0
    assert footprint.operational_kg.high == 0
    assert footprint.total_kg is None


def test_reservations_of_one_scope_add_up(h100_factors: Factors) -> None:
    halves = [Reservation(scope="device", units=4, time_s=5e5)] * 2
    whole = [Reservation(scope="device", units=8, time_s=5e5)]

    assert account([], halves, h100_factors) == account([], whole, h100_factors)


# What moves it ------------------------------------------------------------------------------------------------------


@given(
    energies=st.lists(items, min_size=1, max_size=6), reserved=st.lists(reservations, max_size=3), more=st.floats(1, 9)
)
def test_everything_scales_with_energy_and_time(
    h100_factors: Factors, energies: list[EnergyItem], reserved: list[Reservation], more: float
) -> None:
    scaled_energies = [msgspec.structs.replace(item, energy=item.energy.scaled(more)) for item in energies]
    scaled_time = [msgspec.structs.replace(reservation, time_s=reservation.time_s * more) for reservation in reserved]

    once = account(energies, reserved, h100_factors, draws=200)
    scaled = account(scaled_energies, scaled_time, h100_factors, draws=200)

    for before, after in zip(figures(once), figures(scaled), strict=True):
        assert after.value == pytest.approx(before.value * more, rel=1e-9)
        assert after.low == pytest.approx(before.low * more, rel=1e-6, abs=1e-9)
        assert after.high == pytest.approx(before.high * more, rel=1e-6, abs=1e-9)


@given(
    energies=st.lists(items, min_size=1, max_size=5),
    intensity=st.floats(0, 900),
    pue=st.floats(1, 2),
    more=st.floats(0, 200),
)
def test_more_intensity_and_more_pue_never_emit_less(
    make_factors: MakeFactors, energies: list[EnergyItem], intensity: float, pue: float, more: float
) -> None:
    base = account(energies, [], make_factors(intensity, pue), draws=20)
    dirtier = account(energies, [], make_factors(intensity + more, pue), draws=20)
    hotter = account(energies, [], make_factors(intensity, pue + more / 100), draws=20)

    slack = 1 + 1e-12
    assert dirtier.operational_kg.value * slack >= base.operational_kg.value
    assert hotter.operational_kg.value * slack >= base.operational_kg.value
    assert hotter.energy_j["it"].value == base.energy_j["it"].value


def test_an_items_own_intensity_replaces_the_runs_and_keeps_its_relative_range(make_factors: MakeFactors) -> None:
    factors = make_factors(intensity=(400, 200, 800), pue=1.0)
    at_run = account([item("gpu", "h100", 1e9)], [], factors)
    at_night = account([item("gpu", "h100", 1e9, intensity_g_per_kwh=100.0)], [], factors)

    assert at_night.operational_kg.value == at_run.operational_kg.value / 4
    assert at_night.operational_kg.low == pytest.approx(at_run.operational_kg.low / 4)
    assert at_night.operational_kg.high == pytest.approx(at_run.operational_kg.high / 4)


# Sampling -----------------------------------------------------------------------------------------------------------


def test_a_single_uncertain_input_passes_its_own_range_through(make_factors: MakeFactors) -> None:
    factors = make_factors(intensity=(400, 300, 520), pue=1.25)

    footprint = account([item("gpu", "h100", 1000 * KWH)], [], factors)

    carbon = footprint.operational_kg
    assert (carbon.low, carbon.value, carbon.high) == pytest.approx((375, 500, 650), rel=1e-3)
    assert footprint.energy_j["facility"].low == footprint.energy_j["facility"].high


def test_items_of_one_scope_do_not_average_away_and_items_of_many_do(make_factors: MakeFactors) -> None:
    together = account([item("gpu", "h100", 1e6, 0.9, 1.1) for _ in range(16)], [], make_factors())
    apart = account([item("gpu", f"h100-{n}", 1e6, 0.9, 1.1) for n in range(16)], [], make_factors())

    def width(footprint: Footprint) -> float:
        return footprint.energy_j["gpu"].high - footprint.energy_j["gpu"].low

    assert width(together) == pytest.approx(0.2 * 16e6, rel=1e-3)
    assert width(apart) == pytest.approx(width(together) / 4, rel=0.1)


def test_the_duration_of_a_forecast_moves_energy_and_embodied_together(make_factors: MakeFactors) -> None:
    factors = make_factors(embodied={"device": 164})
    spent = account([item("gpu", "h100", 1e12)], [Reservation(scope="device", units=8, time_s=1e7)], factors)
    ahead = account(
        [item("gpu", "h100", 1e12)],
        [Reservation(scope="device", units=8, time_s=1e7)],
        factors,
        duration_spread=(0.8, 1.5),
    )

    assert spent.total_kg.low == spent.total_kg.high
    assert ahead.total_kg.value == spent.total_kg.value
    assert ahead.total_kg.low == pytest.approx(0.8 * spent.total_kg.value, rel=1e-3)
    assert ahead.total_kg.high == pytest.approx(1.5 * spent.total_kg.value, rel=1e-3)


def test_pue_never_falls_below_one_in_any_draw(make_factors: MakeFactors) -> None:
    factors = make_factors(pue=(1.05, 1.0, 1.4))

    footprint = account([item("gpu", "h100", 1e9)], [], factors)

    assert footprint.energy_j["facility"].low >= footprint.energy_j["it"].value


def test_the_same_seed_gives_the_same_ranges_and_another_seed_others(h100_factors: Factors) -> None:
    energies = [item("gpu", "h100", 1e12, 0.9, 1.2), item("host", "host", 3e11, 0.5, 1.5)]

    first, again, other = (account(energies, [], h100_factors, seed=seed) for seed in (7, 7, 8))

    assert first == again
    assert first.operational_kg.value == other.operational_kg.value
    assert first.operational_kg.high != other.operational_kg.high
    assert first.operational_kg.high == pytest.approx(other.operational_kg.high, rel=0.03)


def test_the_order_of_items_does_not_matter(h100_factors: Factors) -> None:
    energies = [
        item("gpu", "h100", 1e12, 0.9, 1.2),
        item("host", "host", 3e11, 0.5, 1.5),
        item("network", "switch", 7e10, 0.4, 2.0),
    ]
    reserved = [Reservation(scope=scope, units=8, time_s=1e6) for scope in ("device", "host")]
    reference = account(energies, reserved, h100_factors)

    for shuffled in itertools.permutations(energies):
        again = account(shuffled, reserved[::-1], h100_factors)
        assert list(again.energy_j) == list(reference.energy_j)
        for name in ("operational_kg", "embodied_kg", "total_kg"):
            one, two = getattr(reference, name), getattr(again, name)
            assert (one.low, one.value, one.high) == pytest.approx((two.low, two.value, two.high), rel=1e-12)


def test_a_scope_draws_the_same_numbers_whatever_stands_beside_it(h100_factors: Factors) -> None:
    alone = account([item("gpu", "h100", 1e12, 0.9, 1.2)], [], h100_factors)
    beside = account([item("gpu", "h100", 1e12, 0.9, 1.2), item("host", "host", 1e11)], [], h100_factors)

    assert alone.energy_j["gpu"] == beside.energy_j["gpu"]


def test_measured_energy_stays_measured_until_it_is_mixed_or_multiplied(make_factors: MakeFactors) -> None:
    measured, modelled = item("gpu", "h100", 1e9, kind="measured"), item("host", "host", 1e8)

    alone = account([measured], [], make_factors()).energy_j
    mixed = account([measured, modelled], [], make_factors()).energy_j

    assert (alone["gpu"].kind, alone["it"].kind, alone["facility"].kind) == ("measured", "measured", "modelled")
    assert (mixed["gpu"].kind, mixed["host"].kind, mixed["it"].kind) == ("measured", "modelled", "modelled")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("energies", "message"),
    [
        ([item("gpu", "h100", -1.0)], "energy of gpu scope 'h100': low -1.0"),
        ([item("gpu", "h100", float("nan"))], "energy of gpu scope 'h100': low nan"),
        ([item("gpu", "h100", 10.0, 1.5, 2.0)], "expected 0 <= low <= value <= high"),
        ([item("gpu", "h100", 10.0, 1.0, float("inf"))], "high inf"),
        ([item("facility", "hall", 10.0)], "rung is 'facility', expected one of gpu, host, network"),
        ([item("gpu", "h100", 1.0, intensity_g_per_kwh=-5.0)], "intensity_g_per_kwh is -5.0"),
    ],
)
def test_energy_that_cannot_be_is_refused_by_scope(
    make_factors: MakeFactors, energies: Sequence[EnergyItem], message: str
) -> None:
    with pytest.raises(FootprintError, match=message):
        account(energies, [], make_factors())


@pytest.mark.parametrize(
    ("reservation", "message"),
    [
        (Reservation(scope="rack", units=1, time_s=1), "reservation of 'rack': no embodied factor .* device"),
        (Reservation(scope="device", units=-1, time_s=1), "reservation of 'device': units is -1"),
        (Reservation(scope="device", units=1, time_s=float("nan")), "reservation of 'device': time_s is nan"),
    ],
)
def test_a_reservation_that_cannot_be_is_refused_by_scope(
    make_factors: MakeFactors, reservation: Reservation, message: str
) -> None:
    with pytest.raises(FootprintError, match=message):
        account([], [reservation], make_factors(embodied={"device": 164}))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"pue": 0.9}, "factor pue: low is 0.9, expected 1 or more"),
        ({"lifetime": 0.0}, "factor lifetime: low is 0.0, expected more than 0"),
        ({"intensity": (0.0, 0.0, 5.0)}, "no range around 0"),
        ({"intensity": (10.0, 20.0, 30.0)}, "factor intensity: low 20.0, value 10.0"),
        ({"embodied": {"device": (164, 200, 300)}}, "factor device: low 200"),
    ],
)
def test_a_factor_that_cannot_be_is_refused_by_name(
    make_factors: MakeFactors, factors: dict[str, Any], message: str
) -> None:
    with pytest.raises(FootprintError, match=message):
        account([], [], make_factors(**factors))


@pytest.mark.parametrize("spread", [(1.1, 1.2), (0.0, 1.0), (0.9, 0.95), (0.9, float("inf"))])
def test_a_duration_spread_that_misses_one_is_refused(make_factors: MakeFactors, spread: tuple[float, float]) -> None:
    with pytest.raises(FootprintError, match="duration_spread"):
        account([], [], make_factors(), duration_spread=spread)


def test_draws_and_seed_must_be_usable(make_factors: MakeFactors) -> None:
    with pytest.raises(FootprintError, match="draws is 0"):
        account([], [], make_factors(), draws=0)
    with pytest.raises(FootprintError, match="seed -1"):
        account([], [], make_factors(), seed=-1)


# Means --------------------------------------------------------------------------------------------------------------


def test_the_mean_of_an_account_is_that_of_its_samples_and_above_its_central_value(h100_factors: Factors) -> None:
    energies = [item("gpu", "h100", 1e12, 0.9, 1.1), item("host", "host", 3e11, 0.6, 1.6)]
    reserved = [Reservation(scope=scope, units=8.0, time_s=1e6) for scope in ("device", "host", "network")]
    inputs = propagation.gather(energies, reserved, h100_factors, (1.0, 1.0))

    found = propagation.central_and_mean(inputs)
    scores = np.stack([uncertainty.scores(scope, 40_000, 0) for scope in inputs.scopes])
    sampled = propagation.evaluate(inputs, scores)

    central = account(energies, reserved, h100_factors)
    for name in ("operational_kg", "embodied_kg", "total_kg"):
        values = getattr(found, name)
        assert values[0] == pytest.approx(getattr(central, name).value, rel=1e-12)
        assert values[1] == pytest.approx(getattr(sampled, name).mean(), rel=5e-3)
        assert values[1] > 1.02 * values[0]
