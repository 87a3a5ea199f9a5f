"""Refuse an output file whose suffix promises a format that is not written, before anything is computed."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.errors import SpecError

OTHER_FORMATS = frozenset((".csv", ".html", ".jpeg", ".jpg", ".md", ".pdf", ".png", ".svg", ".xlsx", ".yaml", ".yml"))
"""The suffixes that promise another format than JSON."""


def check_format(output: Path | None, what: str, *, chart: bool = False) -> None:
    """Raise `SpecError` if the suffix of a file promises a format that is not written.

    Documents are written as JSON, and charts, which only some commands have (`chart`), as SVG.
    """
    if output is None or output.suffix.lower() not in OTHER_FORMATS or (chart and output.suffix == ".svg"):
        return
    formats = ".svg (a chart) or .json" if chart else ".json"
    raise SpecError(f"{output}: {what} is written as {formats}, not as {output.suffix}")
