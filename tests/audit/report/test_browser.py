"""The page in a real browser: errors, overflow, contrast, what hovering and keys tell, and pages without JavaScript."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

import carbon_plugin
from carbon_plugin.audit.report.comparison import render_comparison
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.report.write import render_json, write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.footprint.values import Factors
from tests.browsing import NEEDS_BROWSER, Opened
from tests.ledger.builder import Attempt, Job

pytestmark = NEEDS_BROWSER

WIDTHS = (375, 768, 1440)
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
LONG = "averylongname_" * 22  # 308 characters, without a place where a line could break
REVERSED = "\u202e"  # what follows it on a line is written from right to left


def daily_g_per_kwh(unix_s: float) -> float:
    """Return the intensity of a grid that is clean before noon and dirty after it."""
    return 40.0 if unix_s % 86400 < 43200 else 60.0


@dataclass(frozen=True)
class Written:
    """A report on disk and what it says."""

    path: Path
    summary: AuditSummary


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory,
    factors: Factors,
    forecast_document: dict[str, Any],
    prediction_document: dict[str, Any],
) -> dict[str, Written]:
    """Write reports of ordinary and of broken runs, and return them by name."""
    known = {"factors": msgspec.to_builtins(factors), "intensity_g_per_kwh": 41.4, "pue": 1.2}
    jobs = {
        "full": Job(**known, forecast=forecast_document, prediction=prediction_document, lost_gpu=(1, 1, 6)),
        "one window": Job(**known, nodes=1, gpus=1, attempts=[Attempt(0, 1)]),
        "no window": Job(**known, nodes=1, gpus=1, attempts=[Attempt(0, 0)]),
        "no site": Job(factors={}, intensity_g_per_kwh=None, pue=None),
        "no GPU": Job(**known, nodes=1, gpus=0, attempts=[Attempt(0, 6)]),
        "gaps": Job(**known, attempts=[Attempt(0, 6, closed=False), Attempt(100, 6, 5000.0), Attempt(200, 6, 90000.0)]),
        "hostile": Job(**known, nodes=1),
        "90 days": Job(
            **known,
            nodes=1,
            window_s=3600.0,
            attempts=[Attempt(0, 1773)],
            peak=(0, 900, 2.5),
            series=daily_g_per_kwh,
        ),
        "clock set back": Job(**known, attempts=[Attempt(0, 6, closed=False), Attempt(100, 6, -3600.0)]),
    }
    written = {}
    for name, job in jobs.items():
        directory = tmp_path_factory.mktemp("report")
        job.write(directory)
        if name == "hostile":
            _rename(directory)
        audit = write_audit(directory)
        written[name] = Written(audit.html, audit.summary)
    together = [written[name].summary for name in ("full", "hostile", "no site")]
    path = tmp_path_factory.mktemp("comparison") / "compare.html"
    path.write_text(render_comparison(together), encoding="utf-8")
    return written | {"comparison": Written(path, together[0])}


def _rename(directory: Path) -> None:
    """Give a run and its programme names that are hostile and too long."""
    identity = {
        "version": 1,
        "run_id": "a" * 32,
        "created_unix_s": 0.0,
        "name": HOSTILE + LONG,
        "programme": REVERSED + LONG,
    }
    (directory / "run.json").write_bytes(msgspec.json.encode(identity))


@pytest.fixture
def opened(opened: Callable[..., Opened]) -> Callable[..., Opened]:
    """Open a report."""
    return lambda report, *arguments, **settings: opened(report.path, *arguments, **settings)


CASES = (
    "full", "one window", "no window", "no site", "no GPU", "gaps", "hostile", "90 days", "clock set back", "comparison"
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_page_fits_every_width_and_complains_about_nothing(reports, opened, name):
    report = opened(reports[name])
    for width_px in WIDTHS:
        report.page.set_viewport_size({"width": width_px, "height": 900})
        report.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert report.page.evaluate("document.documentElement.scrollWidth") <= width_px
        assert report.page.evaluate(NARROWER_THAN_ITS_WORDS) == []
    assert report.complaints == []


NARROWER_THAN_ITS_WORDS = """
[...document.querySelectorAll("h1, .total, .much, .panel, .tile, .notice, p")]
  .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth).map(one => one.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one window", "comparison"])
def test_text_stands_out_from_its_ground_in_both_schemes(reports, opened, name, scheme):
    found = _violations(opened(reports[name], 1440, scheme).page, "{runOnly: ['color-contrast']}")
    assert found == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_breaks_no_rule_of_accessibility(reports, opened, scheme):
    page = opened(reports["full"], 1440, scheme).page
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert _violations(page, "{}") == []


def _violations(page: Any, options: str) -> list[Any]:
    axe = next(Path(importlib.util.find_spec("axe_playwright_python").origin).parent.rglob("axe.min.js"))
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run({options})")["violations"]
    return [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found]


def test_every_chart_over_time_is_drawn(reports, opened):
    page = opened(reports["full"]).page
    painted = page.evaluate(
        """[...document.querySelectorAll("figure[data-live]")].map(figure => {
          const canvas = figure.querySelector("canvas");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return [figure.dataset.live, new Set(new Uint32Array(pixels.buffer)).size];
        })"""
    )
    assert {name for name, _ in painted} == {"power", "doing", "gpus", "emissions", "steps"}
    assert all(colours > 10 for _, colours in painted), painted


def test_hovering_over_power_tells_the_number_of_the_json(reports, opened):
    report = opened(reports["full"])
    chart = report.page.locator("figure[data-live=power] .u-over")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    chart.hover(position={"x": 0.3 * box["width"], "y": box["height"] / 2})

    texts = report.page.locator("figure[data-live=power] .u-legend .u-value").all_inner_texts()
    names = report.page.locator("figure[data-live=power] .u-legend .u-label").all_inner_texts()
    told = dict(zip(names, texts, strict=True))

    assert "Source: GPUs: nvml (measured" in report.page.locator("figure[data-live=power] .said").inner_text()

    series = msgspec.json.decode(render_json(reports["full"].summary))["series"]
    at = round(float(told["minutes since the start"]) * 60 / series["width_s"])
    for name, rung in (("GPUs", "gpu"), ("hosts", "host")):
        watts = series["rung_energy_j"][rung][at] / series["width_s"]
        assert float(told[name].split()[0]) * {"W": 1, "kW": 1e3}[told[name].split()[1]] == pytest.approx(
            watts, rel=1e-5
        )


def test_hovering_over_the_hour_of_most_power_in_ninety_days_tells_that_power(reports, opened):
    report = opened(reports["90 days"])
    series = msgspec.json.decode(render_json(reports["90 days"].summary))["series"]
    peak_w = max(series["power_high_w"])
    at = series["power_high_w"].index(peak_w)
    mean_w = sum(bins[at] for bins in series["rung_energy_j"].values()) / series["width_s"]
    assert peak_w > 1.5 * mean_w

    chart = report.page.locator("figure[data-live=power] .u-over")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    end_s = reports["90 days"].summary.period.wall_s
    chart.hover(position={"x": (at + 0.2) * series["width_s"] / end_s * box["width"], "y": 20})
    said = report.page.locator("figure[data-live=power] .u-series", has_text="all machines").inner_text()

    found = re.search(r"([\d.]+) kW \([\d.]+ to ([\d.]+)\)", said)
    assert found is not None, said
    mean, high = found.groups()
    assert float(high) == pytest.approx(peak_w / 1e3, rel=1e-5)
    assert float(mean) == pytest.approx(mean_w / 1e3, rel=1e-5)
    assert report.page.locator("figure", has_text="The same run at another hour").count() == 1


def test_arrow_keys_read_a_chart_and_the_legend_hides_a_line(reports, opened):
    page = opened(reports["full"]).page
    chart = page.locator("figure[data-live=power] .u-over")
    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert re.match(r"0\.\d+ minutes since the start: GPUs [\d.]+ kW, hosts ", _said(page))

    page.locator("figure[data-live=power] .u-legend th[role=button]").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure[data-live=power] .u-legend th[aria-pressed=false]").count() == 1


def _said(page: Any) -> str:
    said: str = page.locator("figure[data-live=power] .said").inner_text()
    return said


def test_bar_tells_its_number_at_the_focus(reports, opened):
    page = opened(reports["full"]).page
    bar = page.locator(".wide-chart rect.tip:visible").first
    bar.focus()
    told, source = page.locator("#tip").inner_text().split("\n")
    assert told == bar.get_attribute("aria-label")
    assert source == "Source: " + page.locator("figure", has=bar).first.get_attribute("data-source")


@pytest.mark.parametrize("media", ["screen", "print"])
def test_page_without_scripts_and_on_paper_shows_drawings(reports, opened, media):
    page = opened(reports["full"], scripts=media == "print").page
    page.emulate_media(media=media)
    assert page.locator("figure .live:visible").count() == 0
    shown = page.locator("figure:visible")
    assert page.locator("figure svg:visible").count() == shown.count() >= 7


def test_small_run_prints_on_few_pages(reports, opened):
    printed = opened(reports["full"]).page.pdf(format="A4", print_background=True)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5


@pytest.mark.exhaustive
def test_page_of_two_thousand_nodes_fits_and_complains_about_nothing(reports, opened, tmp_path):
    summary = reports["full"].summary
    gpu = next(one for one in summary.devices if one.identity.rung == "gpu")
    devices = [
        msgspec.structs.replace(
            gpu,
            hostname=f"node{place // 8}",
            mean_power_w=400.0 + place % 13,
            identity=msgspec.structs.replace(gpu.identity, key=f"GPU-{place}"),
        )
        for place in range(16384)
    ]
    file = summary.verification.files[0]
    files = [msgspec.structs.replace(file, file=f"node-{node}.attempt-0.jsonl") for node in range(2048)]
    verification = msgspec.structs.replace(summary.verification, files=files)
    crowded = msgspec.structs.replace(summary, devices=devices, verification=verification)
    path = tmp_path / "report.html"
    path.write_text(render_html(crowded), encoding="utf-8")

    report = opened(Written(path, crowded))
    for width_px in WIDTHS:
        report.page.set_viewport_size({"width": width_px, "height": 900})
        assert report.page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert report.complaints == []
    assert "16,384 GPUs" in report.page.locator("figure", has_text="All GPUs").inner_text()
    assert path.stat().st_size < 6_000_000


def test_hostile_name_is_text(reports, opened):
    report = opened(reports["hostile"])
    assert report.page.locator("h1").inner_text() == HOSTILE + LONG
    assert report.complaints == []


def test_comparison_tells_the_numbers_of_each_run_on_one_scale(reports, opened):
    page = opened(reports["comparison"]).page
    row = page.locator("table.compared tr", has_text="energy of the machines")
    told = [float(value) for value in row.locator("data").evaluate_all("all => all.map(one => one.value)")]
    assert told == [reports[name].summary.energy.energy_j for name in ("full", "hostile", "no site")]

    widths = row.locator(".bar").evaluate_all("all => all.map(one => parseFloat(one.style.width))")
    assert widths == pytest.approx([100 * one / max(told) for one in told])
    assert "no carbon is stated" in page.locator(".notice").inner_text()


def test_notebook_shows_the_first_screen_in_a_frame(reports, browser):
    full = reports["full"]
    page = browser.new_page()
    page.set_content(f"<h1>cell</h1>{carbon_plugin.read_run(full.path.parent)._repr_html_()}")
    shown = page.frame_locator("iframe")

    total = shown.locator("data[data-field='footprint.total_kg.value']").first.get_attribute("value")
    assert float(total) == full.summary.footprint.total_kg.value
    assert shown.locator("h1").inner_text() == full.summary.run.name
    page.close()
