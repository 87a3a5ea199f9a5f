"""Write the figures of `beside_others.py` as a section of docs/benchmarks.md."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- written by benchmarks/beside_others.py -->", "<!-- end -->"
NAMES = {"codecarbon": "CodeCarbon", "zeus": "Zeus", "carbontracker": "CarbonTracker"}
AIMS = {
    "call, median": ("call_median_us", 1.5, "us"),
    "call, p99": ("call_p99_us", 10.0, "us"),
    "background": ("background_core_percent", 0.05, "% of a core"),
    "longest stall": ("longest_stall_ms", 0.5, "ms"),
    "import": ("import_cpu_s", 0.15, "s"),
}
"""What this package aims at, at most."""


def table(result: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown, each with its ratio to ours."""
    columns = {
        "call, median, us": "call_median_us",
        "call, p99, us": "call_p99_us",
        "background, % of a core": "background_core_percent",
        "longest stall, ms": "longest_stall_ms",
        "import, CPU s": "import_cpu_s",
        "start, CPU s": "start_cpu_s",
    }
    ours = result["least"]["carbon_plugin"]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in result["least"].items():
        if name == "without":
            continue
        ratios = {key: figures[key] / ours[key] for key in columns.values() if name != "carbon_plugin" and ours[key]}
        cells = [
            f"{_digits(figures[key])} (x {_digits(ratios[key])})" if key in ratios else _digits(figures[key])
            for key in columns.values()
        ]
        label = "this package" if name == "carbon_plugin" else f"{NAMES[name]} {result['versions'][name]}"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(result: dict[str, Any]) -> str:
    """Return the table with the sentences on how it was measured, in Markdown."""
    bare = result["least"]["without"]
    loads = " ".join(str(one) for one in result["load_at_the_start"])
    sentences = [
        f"Measured on {result['date']} on {result['machine']}, Python {result['python']}, at a load of {loads} (the "
        "means of 1, 5 and 15 minutes at the start). Other work on the machine adds to the figures.",
        f"A figure is the least of {result['rounds']} rounds of {result['seconds']:.0f} s; the longest stall is the "
        f"longest of all rounds, and {_digits(bare['longest_stall_ms'])} ms without any tracker. A call that does "
        f"nothing costs {_digits(bare['call_median_us'])} us there in the median and {_digits(bare['call_p99_us'])} us "
        "at p99, which is subtracted.",
    ]
    sentences.append(aims_sentence(result["least"]["carbon_plugin"]))
    sentences += [f"{NAMES[name]} did not run: `{why}`." for name, why in result["did_not_run"].items()]
    return "\n\n".join([table(result), *(textwrap.fill(one, 120, break_long_words=False) for one in sentences)])


def aims_sentence(ours: dict[str, float]) -> str:
    """Return which aims of this package the figures meet and which not."""
    said = [
        f"{name} at most {most:g} {unit} ({'met' if ours[key] <= most else f'**missed: {_digits(ours[key])}**'})"
        for name, (key, most, unit) in AIMS.items()
    ]
    return f"The aims of this package here: {'; '.join(said)}."


def write_page(result: dict[str, Any], page: Path) -> None:
    """Write the section into the page, between its two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{section(result)}\n\n{END}{after}", encoding="utf-8")


def _digits(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
