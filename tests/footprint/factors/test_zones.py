"""What a user may write as a zone, and what an unknown one answers."""

from __future__ import annotations

from datetime import date

import pytest

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.grid import zone_intensity
from carbon_plugin.footprint.factors.zones import (
    AMBIGUOUS,
    PARTED,
    TABLES,
    cloud_region,
    locate,
    newest_of,
    parts_of,
    row_of,
)


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
        ("aws:eu-west-3", "country", "FRA"),
        ("aws:eu-north-1", "gcp", "europe-north2"),
        ("aws:us-east-1", "gcp", "us-east4"),
        ("azure:westeurope", "country", "NLD"),
        ("azure:southcentralus", "gcp", "us-south1"),
        ("Texas", "gcp", "us-south1"),
        ("US-TX", "gcp", "us-south1"),
        ("USA-TX", "gcp", "us-south1"),
        ("can-qc", "gcp", "northamerica-northeast1"),
        ("US-TEX-ERCO", "gcp", "us-south1"),
        ("us-cal-ciso", "gcp", "us-west2"),
        ("California", "gcp", "us-west2"),
        ("Virginia", "gcp", "us-east4"),
        ("Québec", "gcp", "northamerica-northeast1"),
        ("CA-QC", "gcp", "northamerica-northeast1"),
        ("CA-AB", "canada", "CA-AB"),
        ("new south wales", "gcp", "australia-southeast1"),
        ("AU-TAS", "australia", "AU-TAS"),
        ("Inner Mongolia", "china", "CN-NM"),
        ("JP-TK", "gcp", "asia-northeast1"),
        ("JP-HKD", "country", "JPN"),
        ("IN-WE", "gcp", "asia-south1"),
        ("BR-CS", "gcp", "southamerica-east1"),
        ("SE3", "gcp", "europe-north2"),
        ("NO-NO2", "country", "NOR"),
        ("DK1", "country", "DNK"),
        ("IT-SIC", "country", "ITA"),
    ],
)
def test_a_zone_is_found_by_each_of_its_forms(zone: str, table: str, code: str) -> None:
    area = locate(zone)

    assert (area.table, area.code) == (table, code)


def test_a_mapped_region_says_which_region_it_stands_for() -> None:
    assert locate("aws:eu-north-1").stands_for == "aws:eu-north-1 (Stockholm)"
    assert locate("SWE").stands_for is None


@pytest.mark.parametrize(
    ("zone", "name", "row"),
    [
        ("aws:us-east-1", "Northern Virginia", "Google us-east4 (Northern Virginia)"),
        ("azure:westcentralus", "Wyoming", "eGRID WECC Rockies"),
        ("aws:ca-central-1", "Quebec", "Google northamerica-northeast1 (Montréal)"),
        ("aws:eu-west-3", "France", "France"),
    ],
)
def test_a_region_is_called_by_its_place_and_its_source_by_the_row(zone: str, name: str, row: str) -> None:
    intensity = zone_intensity(zone)

    assert intensity.zone_name == name
    assert f"{row} {intensity.year}" in intensity.figure.source
    assert intensity.notes[0].startswith(f"{row} stands for {zone}")


