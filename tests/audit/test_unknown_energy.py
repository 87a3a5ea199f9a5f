"""A run of which no energy was read or modelled: its energy and carbon are unknown in every output, and never 0."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.audit.exports.paper import paper_paragraph
from carbon_plugin.audit.live import live_view, summary_line
from carbon_plugin.audit.programme import add_up
from carbon_plugin.audit.report.comparison import render_comparison
from carbon_plugin.audit.report.first_screen import total_of
from carbon_plugin.audit.report.write import write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.runs import compare_runs, list_runs
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.values import Factors
from tests.ledger.builder import Attempt, Job


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Path:
    """Write a run that was killed before its first window, on hardware without a profile."""
    folder = tmp_path_factory.mktemp("place") / "run"
    bare = msgspec.to_builtins(msgspec.structs.replace(factors, embodied_kg={}))
    killed = [Attempt(0, 0, closed=False)]
    (ledger,) = Job(nodes=1, gpus=1, factors=bare, attempts=killed).write(folder)
    manifest, *_ = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(manifest)
    write_audit(folder)
    return folder


@pytest.fixture(scope="module")
def summary(run_dir: Path) -> AuditSummary:
    return msgspec.json.decode((run_dir / "report.json").read_bytes(), type=AuditSummary)


def test_report_states_no_footprint_and_why(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text("utf-8"))

    assert report["footprint"] is None
    assert report["no_carbon_reason"].startswith("its energy is unknown")


def test_text_and_page_say_unknown_where_nothing_was_read(run_dir: Path, summary: AuditSummary) -> None:
    text, page = (run_dir / "summary.txt").read_text("utf-8"), (run_dir / "report.html").read_text("utf-8")

    assert "What its machines used is unknown." in text
    assert " 0 J" not in text
    assert "0 mgCO2e" not in text
    assert "in the total" not in text  # there is none
    assert (total_of(summary).text, total_of(summary).raw) == ("unknown", None)
    assert "p10 to p90: 0 to 0" not in page


def test_lists_comparisons_and_lines_hold_no_zero_for_it(run_dir: Path, summary: AuditSummary) -> None:
    (listed,) = list_runs(run_dir)
    values = {one.name: one.values for one in compare_runs([summary, summary]).quantities}

    assert (listed.energy_j, listed.operational_kg, listed.total_kg) == (None, None, None)
    assert "energy of the machines" not in values
    assert "operational carbon" not in values
    assert "unknown" in render_comparison([summary, summary])
    assert "energy unknown" in summary_line(run_dir)
    assert ("spent", "unknown") in live_view(run_dir).rows


def test_a_programme_names_such_a_run_and_sums_the_others(
    summary: AuditSummary, factors: Factors, tmp_path: Path
) -> None:
    Job(nodes=1, gpus=1, factors=factors).write(tmp_path)
    whole = summarise(tmp_path)
    of_one = [msgspec.structs.replace(one, run=msgspec.structs.replace(one.run, programme="p", name=name, run_id=name))
              for name, one in (("killed", summary), ("whole", whole))]  # fmt: skip
    result = add_up([(tmp_path / one.run.name, one) for one in of_one])

    alone = add_up([(tmp_path, of_one[1])])
    assert [run.energy_j is None for run in result.runs] == [True, False]
    assert (result.total_kg, result.operational_kg, result.facility_j) == (
        alone.total_kg, alone.operational_kg, alone.facility_j,
    )  # fmt: skip
    assert any("in no sum: killed" in warning for warning in result.warnings)


def test_a_paragraph_for_a_paper_is_refused_with_the_reason(summary: AuditSummary) -> None:
    with pytest.raises(ReportError, match="its energy is unknown"):
        paper_paragraph(summary)
