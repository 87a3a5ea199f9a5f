"""Writes the tables of `carbon_validation.md` between its markers, from the shipped rows. Run by `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from carbon_plugin.calibrate.carbon import CarbonRow, carbon_rows
from carbon_plugin.cli.validate_carbon import HEADINGS, LLMCARBON, lines_of

PAGE = Path(__file__).with_name("carbon_validation.md")


def table(rows: list[CarbonRow], *, circular: bool) -> str:
    """One table in Markdown."""
    lines = [(*HEADINGS, LLMCARBON), ("---",) * (len(HEADINGS) + 1), *lines_of(rows, circular=circular)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def skipped(rows: list[CarbonRow]) -> str:
    """Rows without a prediction, with the reason."""
    return "\n".join(f"- `{row.id}`: {row.skipped}" for row in rows if row.skipped)


def assumed(rows: list[CarbonRow]) -> str:
    """What was assumed for each row, and the layout that was found."""
    return "\n".join(
        f"- `{row.id}`: {'; '.join(row.assumed) or 'nothing'}. Layout: {row.layout}" for row in rows if not row.skipped
    )


def write(page: Path = PAGE) -> None:
    """Replace what stands between the markers of each part."""
    rows = carbon_rows()
    parts = {
        "measured": table(rows, circular=False),
        "circular": table(rows, circular=True),
        "assumed": assumed(rows),
        "skipped": skipped(rows),
    }
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.stdout.write(f"wrote {PAGE}\n")
