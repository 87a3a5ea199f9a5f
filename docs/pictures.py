"""Write pictures of the pages with a real Chromium: the report of the demo in light, dark, on a phone and on paper, and
pages of simulated runs from one window on one GPU to 2,048 nodes, of a comparison and of a fleet.

Usage: `python docs/pictures.py [report.html]`, by default of the newest run of `make demo`. The README shows two of
them, which lie in docs/pictures; the others are written to build/pictures, to be looked at. For each page one line
says its size, how long the browser took to open it with its charts drawn, and how many sheets of A4 it prints on.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fleet_generator import Shape, write_fleet  # noqa: E402
from carbon_plugin.audit.report.comparison import render_comparison  # noqa: E402
from carbon_plugin.audit.report.write import WrittenAudit, write_audit  # noqa: E402
from carbon_plugin.audit.result import AuditSummary  # noqa: E402
from carbon_plugin.audit.summary import summarise  # noqa: E402
from carbon_plugin.fleet.ingest import ingest  # noqa: E402
from carbon_plugin.fleet.page.page import render as render_fleet  # noqa: E402
from carbon_plugin.fleet.report import Asked, report  # noqa: E402
from carbon_plugin.footprint.run_factors import resolve_factors  # noqa: E402
from carbon_plugin.spec.numbers.figure import Figure  # noqa: E402
from carbon_plugin.spec.site import Site  # noqa: E402
from tests.ledger.builder import Attempt, Job  # noqa: E402

PICTURES, LOOKED_AT = ROOT / "docs" / "pictures", ROOT / "build" / "pictures"
WIDE, PHONE, SHEET = {"width": 1100, "height": 760}, {"width": 375, "height": 812}, {"width": 760, "height": 1075}
SHOTS = {
    "report-light.png": (WIDE, "light", "screen", "h1"),
    "report-dark.png": (WIDE, "dark", "screen", "h1"),
    "report-charts.png": (WIDE, "light", "screen", "#time"),
    "report-phone.png": (PHONE, "light", "screen", "h1"),
    "report-paper.png": (SHEET, "light", "print", "h1"),
}
"""Name of the picture: size of the window, scheme, medium, and the element at its top."""

LOOKS = {
    "light": (WIDE, "light", "screen"),
    "dark": (WIDE, "dark", "screen"),
    "phone": (PHONE, "light", "screen"),
}
"""Looks in which each whole page is shown; on paper it is written as a PDF."""
FLEET_RUNS = 400
DAY_S = 86_400.0


def simulated_jobs() -> dict[str, Job]:
    """Return jobs from the smallest to the largest, in France with a stated manufacture of the hardware."""
    factors = resolve_factors(Site(zone="FRA", pue=1.2), None)
    kg = {scope: Figure(150.0, 120.0, 270.0, "kgCO2e", "assumed", "stated") for scope in ("device", "host", "network")}
    known: dict[str, Any] = {
        "factors": msgspec.to_builtins(msgspec.structs.replace(factors, embodied_kg=kg)),
        "intensity_g_per_kwh": 41.4,
        "pue": 1.2,
    }
    return {
        "small": Job(**known, nodes=1, gpus=1, attempts=[Attempt(0, 1)]),
        "large": Job(**known, nodes=16, gpus=8, attempts=[Attempt(0, 90, closed=False), Attempt(1500, 120, 600.0)]),
        "no-site": Job(factors={}, intensity_g_per_kwh=None, pue=None),
        "90-days": Job(
            **known,
            nodes=2,
            gpus=8,
            window_s=600.0,
            attempts=[Attempt(0, 6000, closed=False), Attempt(7_000_000, 4400, 2 * DAY_S)],
            peak=(0, 1500, 1.7),
            series=lambda unix_s: 38.0 + 14.0 * abs((unix_s % DAY_S) / DAY_S - 0.55),
        ),
        "2048-nodes": Job(**known, nodes=2048, gpus=8, attempts=[Attempt(0, 6)]),
    }


def pages_below(folder: Path, demo: AuditSummary) -> dict[str, Path]:
    """Write the simulated runs with their reports, a comparison of two with the demo, and a fleet; return each page by
    its name."""
    audits: dict[str, WrittenAudit] = {}
    for name, job in simulated_jobs().items():
        job.write(folder / name)
        audits[name] = write_audit(folder / name)
    pages = {name: audit.html for name, audit in audits.items()}
    pages["compare"] = folder / "compare.html"
    together = [demo, *(audits[name].summary for name in ("large", "no-site"))]
    pages["compare"].write_text(render_comparison(together), encoding="utf-8")
    write_fleet(folder / "runs", FLEET_RUNS, Shape(windows=40))
    ingest([str(folder / "runs")], str(folder / "store"))
    accounts = report(str(folder / "store"), Asked(by=("team", "programme"), boundary="cloud", factors="current"))
    pages["fleet"] = folder / "fleet.html"
    pages["fleet"].write_text(render_fleet(accounts), encoding="utf-8")
    return pages


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("report", nargs="?", type=Path, help="a report.html; default: the newest run of the demo")
    report_of_demo = arguments.parse_args().report or newest()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise SystemExit("no Chromium is installed here; expected chromium or google-chrome on the path")
    PICTURES.mkdir(exist_ok=True)
    LOOKED_AT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, (size, scheme, media, top) in SHOTS.items():
            write(browser, report_of_demo, PICTURES / name, size, scheme, media, top=top)
        summary = summarise(report_of_demo.parent)
        for name, page in {"demo": report_of_demo, **pages_below(Path(folder), summary)}.items():
            for look, (size, scheme, media) in LOOKS.items():
                write(browser, page, LOOKED_AT / f"{name}-{look}.png", size, scheme, media, whole=True)
            opened_ms, sheets = print_page(browser, page, LOOKED_AT / f"{name}-paper.pdf")
            kilobytes = page.stat().st_size / 1e3
            sys.stdout.write(f"{name}: {kilobytes:.0f} kB, opens in {opened_ms:.0f} ms, {sheets} sheets of A4\n")
        browser.close()


def newest() -> Path:
    """Return the report of the newest run of the demo."""
    found = sorted((ROOT / "runs" / "demo").glob("*/report.html"))
    if not found:
        raise SystemExit("runs/demo holds no report; run `make demo`, or name a report.html")
    return found[-1]


def write(
    browser: Any,
    report: Path,
    picture: Path,
    size: dict[str, int],
    scheme: str,
    media: str,
    top: str = "h1",
    whole: bool = False,
) -> None:
    """Write one picture of the page: all of it, or from the element `top` down as much as the window shows."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    page.goto(report.resolve().as_uri())
    if top != "h1":
        page.evaluate(f"document.querySelector({top!r}).scrollIntoView()")
    page.screenshot(path=picture, full_page=whole)
    page.close()


def print_page(browser: Any, report: Path, pdf: Path) -> tuple[float, int]:
    """Print a page to a PDF. Return how long it took to open, ms, until its script had drawn the charts, and the number
    of sheets."""
    page = browser.new_page(viewport=WIDE)
    page.goto(report.resolve().as_uri())
    opened_ms: float = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")
    printed = page.pdf(path=pdf, format="A4", print_background=True)
    page.close()
    return opened_ms, len(re.findall(rb"/Type\s*/Page\b", printed))


if __name__ == "__main__":
    main()
