"""Numbers as people read them."""

from __future__ import annotations

import pytest

from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.numbers.figure import Figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1,230"),
        (9.99, "9.99"),
        (9.999, "10.0"),
        (0.5, "0.500"),
        (0.01234, "0.0123"),
        (-12.34, "-12.3"),
        (1e-7, "1.00e-07"),
        (2.5e17, "2.50e+17"),
    ],
)
def test_number_has_three_digits(value: float, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(5.0, "5"), (1.54, "1.54"), (3200.0, "3,200"), (41.44, "41.44"), (0, "0")])
def test_stated_number_keeps_no_digits_that_nobody_stated(value: float, text: str) -> None:
    assert wording.plain(value) == text


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0 J"), (500, "500 J"), (3600, "1.00 Wh"), (3.6e6, "1.00 kWh"), (7.2e9, "2.00 MWh"), (9e12, "2.50 GWh")],
)
def test_energy_has_a_unit_that_fits(joules: float, text: str) -> None:
    assert wording.energy(joules) == text


@pytest.mark.parametrize(
    ("kilograms", "text"), [(1e-7, "0.100 mgCO2e"), (0.0123, "12.3 gCO2e"), (12.3, "12.3 kgCO2e"), (552e3, "552 tCO2e")]
)
def test_carbon_has_a_unit_that_fits(kilograms: float, text: str) -> None:
    assert wording.carbon(kilograms) == text


def test_range_uses_the_unit_of_its_central_value() -> None:
    assert wording.carbon_range(Figure(1.2, 0.9, 1500.0, "kgCO2e", "modelled", "")) == "0.900 to 1,500 kgCO2e"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0002, "<0.1 %"), (0.5, "50 %"), (0.99999, ">99.9 %"), (1, "100 %")]
)
def test_share_that_is_not_everything_never_reads_as_everything(share: float, text: str) -> None:
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("factor", "text"),
    [(1, "0 %"), (1.123, "+12 %"), (1.034, "+3.4 %"), (0.8, "−20 %"), (3.0, "× 3.00"), (0.1, "× 0.100")],
)
def test_factor_reads_as_a_difference_until_it_doubles(factor: float, text: str) -> None:
    assert wording.off_by(factor) == text


def test_factor_of_thousandths_is_a_divisor() -> None:
    assert wording.off_by(7.3e-5) == "÷ 13,700"
    assert wording.off_by(0.02) == "× 0.0200"


def test_rounding_noise_reads_as_no_difference() -> None:
    assert wording.signed(1e-15, of=10.0, digits=2) == "0"
    assert wording.signed(-0.5, of=10.0, digits=2) == "−0.50"
    assert wording.signed(0.5, of=10.0, digits=2) == "+0.50"


def test_counts_and_moments() -> None:
    assert plural(1, "step") == "1 step"
    assert plural(2000, "step") == "2,000 steps"
    assert plural(2, "stretch", "stretches") == "2 stretches"
    assert [verb(count, "was", "were") for count in (0, 1, 2)] == ["were", "was", "were"]
    assert wording.moment(1_760_000_000) == "2025-10-09 08:53:20 UTC"
    assert wording.duration(5400) == "1.50 h"
    assert wording.device_time(1800) == "30.0 min"
    assert wording.power(1500) == "1.50 kW"


def test_field_of_a_spec_is_written_as_its_user_writes_it_and_not_as_python():
    site = {"zone": "FRA", "pue": None, "building": False, "instruments": [], "nodes": {"a": 1, "b": [2, 3]}}

    assert wording.field(site) == "zone FRA, building false, nodes a 1, b 2, 3"
    assert [wording.field(value) for value in (None, True, 0, 128.0, "text", (1, 2))] == [
        "", "true", "0", "128.0", "text", "1, 2"
    ]  # fmt: skip
