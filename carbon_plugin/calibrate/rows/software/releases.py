"""Read when software was released from what a published row says of it."""

from __future__ import annotations

import re

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.spec.frameworks import framework_named

CURRENT = re.compile(r"\b20(2[5-9]|[3-9]\d)\b|arXiv (2[5-9]|[3-9]\d)\d\d\.")
"""Years of software, and of papers about it, from 2025 on."""
YEAR = re.compile(r"(?<![\w.])(20[12]\d)(?![\w.])")
ARXIV = re.compile(r"arXiv (\d\d)\d\d\.")


def release_of(text: str) -> tuple[int, int]:
    """Return year and month of a release such as 24.07, or (0, 0) where the text has none."""
    found = re.search(r"(\d\d)\.(\d\d)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def container_of(row: Fields) -> tuple[int, int]:
    """Return the container release that the row's framework names, or (0, 0) if it names none."""
    found = re.search(r"container (\d+)\.(\d+)", row.text("framework"))
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def date_of(row: Fields) -> tuple[str, ...]:
    """Return year and month of a release that the framework or the source of the row names, or nothing."""
    dates = (
        re.search(r"(?<![0-9a-f])(20\d\d)-?(0[1-9]|1[0-2])(?!\d)", row.text(name)) for name in ("framework", "source")
    )
    return next((date.groups() for date in dates if date is not None), ())


def year_of(row: Fields) -> int | None:
    """Return the year that the framework or the source of the row names, or None."""
    for name in ("framework", "source"):
        if (found := YEAR.search(row.text(name))) is not None:
            return int(found[1])
    paper = ARXIV.search(row.text("source"))
    return None if paper is None else 2000 + int(paper[1])


def of_today(row: Fields) -> bool:
    """Return whether the row names software and no release or date, so that it is that of a spec's `stack`."""
    return framework_named(row.text("framework")) is not None and not date_of(row)
