"""What the pages with generated tables share: a table in Markdown, and putting it between the markers of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return one table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *lines])


def replace_marked(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between the markers of each part of a page."""
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")
