"""`carbon-plugin validate --carbon`: published energy and carbon beside what model, cluster and site alone predict."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from carbon_plugin.audit import wording
from carbon_plugin.calibrate.carbon import CarbonRow, Compared, carbon_rows

HEADINGS = ("run", "counts", "MWh published", "predicted (p10 to p90)", "ratio", "hours", "tCO2e", "predicted", "ratio")
LLMCARBON = "LLMCarbon"
MEASURED = "energy measured, or power measured times hours"
CIRCULAR = "circular: the published energy is hours times a stated power, so only hours and arithmetic are tested"


def validate_carbon(*, as_json: bool) -> None:
    """Print both tables, or all rows as JSON."""
    import msgspec

    rows = carbon_rows()
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    for circular, title in ((False, MEASURED), (True, CIRCULAR)):
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
        for heading in (*HEADINGS, LLMCARBON):
            table.add_column(heading, justify="left" if heading in ("run", "counts") else "right")
        for line in lines_of(rows, circular=circular):
            table.add_row(*line)
        out.print(table)
    out.print(
        "[dim]ratio: predicted over published. hours: device-hours, predicted over published. Nothing is fitted to "
        "these rows; layouts are searched, and the fastest counts.[/]"
    )
    skipped = [row for row in rows if row.skipped]
    out.print(f"{len(skipped)} of {len(rows)} rows have no prediction:")
    for row in skipped:
        out.print(f"  {row.id}: {row.skipped}", markup=False)


def lines_of(rows: Sequence[CarbonRow], *, circular: bool) -> list[tuple[str, ...]]:
    """Cells of one table under `HEADINGS` and LLMCarbon's column; rows without a prediction only where LLMCarbon has
    one."""
    return [
        _line(row) for row in rows if row.circular == circular and (row.skipped is None or row.llmcarbon_t is not None)
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
