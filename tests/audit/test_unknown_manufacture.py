"""A run on hardware without a profile: its embodied carbon is unknown in every output, and nothing is a total."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.exports.evidence import embodied_of
from carbon_plugin.audit.exports.model_card import model_card_emissions
from carbon_plugin.audit.live import live_view, summary_line
from carbon_plugin.audit.programme import read_programme
from carbon_plugin.audit.report.comparison import render_comparison
from carbon_plugin.audit.report.first_screen import tiles, total_of
from carbon_plugin.audit.report.write import write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.runs import compare_runs, list_runs
from carbon_plugin.audit.sentences.narrative import warnings
from carbon_plugin.cli.main import run as command
from carbon_plugin.errors import ReportError
from carbon_plugin.fleet.ingest import ingest
from carbon_plugin.fleet.page.page import render as fleet_page
from carbon_plugin.fleet.report import Asked, report
from carbon_plugin.fleet.wording import summary_lines
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.figure import Figure
from tests.ledger.builder import Job


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, factors: Factors, forecast_document: dict[str, Any]) -> Path:
    """Write a directory with one run, whose plan knew its hardware and whose monitor did not."""
    folder = tmp_path_factory.mktemp("place")
    bare = msgspec.to_builtins(msgspec.structs.replace(factors, embodied_kg={}))
    Job(factors=bare, intensity_g_per_kwh=41.4, pue=1.2, forecast=forecast_document).write(folder / "run")
    write_audit(folder / "run")
    return folder


@pytest.fixture(scope="module")
def summary(place: Path) -> AuditSummary:
    return msgspec.json.decode((place / "run" / "report.json").read_bytes(), type=AuditSummary)


def test_report_json_holds_null_and_only_operational_ends_of_ranges(place: Path) -> None:
    footprint = json.loads((place / "run" / "report.json").read_text("utf-8"))["footprint"]

    assert footprint["embodied_kg"] is None
    assert footprint["total_kg"] is None
    assert footprint["operational_kg"]["value"] > 0
    assert set(footprint["means"]) == set(footprint["interval_95"]) == {"operational_kg"}


def test_zero_that_an_earlier_release_wrote_is_read_as_unknown(summary: AuditSummary) -> None:
    document = msgspec.to_builtins(summary.footprint)
    document["embodied_kg"] = msgspec.to_builtins(Figure(0.0, 0.0, 0.0, "kgCO2e", "modelled", "sum of no part"))
    document["total_kg"] = document["operational_kg"]

    assert msgspec.convert(document, type=Footprint) == summary.footprint


def test_page_and_text_call_the_figure_operational_carbon(place: Path, summary: AuditSummary) -> None:
    page = (place / "run" / "report.html").read_text("utf-8")
    text = (place / "run" / "summary.txt").read_text("utf-8")

    assert total_of(summary).what.startswith("Operational carbon without the manufacture of accelerators and hosts")
    assert [(part.name, part.text, part.raw) for part in total_of(summary).split][1] == ("embodied", "unknown", None)
    assert "total carbon" not in text
    assert "footprint.total_kg" not in page.replace("forecast.footprint.total_kg", "")


def test_forecast_is_compared_on_what_both_sides_know(place: Path, summary: AuditSummary) -> None:
    assert summary.forecast is not None
    assert summary.footprint is not None
    ratio = summary.footprint.operational_kg.value / summary.forecast.footprint.operational_kg.value
    tile = next(one for one in tiles(summary) if one.what == "Result against forecast")
    parts_kg = sum(part.carbon_kg for part in summary.forecast.parts)
    (listed,) = list_runs(place)

    assert tile.much == wording.off_by(ratio)
    assert tile.more.endswith("operational carbon only")
    assert summary.forecast.embodied_kg is None
    assert parts_kg == pytest.approx(
        summary.footprint.operational_kg.value - summary.forecast.footprint.operational_kg.value
    )
    assert listed.forecast_error == pytest.approx(ratio - 1)


def test_list_line_and_live_view_name_what_is_left_out(
    place: Path, summary: AuditSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    (listed,) = list_runs(place)
    assert command(["runs", str(place)]) == 0
    printed = capsys.readouterr().out
    spent = dict(live_view(place / "run").rows)["spent"]
    without = "without the manufacture of accelerators and hosts"

    assert listed.total_kg is None
    assert listed.operational_kg == summary.footprint.operational_kg.value
    assert f"* {without}" in printed
    assert without in spent
    assert without in summary_line(place / "run")


def test_comparison_has_a_total_only_of_the_run_that_has_one(
    summary: AuditSummary, factors: Factors, tmp_path: Path
) -> None:
    Job(factors=msgspec.to_builtins(factors), intensity_g_per_kwh=41.4, pue=1.2).write(tmp_path)
    known = write_audit(tmp_path).summary
    rows = {row.name: row.values for row in compare_runs([summary, known]).quantities}

    assert rows["embodied carbon"] == [None, known.footprint.embodied_kg.value]
    assert rows["total carbon"] == [None, known.footprint.total_kg.value]
    assert None not in rows["operational carbon"]
    assert rows["total carbon a million tokens"][0] is None
    assert "Operational carbon without the manufacture" in render_comparison([summary, known])


def test_roll_ups_and_the_model_card_have_no_total(place: Path, summary: AuditSummary, tmp_path: Path) -> None:
    programme = read_programme([place])
    ingest([str(place)], str(tmp_path / "store"))
    fleet = report(str(tmp_path / "store"), Asked())

    assert (programme.embodied_kg, programme.total_kg, programme.roles[0].total_kg) == (None, None, None)
    assert programme.operational_kg is not None
    assert any("manufacture of their hardware is unknown" in warning for warning in programme.warnings)
    assert (fleet.totals.embodied_kg, fleet.totals.total_kg, fleet.top_runs[0].total_kg) == (None, None, None)
    assert fleet.totals.location_kg == pytest.approx(programme.operational_kg.value)
    assert any(line.startswith("total unknown: operational") for line in summary_lines(fleet))
    assert "in operation" in fleet_page(fleet)
    (forecasts,) = fleet.forecasts
    ratio = summary.footprint.operational_kg.value / summary.forecast.footprint.operational_kg.value
    assert forecasts.bias == pytest.approx(ratio - 1, abs=1e-6)
    assert "embodied unknown and not included" in model_card_emissions(summary, "pre-training").source


def test_hardware_that_was_named_and_not_seen_is_not_to_be_named_again(summary: AuditSummary) -> None:
    unseen = msgspec.structs.replace(summary, event_counts={NOT_SEEN_EVENT: 1})

    for of, named in ((summary, True), (unseen, False)):
        (note,) = [one for one in warnings(of) if one.startswith("The manufacture of accelerators and hosts is in no")]
        with pytest.raises(ReportError) as refused:
            embodied_of(of, "SCI")
        for said in (note, str(refused.value)):
            assert ("name it with planned=" in said) == named
            assert ("no machine of the run shows the GPUs that were named for it" in said) != named


def test_explanation_of_an_unknown_total_says_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = command(["audit", str(place / "run"), "--explain", "total_kg"])

    assert code != 0
    assert "footprint.total_kg is null" in capsys.readouterr().err


def test_tokens_that_nobody_counted_are_null(tmp_path: Path) -> None:
    Job(tokens_per_step=0).write(tmp_path)
    written = write_audit(tmp_path)

    assert json.loads(written.json.read_text("utf-8"))["progress"]["tokens"] is None
    assert "0 tokens" not in written.html.read_text("utf-8")
