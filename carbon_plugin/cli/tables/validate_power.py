"""Print `carbon-plugin validate --power`: measured power beside the prediction from the spec of the job."""

from __future__ import annotations

from carbon_plugin.cli.terminal import echo_json
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.validate.hardware.power import PowerError, PowerRow, PowerValidation, validate_power

HEADINGS = (
    "published row",
    "power of",
    "W measured",
    "W predicted (p10 to p90)",
    "predicted / measured",
    "the same, other sources' mean error removed",
)
SCOPES = {"gpu": "one accelerator", "node": "one node", "system": "one chip with its share of host and network"}


def print_power(*, as_json: bool) -> None:
    """Print the tables, or the whole result as JSON."""

    result = validate_power()
    if as_json:
        echo_json(result)
        return
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    table = Table(title="Power during training, measured and predicted", title_justify="left", box=None, padding=(0, 1))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right", overflow="fold")
    for line in power_lines(result):
        table.add_row(*line)
    out.print(table)
    for error in result.errors:
        out.print(error_line(error))
    out.print(cap_line(result), markup=False)
    skipped = [row for row in result.rows if row.skipped]
    out.print(f"{len(skipped)} published rows state too little to be predicted:")
    for row in skipped:
        out.print(f"  {row.id}: {row.skipped}", markup=False)


def power_lines(result: PowerValidation) -> list[tuple[str, ...]]:
    """Return the cells of every predicted row, under `HEADINGS`."""
    return [_line(row) for row in result.rows if row.predicted is not None]


def error_line(error: PowerError) -> str:
    """Return a sentence with the error of one scope."""
    many = "" if error.sources == 1 else "s"
    return (
        f"Predictions for {SCOPES[error.scope]} are off by {error.mape:.1f} % on average over {error.sources} "
        f"source{many} ({error.rows} row{'' if error.rows == 1 else 's'}), and by {error.left_out_mape:.1f} % after "
        f"the mean error of the other sources is removed."
    )


def cap_line(result: PowerValidation) -> str:
    """Return a sentence that says how well the law of power caps predicts time and power under a limit."""
    times, powers = [row.time_mape for row in result.caps], [row.power_mape for row in result.caps]
    cards = len({row.origin for row in result.caps})
    return (
        f"In {len(times)} published sweeps of the power limit on {cards} cards, the predicted slowdown under a limit "
        f"is off by {sum(times) / len(times):.1f} % on average, and the predicted power by "
        f"{sum(powers) / len(powers):.1f} %."
    )


def _line(row: PowerRow) -> tuple[str, ...]:
    predicted, measured, ratio, left_out = row.predicted, row.measured, row.ratio, row.left_out_ratio
    assert predicted is not None  # only predicted rows have a line
    low, value, high = (number(part) for part in (predicted.low, predicted.value, predicted.high))
    return (
        row.id,
        SCOPES[row.scope] + (", as a ratio of two runs" if row.unit == "1" else ""),
        number(measured or 0.0, 4),
        f"{value} ({low} to {high})",
        f"{ratio:.2f}",
        f"{left_out:.2f}",
    )
