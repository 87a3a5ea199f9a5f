"""Reads the code blocks of the pages of the documentation, so that tests can run what the pages show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        section: The title of the `##` section that it stands in.
        language: What stands behind the opening fence; empty for commands.
        code: Its lines.
    """

    section: str
    language: str
    code: str


def blocks_of(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page (a path from the top of the repository) that are in these languages, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    section, found = "", []
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        title, language, code = match.groups()
        if title is not None:
            section = title
        elif language in languages:
            found.append(Block(section, language, code))
    return found
