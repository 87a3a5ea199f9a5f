"""`carbon-plugin programme`: add up the footprint of a released model over all runs of its programme."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option
from carbon_plugin.cli.terminal import echo_json

if TYPE_CHECKING:
    from carbon_plugin.audit.programme import Programme


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


def _print(result: Programme) -> None:
    from rich.console import Console
    from rich.table import Table

    from carbon_plugin.cli.printing import print_table
    from carbon_plugin.show import wording

    out = Console(highlight=False)
    table = Table(title=f"programme {result.name}", title_justify="left", box=None, padding=(0, 1))
    for heading in ("role", "runs", "device time", "energy of machines", "operational", "embodied", "total", "share"):
        table.add_column(heading, justify="left" if heading == "role" else "right")

    def carbon(kilograms: float | None) -> str:
        return "–" if kilograms is None else wording.carbon(kilograms)

    for role in result.roles:
        table.add_row(
            role.role,
            str(role.runs),
            wording.device_time(role.device_s),
            wording.energy(role.energy_j),
            carbon(role.operational_kg),
            carbon(role.embodied_kg),
            carbon(role.total_kg),
            wording.percent(role.share),
        )
    table.add_section()
    table.add_row(
        "all",
        str(len(result.runs)),
        wording.device_time(result.device_s),
        wording.energy(result.energy_j),
        *(carbon(figure.value if figure else None) for figure in (result.operational_kg, result.embodied_kg)),
        carbon(result.total_kg.value if result.total_kg else None),
        "",
    )
    print_table(out, table)
    if result.facility_j is not None:
        out.print(f"energy with the facility around the machines: {wording.energy(result.facility_j)}")
    if result.counts is not None:
        out.print(f"operational carbon: {result.counts} emissions of the grids, location-based")
    if result.total_kg is not None:
        out.print(f"total {wording.carbon(result.total_kg.value)} ({wording.carbon_range(result.total_kg)})")
    share = wording.percent(result.development_share)
    out.print(f"development (all but the final runs): {share} of the {result.shares_of}, as all shares are")
    for warning in result.warnings:
        out.print(f"note: {warning}", markup=False)
