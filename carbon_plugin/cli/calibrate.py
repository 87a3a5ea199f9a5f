"""`carbon-plugin calibrate`: fit the shipped constants again from the published rows and compare."""

from __future__ import annotations

from typing import Annotated

import typer


def calibrate(
    reproduce_shipped: Annotated[
        bool, typer.Option("--reproduce-shipped", help="Refit from the published rows and compare to what is shipped.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Fit constants to measured rows; today the shipped ones, from the published rows."""
    import msgspec

    from carbon_plugin.calibrate.shipped import compare, refit
    from carbon_plugin.errors import SpecError

    if not reproduce_shipped:
        raise SpecError("calibrate: say what to fit; --reproduce-shipped refits the constants that we ship")
    constants = compare(*refit())
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(constants), indent=2).decode())
        return
    apart = 0
    for constant in constants:
        same = constant.shipped is not None and abs(constant.refitted / constant.shipped - 1) < 5e-4
        apart += not same
        shipped = "none" if constant.shipped is None else f"{constant.shipped:.4g}"
        typer.echo(f"{constant.name:56s} refitted {constant.refitted:<10.4g} shipped {shipped}{'' if same else '  <-'}")
    typer.echo(f"{len(constants)} constants, {apart} differ in the first 3 digits")
    if apart:
        raise typer.Exit(1)
