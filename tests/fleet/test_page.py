"""The page of a fleet in a real browser: errors, overflow, contrast, hovering, and the page without JavaScript."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet_generator import Shape, write_run
from carbon_plugin.audit.report.write import write_audit
from carbon_plugin.fleet.ingest import ingest
from carbon_plugin.fleet.page.page import render
from carbon_plugin.fleet.report import Asked, report
from carbon_plugin.show import wording
from tests.browsing import NEEDS_BROWSER

pytestmark = NEEDS_BROWSER

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>' + "a-very-long-name-" * 14


@pytest.fixture(scope="module")
def written(runs: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a page with every section, and its accounts. One run has a report of its own, and one has a
    hostile name.
    """
    root = tmp_path_factory.mktemp("fleet")
    more = root / "runs"
    reported = write_run(more, 96, Shape(windows=120))
    write_audit(reported)
    hostile = write_run(more, 97, Shape(windows=120))
    identity = json.loads((hostile / "run.json").read_text()) | {"name": HOSTILE, "programme": HOSTILE}
    (hostile / "run.json").write_text(json.dumps(identity))
    (more / "foreign").mkdir()
    (more / "foreign" / "node-0.attempt-0.jsonl").write_text("no ledger\n")
    ingest([str(runs), str(more)], str(root / "store"))
    accounts = report(str(root / "store"), Asked(by=("team", "programme"), boundary="colo", factors="current"))
    page = root / "fleet.html"
    page.write_text(render(accounts), encoding="utf-8")
    return page, accounts


def test_the_page_fits_every_width_and_complains_about_nothing(opened: Any, written: tuple[Path, Any]) -> None:
    page, complaints = opened(written[0])
    for width_px in (375, 768, 1440):
        page.set_viewport_size({"width": width_px, "height": 900})
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert complaints == []
    assert len(written[0].read_bytes()) < 700_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_every_control_is_named(opened: Any, written: tuple[Path, Any], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened(written[0], scheme=scheme)

    found = Axe().run(page)

    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found.response["violations"]] == []


def test_months_are_read_off_by_keys_with_the_numbers_of_the_accounts(opened: Any, written: tuple[Path, Any]) -> None:
    page, _ = opened(written[0])
    over = page.locator('figure[data-live="trend"] .u-over')
    over.focus()
    over.press("Home")
    over.press("ArrowRight")

    said = page.locator('figure[data-live="trend"] .said').inner_text()

    second = written[1].months[1]
    assert said.startswith("Aug 2025 month: ")
    told = float(said.split("operational ")[1].split()[0])
    assert told in [pytest.approx(second.location_kg * scale, rel=1e-5) for scale in (1.0, 1e3)]


def test_a_bar_tells_its_number_at_the_pointer(opened: Any, written: tuple[Path, Any]) -> None:
    page, _ = opened(written[0])
    bar = page.locator("#regions figure .wide-chart .tip").first
    bar.hover()

    told = page.locator("#tip").inner_text()

    largest = max(written[1].regions, key=lambda line: line.total_kg)
    assert told.startswith(f"{largest.group['region']}, operational: ")
    assert wording.carbon(largest.location_kg).split()[0] in told


def test_runs_link_to_their_own_reports_and_others_say_how_to_make_one(opened: Any, written: tuple[Path, Any]) -> None:
    page, _ = opened(written[0])

    links = page.locator("#runs a").evaluate_all("all => all.map(one => one.href)")

    assert len(links) == 1
    assert links[0].startswith("file:///")
    assert links[0].endswith("/run-000096/report.html")
    assert page.locator("#runs td .mono").first.inner_text().startswith("carbon-plugin audit ")


def test_a_hostile_name_stays_text(opened: Any, written: tuple[Path, Any]) -> None:
    page, complaints = opened(written[0])

    assert page.locator("#runs th", has_text='<script>alert("x")').count() == 1
    assert page.locator("img").count() == 0
    assert complaints == []


def test_the_page_says_everything_without_javascript(opened: Any, written: tuple[Path, Any]) -> None:
    page, _ = opened(written[0], scripts=False)

    assert page.locator('figure[data-live="trend"] .still svg').first.is_visible()
    for heading in ("Month by month", "Lines of the inventory", "What brought nothing new"):
        assert page.get_by_role("heading", name=heading).is_visible()
    assert page.get_by_text("in no total, or not with the newest state").first.is_visible()
