"""Whether a file may be written: a suffix that promises another format is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.errors import SpecError

OTHER_FORMATS = frozenset((".csv", ".html", ".jpeg", ".jpg", ".md", ".pdf", ".png", ".svg", ".xlsx", ".yaml", ".yml"))
"""Suffixes of files that promise another format than JSON."""


def check_format(output: Path | None, what: str, *, chart: bool = False) -> None:
    """Raise `SpecError` for a file whose suffix promises a format that we do not write: documents are JSON, a chart,
    where there is one, SVG."""
    if output is None or output.suffix.lower() not in OTHER_FORMATS or (chart and output.suffix == ".svg"):
        return
    formats = ".svg (a chart) or .json" if chart else ".json"
    raise SpecError(f"{output}: {what} is written as {formats}, not as {output.suffix}")
