"""What a user may write as a zone, and what an unknown one answers."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.zones import cloud_region, locate


@pytest.mark.parametrize(
    ("zone", "table", "code"),
    [
        ("FRA", "country", "FRA"),
        ("fra", "country", "FRA"),
        ("FR", "country", "FRA"),
        ("France", "country", "FRA"),
        (" france ", "country", "FRA"),
        ("NO", "country", "NOR"),
        ("UK", "country", "GBR"),
        ("south korea", "country", "KOR"),
        ("Côte d'Ivoire", "country", "CIV"),
        ("Türkiye", "country", "TUR"),
        ("EU27", "country", "EU27"),
        ("WORLD", "country", "WORLD"),
        ("egrid:SRVC", "egrid", "SRVC"),
        ("egrid:us", "egrid", "US"),
        ("CAMX", "egrid", "CAMX"),
        ("US", "country", "USA"),
        ("gcp:us-central1", "gcp", "us-central1"),
        ("GCP:US-Central1", "gcp", "us-central1"),
        ("aws:eu-north-1", "country", "SWE"),
        ("aws:us-east-1", "egrid", "SRVC"),
        ("azure:westeurope", "country", "NLD"),
        ("azure:southcentralus", "egrid", "ERCT"),
    ],
)
def test_a_zone_is_found_by_each_of_its_forms(zone: str, table: str, code: str) -> None:
    area = locate(zone)

    assert (area.table, area.code) == (table, code)


def test_a_mapped_region_says_which_region_it_stands_for() -> None:
    assert locate("aws:eu-north-1").stands_for == "aws:eu-north-1 (Stockholm)"
    assert locate("SWE").stands_for is None


@pytest.mark.parametrize(
    ("zone", "nearest"),
    [
        ("Frnace", "France (FRA)"),
        ("FRX", "France (FRA)"),
        ("egrid:SRVX", "egrid:SRVC"),
        ("gcp:us-centrl1", "gcp:us-central1"),
        ("aws:eu-north1", "aws:eu-north-1"),
        ("azure:westeurop", "azure:westeurope"),
        ("us-central11", "gcp:us-central1"),
        ("Texas", "nearest: "),
        ("California", "egrid:CAMX (WECC California)"),
        ("Virginia", "egrid:SRVC (SERC Virginia/Carolina)"),
    ],
)
def test_an_unknown_zone_is_an_error_that_lists_the_nearest_names(zone: str, nearest: str) -> None:
    with pytest.raises(FootprintError, match="is unknown") as error:
        locate(zone)

    assert nearest in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zone", ["", "   ", ":", "qqqqqqqq", "aws:", "egrid:"])
def test_a_zone_like_nothing_is_an_error_that_lists_the_forms(zone: str) -> None:
    with pytest.raises(FootprintError, match=r"gcp:us-central1|unknown prefix"):
        locate(zone)


@pytest.mark.parametrize(
    ("zone", "suggestion"),
    [("us-east-1", "aws:us-east-1"), ("westeurope", "azure:westeurope"), ("us-central1", "gcp:us-central1")],
)
def test_a_cloud_region_without_its_provider_is_an_error_with_the_full_form(zone: str, suggestion: str) -> None:
    with pytest.raises(FootprintError, match=f"write {suggestion}"):
        locate(zone)


def test_an_unknown_prefix_is_named() -> None:
    with pytest.raises(FootprintError, match="unknown prefix 'oracle', expected egrid, gcp, aws or azure"):
        locate("oracle:us-ashburn-1")


def test_only_cloud_zones_have_a_provider() -> None:
    assert cloud_region("aws:eu-north-1") == ("aws", "eu-north-1")
    assert cloud_region("egrid:SRVC") is None
    assert cloud_region("FRA") is None
    assert cloud_region(None) is None
