"""`carbon-plugin validate`: the predictor against published measurements, beside three baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carbon_plugin.errors import SpecError


def validate(
    records: Annotated[
        Path | None,
        typer.Option(help="Rows of your own (YAML in the published schema, or vTrain's CSV).", show_default=False),
    ] = None,
    carbon: Annotated[
        bool, typer.Option("--carbon", help="Published energy and carbon instead of step times.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Predict every published row and sum up the errors; fitted rows from constants that never saw their model."""
    if carbon:
        from carbon_plugin.cli.validate_carbon import validate_carbon

        if records is not None:
            raise SpecError(f"--records {records}: published carbon has rows of its own, expected no --records")
        validate_carbon(as_json=as_json)
        return
    import msgspec

    from carbon_plugin.calibrate import validate as validation

    result = validation.validate(records)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
        return
    _print(result)


def _print(result: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from carbon_plugin.calibrate.validate import Validation

    assert isinstance(result, Validation)  # the only caller passes one
    out = Console()
    table = Table(title="step time, error in % of measured", title_justify="left", box=None, padding=(0, 1))
    for heading in ("source", "n", "MAPE", "median", "p90", "worst", "bias", "|log|", "80 % covers"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    names = list(result.macro_baseline_mape)
    for name in names:
        table.add_column(name, justify="right", style="dim")
    for item in result.summary:
        table.add_row(
            item.source + ("" if item.left_out else " *"),
            str(item.n),
            f"[bold]{item.mape:.1f}[/]",
            f"{item.median:.1f}",
            f"{item.p90:.1f}",
            f"{item.worst:+.0f}",
            f"{item.bias:+.1f}",
            f"{item.abs_log_ratio:.3f}",
            f"{item.coverage:.0%}",
            *(f"{item.baseline_mape[name]:.0f}" for name in names),
        )
    table.add_section()
    blanks = [""] * 6
    macro = [f"{result.macro_baseline_mape[name]:.0f}" for name in names]
    table.add_row("mean over sources", "", f"[bold]{result.macro_mape:.1f}[/]", *blanks, *macro)
    out.print(table)
    out.print("[dim]Without *: constants that never saw a row of the model (leave one model out).[/]")
    out.print("[dim]*: shipped constants as they are; these rows were not fitted.[/]")
    for memory in result.memory:
        out.print(
            f"memory, {memory.source}: n {memory.n}, MAPE {memory.mape:.1f} %, worst {memory.worst:+.0f} %, "
            f"bias {memory.bias:+.1f} %"
        )
    skipped = [row for row in result.rows if row.skipped]
    if skipped:
        out.print(f"{len(skipped)} rows skipped; --json gives the reason of each")
