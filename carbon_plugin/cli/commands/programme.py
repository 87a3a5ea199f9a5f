"""`carbon-plugin programme`: add up the footprint of a released model over all runs of its programme."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option
from carbon_plugin.cli.terminal import echo_json

if TYPE_CHECKING:
    from carbon_plugin.audit.programme import Programme, RoleTotal


class Counted(StrEnum):
    """Says which emissions of the grids count."""

    LIFECYCLE = "lifecycle"
    DIRECT = "direct"


def programme(
    places: Annotated[list[Path], Argument("Run directories, or directories with runs below.", metavar="DIR...")],
    name: Annotated[str | None, Option("Which programme, where there are several.")] = None,
    counts: Annotated[
        Counted | None,
        Option("Emissions of the grids that count; by default those that all runs count, else lifecycle."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add up all runs of a released model by role. Each run counts once. The share of development is printed too."""

    from carbon_plugin.audit.programme import read_programme

    result = read_programme(places, name, counts.value if counts else None)
    if as_json:
        echo_json(result)
        return
    _print(result)


HEADINGS = ("role", "runs", "device time", "machines", "operational", "embodied", "total", "share")


def _sums(result: Programme | RoleTotal) -> list[str]:
    """Return the cells of energy and carbon, each with its range below it."""
    from carbon_plugin.show import wording

    carbon = (result.operational_kg, result.embodied_kg, result.total_kg)
    return [
        wording.energy_over_range(result.energy_j),
        *("–" if figure is None else wording.carbon_over_range(figure) for figure in carbon),
    ]


def _print(result: Programme) -> None:
    from rich.console import Console
    from rich.table import Table

    from carbon_plugin.cli.printing import print_table
    from carbon_plugin.show import wording

    out = Console(highlight=False)
    table = Table(title=f"programme {result.name}", title_justify="left", box=None, padding=(0, 1))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "role" else "right")

    for role in result.roles:
        table.add_row(
            role.role,
            str(role.runs),
            wording.device_time(role.device_s),
            *_sums(role),
            wording.percent(role.share),
        )
    table.add_section()
    table.add_row(
        "all",
        str(len(result.runs)),
        wording.device_time(result.device_s),
        *_sums(result),
        "",
    )
    print_table(out, table)
    out.print("below a value: its range from p10 to p90; machines: their energy")
    if result.facility_j is not None:
        facility = result.facility_j
        spread = wording.energy_range(facility)
        out.print(f"energy with the facility around the machines: {wording.energy(facility.value)} ({spread})")
    if result.counts is not None:
        out.print(f"operational carbon: {result.counts} emissions of the grids, location-based")
    share = wording.percent(result.development_share)
    out.print(f"development (all but the final runs): {share} of the {result.shares_of}, as all shares are")
    for warning in result.warnings:
        out.print(f"note: {warning}", markup=False)
