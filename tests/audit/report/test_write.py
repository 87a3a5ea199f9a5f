"""The report: complete, self-contained, and honest about what it does not know."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.explain.trace import reason_of
from carbon_plugin.audit.exports.ghg import ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.exports.paper import paper_paragraph
from carbon_plugin.audit.report import first_screen
from carbon_plugin.audit.report.charts.all_charts import charts_of
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.report.write import render_json, write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.footprint.values import Factors
from carbon_plugin.show import wording
from tests.ledger.builder import Attempt, Job

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use", "line", "rect", "circle", "polyline", "polygon"}


class Page(html.parser.HTMLParser):
    """Collects text and attributes, and checks that tags are closed in order."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def job(factors: Factors, forecast_document: dict[str, Any], prediction_document: dict[str, Any]) -> Job:
    return Job(
        factors=msgspec.to_builtins(factors),
        forecast=forecast_document,
        prediction=prediction_document,
        intensity_g_per_kwh=factors.intensity.figure.value,
        pue=1.2,
        lost_gpu=(1, 1, 6),
    )


@pytest.fixture
def summary(job: Job, tmp_path: Path) -> AuditSummary:
    job.write(tmp_path / "run")
    return summarise(tmp_path / "run")


def test_three_files_are_written_and_the_json_is_the_whole_summary(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    written = write_audit(tmp_path)
    assert [path.name for path in (written.html, written.json, written.text)] == [
        "report.html",
        "report.json",
        "summary.txt",
    ]
    assert msgspec.json.decode(written.json.read_bytes(), type=AuditSummary) == msgspec.json.decode(
        msgspec.json.encode(written.summary), type=AuditSummary
    )
    assert written.text.read_text() == render_text(written.summary)
    assert not list(tmp_path.glob(".*"))


def test_second_audit_replaces_the_first(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "run")
    write_audit(tmp_path / "run", tmp_path / "out")
    (tmp_path / "run" / "node-1.attempt-1.jsonl").unlink()
    write_audit(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "summary.txt"]
    assert not (tmp_path / "run" / "report.html").exists()


def test_place_that_cannot_be_written_is_one_readable_error(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "run")
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(
        CarbonPluginError, match="report cannot be written: File exists; choose another place with --out"
    ):
        write_audit(tmp_path / "run", tmp_path / "blocked")


def test_page_is_well_formed_and_refers_to_nothing_outside(summary: AuditSummary) -> None:
    markup = render_html(summary)
    page = Page(markup)
    assert page.open == []
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "xlink:href", "action"), (name, value)
        if name == "href":
            assert value.startswith(("#", "https://")), value
    style = re.search(r"<style>(.*?)</style>", markup, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_page_shows_what_a_stranger_asks_for(summary: AuditSummary) -> None:
    text = Page(render_html(summary)).text
    for expected in (
        "4 of 4 GPUs were measured",
        "measured",
        "modelled",
        "absent",
        "The network was not metered and is in no total.",
        "GPU is lost",
        "planned tp 2, detected tp 1",
        "Uptime" if summary.factors is None else summary.factors.pue.source,
        "40 steps that had been done before",
        "spec drift",
        "no closing record: the writer was killed, the end was cut off, or the run goes on",
        "As far as it can be checked.",
        "FSDP2 device mesh",
    ):
        assert expected in text, expected
    assert summary.factors is not None
    assert summary.factors.intensity.figure.source.replace(" ", "") in text.replace(" ", "")


def test_only_the_scripts_of_the_page_may_run(summary: AuditSummary) -> None:
    markup = render_html(summary)
    allowed = re.search(r"script-src ([^;]+);", html.unescape(markup))
    scripts = re.findall(r"<script>(.*?)</script>", markup, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert allowed is not None
    assert allowed[1] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert len(hashes) == 2


def test_every_marked_number_of_the_page_is_that_of_the_json(summary: AuditSummary) -> None:
    document = msgspec.json.decode(render_json(summary))
    found = re.findall(r'<data value="([^"]+)" data-field="([^"]+)">([^<]+)</data>', render_html(summary))
    fields = {field for _, field, _ in found}
    assert {"footprint.total_kg.value", "footprint.operational_kg.value", "energy.energy_j"} <= fields
    assert len(fields) > 20
    for raw, field, _ in found:
        assert float(raw) == value_at(document, field), field


def test_every_chart_and_every_known_figure_tells_how_it_is_known(summary: AuditSummary) -> None:
    markup = render_html(summary)
    figures = re.findall(r"<figure.*?</figure>", markup, re.DOTALL)
    tiles = markup.split('<p class="lead">')[0].split('<div class="tile">')[1:]
    assert len(figures) >= 9
    assert len(tiles) == 6
    for shown in (*figures, *tiles):
        assert "How do you know?" in shown
    assert all(re.search(r'data-source="[^"]+"', figure) for figure in figures)


def test_first_screen_says_total_range_split_place_and_work(summary: AuditSummary) -> None:
    shown = first_screen.total_of(summary)
    assert summary.footprint is not None
    total = summary.footprint.total_kg
    assert shown.low_percent < shown.value_percent < shown.high_percent < 100
    assert shown.value_percent / shown.high_percent == pytest.approx(total.value / total.high)
    assert sum(part.percent for part in shown.split) == pytest.approx(100)
    tiles = {tile.what: tile for tile in first_screen.tiles(summary)}
    assert tiles["Place"].much == "France"
    assert tiles["A million tokens"].much == wording.carbon(total.value / summary.progress.tokens * 1e6)
    assert tiles["Machines"].much == "4 GPUs"
    assert "forecast of" in tiles["Result against forecast"].more


def value_at(document: Any, field: str) -> Any:
    for name in field.split("."):
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def test_charts_cover_power_steps_energy_phases_forecast_and_drivers(summary: AuditSummary) -> None:
    charts = charts_of(summary)
    assert set(charts) == {"power", "doing", "gpus", "steps", "emissions", "phases", "forecast", "drivers", "devices"}
    assert "predicted, p10 to p90" in charts["steps"].wide
    for one in charts.values():
        assert all(svg.startswith("<svg") and svg.endswith("</svg>") for svg in (one.wide, one.narrow))
        assert one.rows
        assert all(len(row) == len(one.headings) for row in one.rows)


def test_same_run_draws_the_same_charts(summary: AuditSummary) -> None:
    assert charts_of(summary) == charts_of(summary)


def test_names_of_the_user_are_text_and_not_markup(job: Job, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script> $\\frac{1}{0}$ & more'
    records = job.records("a" * 32, 0, 0, Attempt(0, 6), 0.0)
    job.write(tmp_path)
    (tmp_path / "run.json").write_bytes(
        msgspec.json.encode({"version": 1, "run_id": "a" * 32, "created_unix_s": 0.0, "name": evil, "programme": evil})
    )
    summary = summarise(tmp_path)
    devices = [
        msgspec.structs.replace(one, hostname=evil, identity=msgspec.structs.replace(one.identity, name=evil))
        for one in summary.devices
    ]
    events = [msgspec.structs.replace(event, message=evil) for event in summary.events]
    markup = render_html(msgspec.structs.replace(summary, devices=devices, events=events))
    assert records
    assert markup.count("<script>") == 2  # those of the page
    assert "alert" not in "".join(re.findall(r"<script>(.*?)</script>", markup, re.DOTALL))
    assert evil in Page(markup).text


def test_tampered_run_is_called_so_at_the_top(job: Job, tmp_path: Path) -> None:
    first = job.write(tmp_path)[0]
    first.write_bytes(first.read_bytes().replace(b'"duration_s":10.0', b'"duration_s":10.1', 1))
    written = write_audit(tmp_path)
    text = Page(written.html.read_text()).text
    assert "These numbers should not be relied on: the ledger has problems." in text
    assert text.index("should not be relied on") < text.index("Where the energy went")
    assert "NOT VERIFIED" in written.text.read_text()


def test_run_without_a_site_has_a_report_without_carbon(job: Job, tmp_path: Path) -> None:
    job.factors, job.intensity_g_per_kwh, job.pue = {}, None, None
    job.write(tmp_path)
    written = write_audit(tmp_path)
    text = Page(written.html.read_text()).text
    assert "a grid intensity is never guessed" in text
    assert "CO2e" not in written.text.read_text()
    assert "drivers" not in charts_of(written.summary)


@pytest.mark.parametrize("windows", [0, 1])
def test_shortest_run_has_a_report(job: Job, tmp_path: Path, windows: int) -> None:
    job.attempts, job.nodes, job.gpus = [Attempt(0, windows)], 1, 1
    job.write(tmp_path)
    written = write_audit(tmp_path)
    assert "power" in charts_of(written.summary)
    assert "1 of 1 GPU" in Page(written.html.read_text()).text


def test_ledger_with_a_manifest_only_has_a_report(job: Job, tmp_path: Path) -> None:
    (path, *others) = job.write(tmp_path)
    for other in others:
        other.unlink()
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    written = write_audit(tmp_path)
    assert charts_of(written.summary) == {}
    assert "0 of 4 GPUs" in Page(written.html.read_text()).text


def test_cpu_run_does_not_speak_of_gpus_that_it_never_had(job: Job, tmp_path: Path) -> None:
    job.nodes, job.gpus, job.attempts, job.lost_gpu = 1, 0, [Attempt(0, 6)], None
    job.write(tmp_path)
    text = Page(write_audit(tmp_path).html.read_text()).text
    assert "no GPU" in text
    assert "GPUs could not be read" not in text


def test_long_run_has_a_page_of_the_same_size(job: Job, tmp_path: Path) -> None:
    job.nodes = 1
    job.attempts = [Attempt(0, 3000)]
    job.write(tmp_path)
    written = write_audit(tmp_path)
    assert len(written.summary.series.steps.at_s) <= 480
    assert written.html.stat().st_size < 700_000


def test_many_events_and_devices_are_counted_and_not_all_listed(summary: AuditSummary) -> None:
    crowded = msgspec.structs.replace(
        summary,
        devices=summary.devices * 20,
        events=summary.events * 500,
        event_counts={"layout_difference": 5000},
    )
    text = Page(render_html(crowded)).text
    assert "56 more devices in report.json" in text
    assert "4,800 more events" in text


def test_text_summary_says_the_same_in_few_lines(summary: AuditSummary) -> None:
    text = render_text(summary)
    assert len(text.splitlines()) < 30
    assert "step time: measured" in text
    assert "forecast of operational carbon was off by: spec drift" in text
    assert ", grid and PUE " in text
    assert "ledger: unsealed, 4 files: complete and consistent" in text


def test_hardware_that_nobody_knows_has_unknown_embodied_carbon_and_not_zero(factors: Factors, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(factors, embodied_kg={})
    Job(factors=msgspec.to_builtins(bare), intensity_g_per_kwh=41.4, pue=1.2).write(tmp_path / "run")
    summary = summarise(tmp_path / "run")
    text, page = render_text(summary), Page(render_html(summary)).text

    assert re.search(r"embodied carbon +unknown", text)
    assert "The manufacture of accelerators and hosts is in no total" in text
    assert "what the manufacture of the hardware adds is unknown" in page
    assert "adds 0" not in page
    assert "the manufacture of the hardware is not known and not included" in paper_paragraph(summary)
    assert reason_of(summary, "footprint.embodied_kg").how.startswith("unknown")
    with pytest.raises(CarbonPluginError, match="GHG: run simulated has no embodied carbon of accelerators and hosts"):
        ghg_report(summary, GhgInputs(organisational_boundary="cloud"))


def test_ranges_of_rungs_and_of_their_sum_are_of_one_sampling(summary: AuditSummary) -> None:
    sampled = summary.footprint.energy_j["it"]
    shown = phrases.energy_span(summary.energy)

    assert shown == wording.energy_range(sampled)
    assert shown in render_text(summary)
