"""PUE: the user first, then region, fleet and industry."""

from __future__ import annotations

import numpy as np
import pytest

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.pue import resolve_pue
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.site import Site


@pytest.mark.parametrize(
    ("zone", "pue"),
    [
        ("aws:eu-central-1", 1.24),
        ("aws:ap-southeast-3", 1.29),
        ("aws:me-south-1", 1.33),
        ("aws:eu-south-1", 1.11),  # not published by region: the average of Europe
        ("aws:cn-north-1", 1.14),  # not published at all: fleet
        ("gcp:us-central1", 1.11),
        ("gcp:europe-west9", 1.09),  # not published by region: fleet
        ("azure:westeurope", 1.14),
        ("azure:southcentralus", 1.28),
        ("azure:southeastasia", 1.34),  # its own value of 2022 before the newer average of Asia-Pacific
        ("azure:japaneast", 1.28),
        ("azure:uksouth", 1.16),  # the average of Europe, the Middle East and Africa
        ("azure:westus", 1.16),  # the average of the Americas
        ("azure:chinaeast", 1.17),  # not run by Microsoft, in no average: fleet
        ("oci:us-phoenix-1", 1.37),
        ("coreweave:us-east-04", 1.54),
        ("scaleway:fr-par-2", 1.16),
        ("scaleway:it-mil-1", 1.40),  # not published: median of the zones that are
        ("ovh:gra11", 1.26),
        ("lambda:us-south-1", 1.54),
        ("FRA", 1.54),
        ("egrid:SRVC", 1.54),
    ],
)
def test_pue_follows_the_provider_and_region_of_the_zone(zone: str, pue: float) -> None:
    figure = resolve_pue(Site(zone=zone))

    assert figure.value == pue
    assert figure.kind == "assumed"
    assert 1 <= figure.low < figure.value < figure.high


def test_the_unknown_facility_has_the_range_of_the_industry_and_says_so() -> None:
    figure = resolve_pue(Site(zone="FRA"))

    assert (figure.low, figure.high) == (1.2, 1.8)
    assert "Uptime Institute" in figure.source
    assert "the facility is not known" in figure.source


def test_the_users_pue_wins_with_the_range_that_is_stated() -> None:
    figure = resolve_pue(Site(zone="aws:eu-central-1", pue=1.05, pue_source="meter of hall 3", pue_range=(1.04, 1.06)))

    assert (figure.low, figure.value, figure.high) == (1.04, 1.05, 1.06)
    assert (figure.kind, figure.source) == ("declared", "meter of hall 3")


def test_a_published_value_varies_by_its_overhead() -> None:
    figure = resolve_pue(Site(zone="gcp:us-central1"))

    assert figure.low == pytest.approx(1 + 0.11 * 0.8)
    assert figure.high == pytest.approx(1 + 0.11 * 1.25)


def test_the_aws_fleet_range_is_that_of_its_published_regions() -> None:
    regions = list(tables.pue_table().providers["aws"].regions[0].values.values())
    figure = resolve_pue(Site(zone="aws:cn-north-1"))

    assert (figure.low, figure.high) == tuple(round(float(cut), 2) for cut in np.quantile(regions, (0.1, 0.9)))


def test_the_oracle_fleet_is_the_median_of_its_published_regions() -> None:
    regions = list(tables.pue_table().providers["oci"].regions[0].values.values())
    figure = resolve_pue(Site(zone="oci:uk-cardiff-1"))

    cuts = [round(float(cut), 2) for cut in np.quantile(regions, (0.1, 0.5, 0.9))]
    assert [figure.low, figure.value, figure.high] == cuts


@pytest.mark.parametrize(
    ("accelerator", "site", "pue"),
    [
        ("rtx4090", Site(zone="FRA"), (1.0, 1.0, 1.54)),
        ("rtx-a6000", Site(zone="FRA"), (1.2, 1.54, 1.8)),
        ("rtx4090", Site(zone="gcp:us-central1"), (1.088, 1.11, 1.1375)),
        ("rtx4090", Site(zone="FRA", pue=1.3, pue_range=(1.2, 1.4)), (1.2, 1.3, 1.4)),
    ],
)
def test_a_card_for_desktop_computers_has_no_plant_around_it_unless_the_site_says_so(accelerator, site, pue) -> None:
    figure = resolve_pue(site, load_accelerator(accelerator))

    assert (figure.low, figure.value, figure.high) == pytest.approx(pue)


def test_the_pue_of_a_desktop_computer_is_among_the_assumptions_of_the_factors() -> None:
    card = load_accelerator("rtx4090")
    home = Cluster(accelerator=card, node=default_node_for(card), nodes=1, devices_per_node=1)

    (said,) = [item for item in resolve_factors(Site(zone="FRA"), home).assumptions if item.field == "site.pue"]

    assert said.value.startswith("1 (1 to 1.54)")
    assert "rtx4090" in said.source
