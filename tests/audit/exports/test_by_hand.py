"""A programme over two regions and a year end, computed by hand from the raw lines of its ledgers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.exports.ghg import ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.exports.of_programme import ghg_of_programme
from carbon_plugin.audit.exports.sci import sci_report
from carbon_plugin.audit.programme import read_programme
from carbon_plugin.audit.programme_runs import summaries_of
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.site import Site
from tests.audit.test_programme import write_run

NEW_YEAR_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
SITES = {
    "virginia": (Site(zone="aws:us-east-1"), NEW_YEAR_S - 200.0),
    "dublin": (Site(zone="aws:eu-west-1"), NEW_YEAR_S + 86_400.0),
    "stated": (
        Site(
            zone="aws:us-east-1",
            intensity_g_per_kwh=384.4,
            intensity_source="the supplier's report of 2025",
            intensity_kind="annual_report",
            intensity_basis="lifecycle average consumption",
            pue=1.2,
        ),
        NEW_YEAR_S + 2 * 86_400.0,
    ),
}
KWH_J, YEAR_S = 3.6e6, 365.25 * 86_400
VIRGINIA_DIRECT, USA_LIFECYCLE, USA_DIRECT = 343.48, 384.4, 340.8  # Google 2025, Our World in Data 2025, eGRID2024
FOUR_DIGITS = 6e-4


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, AuditSummary]]:
    root = tmp_path_factory.mktemp("model")
    device = load_accelerator("h100-sxm")
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=8)
    for name, (site, start_s) in SITES.items():
        write_run(root / name, resolve_factors(site, cluster), windows=40, start_unix_s=start_s)
    return summaries_of([root])


def by_hand(run: Path) -> dict[str, Any]:
    """Return energy, operational and embodied carbon of a run, with the parts of each year."""
    (path,) = run.glob("*.jsonl")
    manifest, *rest = [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()]
    windows = [record for record in rest if record["type"] == "window"]
    factors = manifest["factors"]
    years_kwh: dict[int, float] = {}
    pue, intensity = three(factors["pue"]), three(factors["intensity"]["figure"])
    for window in windows:
        year = datetime.fromtimestamp(window["start_unix_s"], UTC).year
        for energy in window["energies"]:
            years_kwh[year] = years_kwh.get(year, 0.0) + energy["energy_j"] * pue[0] / KWH_J
    start_s = manifest["started_unix_s"]
    end_s = max(record.get("at_unix_s", 0.0) for record in rest)
    reserved_s = end_s - (manifest["reserved_since_unix_s"] or start_s)
    units = {"device": 2.0, "host": manifest["host_share"], "network": 2.0}  # two GPUs on one host
    life_years = three(factors["lifetime_years"])
    kg = {part: three(factors["embodied_kg"][part]) for part in units}
    years = {part: units[part] * reserved_s / YEAR_S for part in units}
    return {
        "years_kwh": years_kwh,
        "years_kg": {year: kwh * intensity[0] / 1000 for year, kwh in years_kwh.items()},
        "operational_kg": sum(years_kwh.values()) * intensity[0] / 1000,
        "embodied_kg": sum(kg[part][0] * years[part] for part in units) / life_years[0],
        "tokens": sum(window["tokens"] for window in windows),
        "intensity": intensity,
    }


def three(document: dict[str, Any]) -> tuple[float, float, float]:
    return document["value"], document["low"], document["high"]


def test_sci_and_its_products_are_those_by_hand(audited: list[tuple[Path, AuditSummary]]) -> None:
    for path, summary in audited:
        hand, sci = by_hand(path), sci_report(summary)

        assert sci.energy.value == pytest.approx(sum(hand["years_kwh"].values()), rel=FOUR_DIGITS)
        assert sci.operational.value == pytest.approx(1e3 * hand["operational_kg"], rel=FOUR_DIGITS)
        assert sci.embodied is not None
        assert sci.embodied.value == pytest.approx(1e3 * hand["embodied_kg"], rel=FOUR_DIGITS)
        whole_g = 1e3 * (hand["operational_kg"] + hand["embodied_kg"])
        assert sci.score is not None
        assert sci.score.value == pytest.approx(whole_g / hand["tokens"], rel=FOUR_DIGITS)
        products = [
            1e3 * one.total_embodied.value
            * one.time_reserved_h / one.expected_lifespan_h
            * one.resources_reserved / one.total_resources
            for one in sci.hardware
        ]  # fmt: skip
        assert sum(products) == pytest.approx(1e3 * hand["embodied_kg"], rel=2 * FOUR_DIGITS)


def test_inventory_lines_of_each_year_are_those_by_hand(audited: list[tuple[Path, AuditSummary]]) -> None:
    for path, summary in audited:
        hand = by_hand(path)
        lines = [line for line in ghg_report(summary, GhgInputs(organisational_boundary="cloud")).lines if line.energy]

        assert {line.inventory_year: line.kg.value for line in lines} == pytest.approx(
            hand["years_kg"], rel=FOUR_DIGITS
        )
        assert {line.inventory_year for line in lines} == set(hand["years_kwh"])
    whole = ghg_of_programme(audited, GhgInputs(organisational_boundary="cloud"))
    assert whole.years == [2025, 2026]
    assert sum(line.kg.value for line in whole.lines if line.energy) == pytest.approx(
        sum(by_hand(path)["operational_kg"] for path, _ in audited), rel=FOUR_DIGITS
    )


def test_programme_is_the_sum_of_its_runs_in_lifecycle_emissions_by_hand(
    audited: list[tuple[Path, AuditSummary]],
) -> None:
    hands = {path.name: by_hand(path) for path, _ in audited}
    # Virginia's factor counts direct emissions: lifecycle = slope * direct + 20, with the slope of the USA.
    slope = (USA_LIFECYCLE - 20) / USA_DIRECT
    turned = (slope * VIRGINIA_DIRECT + 20) / VIRGINIA_DIRECT
    operational = sum(hand["operational_kg"] * (turned if name == "virginia" else 1.0) for name, hand in hands.items())

    programme = read_programme([audited[0][0].parent])

    assert programme.operational_kg is not None
    assert programme.operational_kg.value == pytest.approx(operational, rel=1e-9)
    assert programme.embodied_kg is not None
    assert programme.embodied_kg.value == pytest.approx(sum(hand["embodied_kg"] for hand in hands.values()), rel=1e-9)


def test_a_stated_intensity_has_the_range_of_its_kind_of_source(audited: list[tuple[Path, AuditSummary]]) -> None:
    (path,) = [path for path, _ in audited if path.name == "stated"]

    assert by_hand(path)["intensity"] == pytest.approx((384.4, 0.85 * 384.4, 1.15 * 384.4))
