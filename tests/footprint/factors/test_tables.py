"""The shipped tables are complete, typed, and say what they count."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import yaml

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.grid import TYPICAL_DRIFT
from carbon_plugin.footprint.factors.zones import locate

INTENSITY_TABLES = [
    tables.country_intensities,
    tables.consumption_intensities,
    tables.egrid_intensities,
    tables.gcp_intensities,
    tables.canada_intensities,
    tables.australia_intensities,
    tables.china_intensities,
]


def test_every_area_with_an_intensity_has_a_name_and_codes_are_those_of_the_standard() -> None:
    countries = tables.countries()

    assert set(countries) == set(tables.country_intensities().areas)
    alpha2 = [country.alpha2 for country in countries.values() if country.alpha2]
    assert len(alpha2) == len(set(alpha2)) == len(countries) - 2  # EU27 and WORLD are aggregates
    assert countries["NOR"].alpha2 == "NO"  # unquoted it would be False in YAML 1.1


def test_no_code_or_name_means_two_areas() -> None:
    meant: dict[str, str] = {}
    for code, country in tables.countries().items():
        for word in (code, country.alpha2, country.name, *country.aliases):
            if word:
                assert meant.setdefault(word.casefold(), code) == code


@pytest.mark.parametrize("table", INTENSITY_TABLES)
def test_every_table_states_source_licence_basis_and_plausible_values(table) -> None:  # type: ignore[no-untyped-def]
    content = table()

    assert content.source.licence
    assert content.source.attribution
    assert content.source.basis.signal == "average"
    assert content.source.basis.method == "location"
    assert all(0 <= row.g_per_kwh <= 1400 and 2000 <= row.year <= 2026 for row in content.areas.values())


@pytest.mark.parametrize("table", INTENSITY_TABLES)
def test_the_notice_names_every_source_and_its_licence(table) -> None:  # type: ignore[no-untyped-def]
    notice = " ".join((Path(__file__).parents[3] / "NOTICE").read_text(encoding="utf-8").split())

    assert table().source.url in notice
    assert table().source.attribution in notice


def test_typical_drift_is_the_80th_percentile_of_the_country_table() -> None:
    rows = [row for row in tables.country_intensities().areas.values() if row.g_per_kwh and row.previous]
    drifts = [abs(row.g_per_kwh - row.previous) / max(row.g_per_kwh, row.previous) for row in rows if row.previous]

    assert statistics.quantiles(drifts, n=10)[7] == pytest.approx(TYPICAL_DRIFT, abs=0.001)


def test_every_mapped_cloud_region_leads_to_an_area() -> None:
    for provider, regions in tables.cloud_regions().items():
        for region, row in regions.items():
            area = locate(f"{provider}:{region}")
            assert area.stands_for is not None
            assert row.place in area.stands_for


def test_every_region_with_a_pue_or_water_of_its_own_is_a_known_region() -> None:
    published = {**tables.pue_table().providers, **tables.water_table().on_site}
    for provider, figure in published.items():
        for group in figure.regions:
            for region in group.values:
                locate(f"{provider}:{region}")


def test_every_region_that_a_provider_publishes_is_on_the_map() -> None:
    codes = yaml.safe_load((Path(__file__).parent / "data" / "region_codes.yaml").read_text("utf-8"))
    for provider, lines in codes.items():
        regions = " ".join(lines).split()
        known = tables.gcp_intensities().areas if provider == "gcp" else tables.cloud_regions()[provider]
        assert not set(regions) - set(known)
        for region in regions:
            locate(f"{provider}:{region}")