# Regions of more than one provider in one city or in one grid zone, by the place that all of them name.
ONE_CITY = {
    "Montreal": ("gcp:northamerica-northeast1", "aws:ca-central-1", "azure:canadaeast", "CA-QC"),
    "Toronto": ("gcp:northamerica-northeast2", "azure:canadacentral", "CA-ON"),
    "Virginia": (
        "gcp:us-east4",
        "aws:us-east-1",
        "azure:eastus",
        "azure:eastus2",
        "Virginia",
        "PJM",
        "Illinois",
        "azure:northcentralus",
    ),
    "Ohio": ("gcp:us-east5", "aws:us-east-2", "aws:us-gov-east-1", "Ohio"),
    "Oregon": ("gcp:us-west1", "aws:us-west-2", "aws:us-gov-west-1", "Oregon"),
    "Iowa": ("gcp:us-central1", "azure:centralus", "Iowa"),
    "Texas grid": ("gcp:us-south1", "azure:southcentralus", "US-TEX-ERCO", "Texas"),
    "San Francisco": ("aws:us-west-1", "azure:westus", "US-CAL-CISO", "California"),
    "São Paulo": ("gcp:southamerica-east1", "aws:sa-east-1", "azure:brazilsouth", "BR-CS"),
    "Tokyo": ("gcp:asia-northeast1", "aws:ap-northeast-1", "azure:japaneast", "JP-TK"),
    "Osaka": ("gcp:asia-northeast2", "aws:ap-northeast-3", "azure:japanwest", "JP-KN"),
    "Mumbai": ("gcp:asia-south1", "aws:ap-south-1", "azure:centralindia", "IN-WE"),
    "Sydney": ("gcp:australia-southeast1", "aws:ap-southeast-2", "azure:australiaeast", "AU-NSW"),
    "Melbourne": ("gcp:australia-southeast2", "aws:ap-southeast-4", "azure:australiasoutheast", "AU-VIC"),
    "Milan": ("gcp:europe-west8", "aws:eu-south-1", "azure:italynorth", "IT-NO"),
    "Stockholm": ("gcp:europe-north2", "aws:eu-north-1", "azure:swedencentral", "SE3"),
    "Beijing": ("aws:cn-north-1", "azure:chinanorth", "CN-BJ"),
}


@pytest.mark.parametrize("city", ONE_CITY)
def test_regions_of_one_city_have_one_intensity_whoever_runs_them(city: str) -> None:
    values = {zone: zone_intensity(zone).figure.value for zone in ONE_CITY[city]}

    assert max(values.values()) <= 1.001 * min(values.values()), values


def test_a_place_has_the_newest_of_the_values_that_count_the_same() -> None:
    texas = zone_intensity("Texas", today=date(2026, 11, 28))

    assert (texas.figure.value, texas.year, texas.zone) == (299.13, 2025, "US-TX")
    assert newest_of("egrid:ERCT", "gcp:us-south1") == "gcp:us-south1"
    assert newest_of("gcp:us-south1", "egrid:ERCT") == "gcp:us-south1"


def test_a_value_of_another_basis_takes_no_place_however_new() -> None:
    # Lifecycle of 2021 beside direct emissions of 2025, and the two of one year.
    assert newest_of("canada:CA-QC", "gcp:northamerica-northeast1") == "canada:CA-QC"
    assert newest_of("SWE", "gcp:europe-north2") == "SWE"


def test_no_place_has_an_older_value_than_a_rival_of_the_same_basis() -> None:
    for code, place in tables.places().items():
        counted = zone_intensity(code)
        assert counted.basis is not None
        for row in map(row_of, place.rivals):
            table = TABLES[row.table]()
            if table.source.basis.scope == counted.basis.scope:
                assert counted.year is not None
                assert table.areas[row.code].year <= counted.year, code


ONE_ZONE_COUNTRIES = {
    "FRA": ("gcp:europe-west9", "aws:eu-west-3", "azure:francecentral"),
    "DEU": ("gcp:europe-west3", "aws:eu-central-1", "azure:germanywestcentral"),
    "GBR": ("gcp:europe-west2", "aws:eu-west-2", "azure:uksouth"),
    "CHE": ("gcp:europe-west6", "aws:eu-central-2", "azure:switzerlandnorth"),
    "NLD": ("gcp:europe-west4", "azure:westeurope"),
    "ESP": ("gcp:europe-southwest1", "azure:spaincentral"),
    "POL": ("gcp:europe-central2", "azure:polandcentral"),
    "KOR": ("gcp:asia-northeast3", "aws:ap-northeast-2", "azure:koreacentral"),
    "SGP": ("gcp:asia-southeast1", "aws:ap-southeast-1", "azure:southeastasia"),
    "HKG": ("gcp:asia-east2", "aws:ap-east-1", "azure:eastasia"),
    "IDN": ("gcp:asia-southeast2", "aws:ap-southeast-3", "azure:indonesiacentral"),
    "ISR": ("gcp:me-west1", "aws:il-central-1", "azure:israelcentral"),
    "ZAF": ("gcp:africa-south1", "aws:af-south-1", "azure:southafricanorth"),
    "THA": ("gcp:asia-southeast3", "aws:ap-southeast-7"),
    "QAT": ("gcp:me-central1", "azure:qatarcentral"),
}


