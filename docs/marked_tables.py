"""What the pages with generated parts share: tables and paragraphs in Markdown, put between the markers of a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return one table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *lines])


def wrapped(text: str) -> str:
    """Return a paragraph in lines of at most 120 characters, of which none begins with a percent sign."""
    joined = re.sub(r"(?<=\d) (?=%)", "\u00a0", text)
    return textwrap.fill(joined, 120, break_long_words=False, break_on_hyphens=False).replace("\u00a0", " ")


def replace_marked(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between the markers of each part of a page."""
    page.write_text(replaced(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def replaced(text: str, parts: Mapping[str, str]) -> str:
    """Return a page in which this stands between the markers of each part."""
    for name, content in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text
