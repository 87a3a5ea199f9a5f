"""Open a page on disk in a real Chromium, and hear what it complains about or asks for."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PATIENCE_MS = 240_000
"""What takes longer hangs. A busy machine may take as long as half a minute, the usual limit, to start a browser."""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_BROWSER = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here (apt-get install chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("axe_playwright_python") is None,
        reason="playwright and axe are not installed (pip install axe-playwright-python)",
    ),
]
"""The marks of a test that has the fixture `browser` or `opened`."""


class Opened(NamedTuple):
    """A page in the browser, and what it complained about or asked for."""

    page: Any
    complaints: list[str]


def open_page(context: Any, path: Path) -> Opened:
    """Open a file in a context of the browser."""
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    return Opened(page, complaints)