@pytest.mark.parametrize("country", ONE_ZONE_COUNTRIES)
def test_in_a_country_of_one_grid_zone_regions_differ_by_what_their_source_counts_and_by_no_more(country: str) -> None:
    google, *others = (zone_intensity(zone) for zone in ONE_ZONE_COUNTRIES[country])
    assert google.basis is not None

    for other in others:
        assert other.zone == country
        assert other.basis is not None
        # Direct emissions of what is used, against the lifecycle of what is generated: upstream methane, dams, mines.
        assert (google.basis.scope, other.basis.scope) == ("direct", "lifecycle")
        assert 0.3 < google.figure.value / other.figure.value < 1.1


def test_a_name_of_a_country_and_of_a_part_of_another_is_asked_about() -> None:
    countries = {name for country in tables.countries().values() for name in (country.name, *country.aliases)}
    places = {name for place in tables.places().values() for name in (place.name, *place.aliases)}

    assert {name.casefold() for name in countries & places} == set(AMBIGUOUS)
    with pytest.raises(FootprintError, match="two places: write GEO for the country, US-GA for the state"):
        locate("Georgia")


def test_the_countries_whose_parts_are_published_are_named_in_one_place() -> None:
    assert {code for code in tables.countries() if parts_of(code)} == PARTED


def test_every_place_leads_to_a_published_value_and_its_code_names_its_country() -> None:
    alpha2 = {country.alpha2 for country in tables.countries().values()}
    for code, place in tables.places().items():
        assert code.partition("-")[0] in alpha2
        assert zone_intensity(code).figure.value > 0
        assert [row_of(reference).zone for reference in place.also] == list(place.also)


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
        ("Texsa", "Texas (US-TX)"),
        ("Carolina", "North Carolina (US-NC), South Carolina (US-SC)"),
        ("US-CAL", "US-CAL-CISO"),
        ("CA-QB", "CA-QC"),
        ("Tazmania", "Tasmania (AU-TAS)"),
        ("Sidney", "aws:ap-southeast-2 (Sydney)"),
        ("Atlantis", "ovh:us-east-lz-atl (Atlanta)"),
    ],
)
def test_an_unknown_zone_is_an_error_that_lists_the_nearest_names(zone: str, nearest: str) -> None:
    with pytest.raises(FootprintError, match="is unknown") as error:
        locate(zone)

    assert nearest in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("zone", "country"),
    [
        ("Bavaria", "DEU"),
        ("England", "GBR"),
        ("wales", "GBR"),
        ("Catalonia", "ESP"),
        ("Ile de France", "FRA"),
        ("Baden-Wuerttemberg", "DEU"),
        ("DE-BY", "DEU"),
        ("gb-eng", "GBR"),
        ("FR-IDF", "FRA"),
    ],
)
def test_a_part_of_a_country_without_published_parts_names_the_country(zone: str, country: str) -> None:
    with pytest.raises(FootprintError) as error:
        locate(zone)

    assert f"write {country} for the country" in str(error.value)
    assert "nearest" not in str(error.value)


def test_a_name_without_a_value_is_no_zone_and_its_country_is_one() -> None:
    for country, names in tables.unpublished_parts().items():
        assert parts_of(country) == ()
        for name in names:
            with pytest.raises(FootprintError, match=f"write {country} for the country"):
                locate(name)


def test_the_countries_of_which_parts_are_known_are_named_where_a_zone_is_not() -> None:
    with pytest.raises(FootprintError) as error:
        locate("qqqqqqqq")

    countries = sorted({code.partition("-")[0] for code in tables.places()})
    assert f"a part of {', '.join(countries[:-1])} or {countries[-1]} " in str(error.value)


