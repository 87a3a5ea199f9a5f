"""Every place has its intensity as lifecycle and as direct emissions, published where it is and else derived."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.bases import in_scope, national_slope
from carbon_plugin.footprint.factors.grid import declared_intensity, zone_intensity
from carbon_plugin.footprint.factors.zones import TABLES, row_of


def test_line_between_the_bases_is_the_median_of_the_grids_that_publish_both_and_its_range_holds_four_of_five() -> None:
    table = tables.bases_table()
    slopes = {country: national_slope(country, row) for country, row in table.pairs.items()}
    assert len(slopes) == 21
    assert table.slope == pytest.approx(statistics.median(slopes.values()), abs=0.001)
    errors = []
    for country, row in table.pairs.items():
        direct = TABLES[row_of(row).table]().areas[row_of(row).code].g_per_kwh
        lifecycle = tables.country_intensities().areas[country].g_per_kwh
        errors.append(abs(np.log(lifecycle / (table.slope * direct + table.offset_g_per_kwh))))
    assert np.exp(np.quantile(errors, 0.8)) == pytest.approx(table.spread, abs=0.01)


@pytest.mark.parametrize(
    ("zone", "scope", "g_per_kwh"),
    [
        ("DEU", "direct", 275.81),
        ("gcp:europe-west1", "lifecycle", 149.82),
        ("azure:westeurope", "direct", 194.35),
        ("aws:eu-west-1", "lifecycle", 256.5),
    ],
)
def test_published_value_of_the_other_basis_is_taken(zone: str, scope, g_per_kwh: float) -> None:
    other = in_scope(zone_intensity(zone), scope)
    assert other is not None
    assert other.basis is not None
    assert (other.basis.scope, other.figure.kind) == (scope, "assumed")
    assert other.figure.value == pytest.approx(g_per_kwh, abs=0.1)
    assert other.asked == zone


def test_value_that_nobody_published_follows_from_the_other_with_a_wider_range() -> None:
    own = zone_intensity("egrid:SRVC")
    other = in_scope(own, "lifecycle")
    assert other is not None
    slope = (384.4 - 20) / tables.egrid_intensities().areas["US"].g_per_kwh
    assert other.figure.value == pytest.approx(slope * own.figure.value + 20)
    assert other.figure.kind == "modelled"
    assert other.figure.high / other.figure.value > own.figure.high / own.figure.value
    back = in_scope(other, "direct")
    assert back is not None
    assert back.figure.value == pytest.approx(own.figure.value)


def test_number_without_a_stated_basis_is_turned_into_nothing() -> None:
    assert in_scope(declared_intensity(300.0, zone=None, source="bill"), "direct") is None
