"""What stands beside the total in a report: contracts, the wide interval, water, the building, warnings."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.audit.report.charts.all_charts import charts_of
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.phrases import beside_rows, embodied_how
from carbon_plugin.audit.summary import summarise
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.site import Instrument, Site
from tests.ledger.builder import Job


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    """Return the audit of a run whose site states all that it can."""
    cluster = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=2, devices_per_node=2)
    contract = Instrument(kind="ppa", g_per_kwh=0.0, share=0.5, source="wind farm 2025")
    site = Site(
        zone="FRA",
        pue=1.2,
        wue_l_per_kwh=0.3,
        instruments=(contract,),
        building=True,
        amortisation="active_share",
        fleet_utilisation=0.7,
    )
    factors = msgspec.structs.replace(resolve_factors(site, cluster), warnings=("the zone's value is old",))
    directory = tmp_path_factory.mktemp("run")
    job = Job(factors=msgspec.to_builtins(factors), intensity_g_per_kwh=factors.intensity.figure.value, pue=1.2)
    job.write(directory)
    return summarise(directory)


def test_contracts_stand_beside_the_location_based_total(summary: AuditSummary) -> None:
    assert summary.footprint is not None
    assert summary.footprint.market is not None
    by_contract = summary.footprint.market.operational_kg.value
    assert by_contract == pytest.approx(summary.footprint.operational_kg.value / 2)
    assert summary.footprint.total_kg.value > summary.footprint.operational_kg.value > by_contract
    rows = {row.name: row for row in beside_rows(summary)}
    assert "wind farm 2025" in rows["operation, market-based"].how
    assert "operational, by contract" in render_text(summary)


def test_wide_interval_and_water_are_told(summary: AuditSummary) -> None:
    rows = {row.name: row for row in beside_rows(summary)}
    assert "2.5th" in rows["total carbon, 95 % interval"].how
    assert rows["water, on-site"].value.endswith(" L")


def test_page_holds_all_of_it_with_the_building_and_the_rule_of_amortisation(summary: AuditSummary) -> None:
    page = render_html(summary)
    for expected in ("Beside the total, not part of it", "wind farm 2025", "manufacture, building", "water, on-site"):
        assert expected in page
    assert "70 % of calendar life" in embodied_how(summary)["device"]
    assert "The zone&#39;s value is old." in page
    assert "drivers" in charts_of(summary)