@pytest.mark.parametrize(
    ("zone", "kind"),
    [("US-TXX", "US-"), ("USA-TXX", "US-"), ("CA-QB", "CA-"), ("NO-NO9", "NO-"), ("egrid:ERC", "egrid:")],
)
def test_nearest_names_are_of_the_kind_that_was_typed(zone: str, kind: str) -> None:
    with pytest.raises(FootprintError) as error:
        locate(zone)

    shown = str(error.value).split("nearest: ")[1].split(";")[0].split(", ")
    assert [name for name in shown if not name.startswith(kind)] == []


@pytest.mark.parametrize("zone", ["Utopia", "Narnia", "Mordor"])
def test_a_place_that_sounds_like_none_has_no_nearest(zone: str) -> None:
    with pytest.raises(FootprintError, match="is unknown; expected"):
        locate(zone)


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


def test_a_city_of_a_cloud_region_is_an_error_with_the_grid_that_is_there_and_the_regions() -> None:
    """Every such word is a zone or leads to one, and what an error tells to write is a zone."""
    cities = {row.place for regions in tables.cloud_regions().values() for row in regions.values()}
    refused = 0
    for city in cities:
        try:
            locate(city)
        except FootprintError as error:
            if " is a city: " not in str(error):
                continue
            refused += 1
            grids, _, regions = str(error).partition("write ")[2].partition(" for the grid there, or a cloud region: ")
            assert all(locate(zone) for zone in (*grids.split(" or "), *regions.split(", ")))
    assert refused > 20
    with pytest.raises(FootprintError, match=r"zone 'Berlin' is a city: write DEU for the grid there, or a cloud reg"):
        locate("Berlin")


def test_an_unknown_prefix_is_named() -> None:
    with pytest.raises(FootprintError, match=r"unknown prefix 'oracle', expected egrid, consumption, .* or ovh"):
        locate("oracle:us-ashburn-1")


@pytest.mark.parametrize(
    ("zone", "row", "country"),
    [
        ("lambda:us-south-3", ("gcp", "us-south1"), None),  # Central Texas: ERCOT
        ("lambda:us-west-3", ("gcp", "us-west3"), "USA"),  # Utah
        ("nebius:eu-north1", ("country", "FIN"), "FIN"),
        ("nebius:eu-north2", ("country", "ISL"), "ISL"),
        ("crusoe:us-southcentral1-a", ("gcp", "us-south1"), None),  # Houston
        ("crusoe:eu-norway1-a", ("country", "NOR"), "NOR"),
        ("scaleway:pl-waw-2", ("country", "POL"), "POL"),
        ("ovh:GRA11", ("country", "FRA"), "FRA"),  # codes are written in capitals by OVHcloud
        ("ovh:BHS5", ("gcp", "northamerica-northeast1"), None),  # Quebec
    ],
)
def test_a_region_of_a_smaller_cloud_is_the_grid_of_its_place(
    zone: str, row: tuple[str, str], country: str | None
) -> None:
    area = locate(zone)

    assert (area.table, area.code) == row
    assert country is None or area.country == country


def test_a_region_whose_state_is_not_published_covers_every_part_of_its_country() -> None:
    area = locate("crusoe:us-west1-a")

    assert (area.table, area.code, area.larger) == ("country", "USA", True)


@pytest.mark.parametrize("word", ["CHE", "ch", "Switzerland"])
def test_what_a_country_consumes_is_a_zone_of_its_own(word: str) -> None:
    area = locate(f"consumption:{word}")

    assert (area.table, area.code, area.zone, area.country) == ("consumption", "CHE", "consumption:CHE", "CHE")


def test_a_country_without_a_published_consumption_is_an_error() -> None:
    with pytest.raises(FootprintError, match="zone 'consumption:RUS' is unknown"):
        locate("consumption:RUS")


def test_only_cloud_zones_have_a_provider() -> None:
    assert cloud_region("aws:eu-north-1") == ("aws", "eu-north-1")
    assert cloud_region("egrid:SRVC") is None
    assert cloud_region("FRA") is None
    assert cloud_region(None) is None
