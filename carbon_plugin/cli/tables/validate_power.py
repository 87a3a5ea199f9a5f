"""Print `carbon-plugin validate --power`: measured power beside the prediction from the spec of the job."""

from __future__ import annotations

from carbon_plugin.cli.terminal import echo_json
from carbon_plugin.spec.amounts import number
from carbon_plugin.validate.power import PowerError, PowerRow, PowerValidation, validate_power

HEADINGS = ("measured", "of", "W measured", "W predicted (p10 to p90)", "ratio", "source left out")


def print_power(*, as_json: bool) -> None:
    """Print the tables, or the whole result as JSON."""

    result = validate_power()
    if as_json:
        echo_json(result)
        return
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    table = Table(title="power during training", title_justify="left", box=None, padding=(0, 1))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right", overflow="fold")
    for line in power_lines(result):
        table.add_row(*line)
    out.print(table)
    for error in result.errors:
        out.print(error_line(error))
    out.print(cap_line(result), markup=False)
    skipped = [row for row in result.rows if row.skipped]
    out.print(f"{len(skipped)} rows have no prediction:")
    for row in skipped:
        out.print(f"  {row.id}: {row.skipped}", markup=False)


def power_lines(result: PowerValidation) -> list[tuple[str, ...]]:
    """Return the cells of every predicted row, under `HEADINGS`."""
    return [_line(row) for row in result.rows if row.predicted is not None]


def error_line(error: PowerError) -> str:
    """Return a sentence with the error of one scope."""
    return (
        f"{error.scope}: error {error.mape:.1f} % over {error.sources} sources ({error.rows} rows), "
        f"{error.left_out_mape:.1f} % with the mean error of the other sources taken out"
    )


def cap_line(result: PowerValidation) -> str:
    """Return a sentence that says how well the law of power caps predicts time and power under a limit."""
    times, powers = [row.time_mape for row in result.caps], [row.power_mape for row in result.caps]
    cards = len({row.origin for row in result.caps})
    return (
        f"power caps: {len(times)} sweeps on {cards} cards, time under a cap over that without one "
        f"{sum(times) / len(times):.1f} %, power {sum(powers) / len(powers):.1f} %"
    )


def _line(row: PowerRow) -> tuple[str, ...]:
    predicted, measured, ratio, left_out = row.predicted, row.measured, row.ratio, row.left_out_ratio
    assert predicted is not None  # only predicted rows have a line
    low, value, high = (number(part) for part in (predicted.low, predicted.value, predicted.high))
    return (
        row.id,
        f"{row.scope}, a ratio" if row.unit == "1" else row.scope,
        number(measured or 0.0, 4),
        f"{value} ({low} to {high})",
        f"{ratio:.2f}",
        f"{left_out:.2f}",
    )
