"""Print `carbon-plugin validate --carbon`: published energy and carbon beside what is predicted."""

from __future__ import annotations

from collections.abc import Sequence

from carbon_plugin.cli.terminal import echo_json
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.run.carbon import (
    CarbonRow,
    Compared,
    RangeCoverage,
    carbon_rows,
    coverage,
)

HEADINGS = (
    "run", "counts", "MWh published", "real run (p10 to p90)", "ratio", "best case", "hours", "tCO2e", "real run",
    "ratio",
)  # fmt: skip
LLMCARBON = "LLMCarbon"
MEASURED = "energy measured, or power measured times hours"
CIRCULAR = "circular: the published energy is hours times a stated power, so only hours and arithmetic are tested"


def validate_carbon(*, as_json: bool) -> None:
    """Print both tables and how many published values lie in the predicted ranges, or print all rows as JSON."""

    rows = carbon_rows()
    if as_json:
        document = {"runs": rows, "coverage": coverage(rows)}
        echo_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)

    def show(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
        for heading in headings:
            # A long name is folded, because two names that are cut short may look the same.
            left = heading in ("run", "counts")
            table.add_column(heading, justify="left" if left else "right", overflow="fold")
        for line in lines:
            table.add_row(*line)
        out.print(table)

    show(MEASURED, (*HEADINGS, LLMCARBON), lines_of(rows, circular=False))
    show(CIRCULAR, (*HEADINGS, LLMCARBON), lines_of(rows, circular=True))
    out.print(
        "[dim]ratio: predicted over published; best case: the same of the best case of the layout; hours: device-hours "
        "of the real run over published ones. Nothing is fitted to these rows but the factor of real runs, to their "
        "hours; layouts are searched, and the fastest counts.[/]"
    )
    for line in coverage_lines(coverage(rows)):
        out.print(line)
    skipped = [row for row in rows if row.skipped]
    out.print(f"{len(skipped)} of {len(rows)} rows have no prediction:")
    for row in skipped:
        out.print(f"  {row.id}: {row.skipped}", markup=False)


def coverage_lines(found: Sequence[RangeCoverage]) -> list[str]:
    """Return sentences that say how many published values lie in the range of a real run."""
    names = {"device_hours": "device-hours", "energy_mwh": "energy", "carbon_t": "carbon"}
    return [
        f"{names[item.quantity]}: the 80 % range of a real run holds {percent(item.inside, 0)} of {item.rows} "
        "published "
        f"values, {percent(item.blind_inside, 0)} where the factor saw nothing of the source"
        for item in found
    ]


def lines_of(rows: Sequence[CarbonRow], *, circular: bool) -> list[tuple[str, ...]]:
    """Return the cells of one table, under `HEADINGS` and the column of LLMCarbon. A row without published energy and
    carbon or without a prediction is left out unless LLMCarbon has one."""
    return [
        _line(row)
        for row in rows
        if row.circular == circular and (row.energy_mwh or row.carbon_t or row.llmcarbon_t is not None)
    ]


def _line(row: CarbonRow) -> tuple[str, ...]:
    energy, carbon, other = row.energy_mwh, row.carbon_t, row.llmcarbon_t
    published_t = wording.plain(row.published_carbon_t) if row.published_carbon_t else "–"
    return (
        row.id,
        (row.energy_counts or "–").replace("_", " x "),
        wording.plain(energy.published) if energy else "–",
        _with_range(energy) if energy else "–",
        _ratio(energy),
        f"{energy.best_case_ratio:.2f}" if energy and energy.best_case_ratio else "–",
        _ratio(row.device_hours),
        published_t,
        wording.number(carbon.predicted.value) if carbon else "–",
        _ratio(carbon),
        f"{wording.plain(other)} ({row.llmcarbon_ratio:.2f})" if other and row.llmcarbon_ratio else "",
    )


def _with_range(item: Compared) -> str:
    low, value, high = (
        wording.number(part) for part in (item.predicted.low, item.predicted.value, item.predicted.high)
    )
    return f"{value} ({low} to {high})"


def _ratio(item: Compared | None) -> str:
    return f"{item.ratio:.2f}" if item else "–"
