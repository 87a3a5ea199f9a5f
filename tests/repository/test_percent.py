"""Percent is written in one way, with a blank before its sign: by `spec.numbers.amounts.percent`, and in the docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORMAT = re.compile(r":[^{}\"']*\d%\}|\{[^{}]*\}%")
"""A share that a format turns into percent, or a number with the sign at its end."""
TIGHT = re.compile(r"\d%(?![0-9A-Fa-f]{2})")
"""A number with the sign at its end that is no part of an address."""
CODE = re.compile(r"<img [^>]*>|`[^`\n]*`")


def test_no_other_place_of_the_source_writes_a_percentage() -> None:
    folders = [ROOT / name for name in ("carbon_plugin", "integrations", "docs")]
    lines = [(path, line) for folder in folders for path in folder.rglob("*.py") for line in _lines(path)]

    assert len(lines) > 10_000
    assert [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if FORMAT.search(line)] == []


def test_percentages_of_the_docs_have_a_blank_before_their_sign() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    lines = [(path, line) for path in pages for line in _lines(path)]

    assert [f"{path.relative_to(ROOT)}: {line}" for path, line in lines if TIGHT.search(CODE.sub("", line))] == []


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
