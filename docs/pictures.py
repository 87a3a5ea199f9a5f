"""Write the pictures of a report that the README shows, with a real Chromium: light, dark, on a phone and on paper.

Usage: `python docs/pictures.py [report.html]`, by default of the newest run of `make demo`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDE, PHONE = {"width": 1100, "height": 760}, {"width": 375, "height": 812}
SHOTS = {
    "report-light.png": (WIDE, "light", "screen", "h1"),
    "report-dark.png": (WIDE, "dark", "screen", "h1"),
    "report-charts.png": (WIDE, "light", "screen", "#time"),
    "report-phone.png": (PHONE, "light", "screen", "h1"),
    "report-paper.png": ({"width": 760, "height": 1075}, "light", "print", "h1"),
}
"""Name of the picture: size of the window, scheme, medium, and the element at its top."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("report", nargs="?", type=Path, help="a report.html; default: the newest run of the demo")
    report = arguments.parse_args().report or newest()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise SystemExit("no Chromium is installed here; expected chromium or google-chrome on the path")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, shot in SHOTS.items():
            write(browser, report, PICTURES / name, *shot)
        browser.close()


def newest() -> Path:
    """Return the report of the newest run of the demo."""
    found = sorted((ROOT / "runs" / "demo").glob("*/report.html"))
    if not found:
        raise SystemExit("runs/demo holds no report; run `make demo`, or name a report.html")
    return found[-1]


def write(browser: Any, report: Path, picture: Path, size: dict[str, int], scheme: str, media: str, top: str) -> None:
    """Write one picture of the page from the element `top` down, as much as the window shows."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    page.goto(report.resolve().as_uri())
    if top != "h1":
        page.evaluate(f"document.querySelector({top!r}).scrollIntoView()")
    page.screenshot(path=picture)
    page.close()


if __name__ == "__main__":
    main()
