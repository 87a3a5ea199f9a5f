"""Print the answer of `carbon-plugin scale`: one point in full, or the table of a range."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.cli.printing import print_numbers, print_table
from carbon_plugin.plan.scaling.cheapest import ScalePoint
from carbon_plugin.plan.scaling.laws import ScalingLaw
from carbon_plugin.plan.scaling.table import Sweep
from carbon_plugin.spec.numbers.amounts import count, fitting_unit, number, percent, plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import (
    CARBON_UNITS,
    ENERGY_UNITS,
    SECONDS_PER_DAY,
    STEP_TIME_UNITS,
    TIME_UNITS,
    Units,
)

HEADINGS = ("FLOP", "loss", "devices", "days", "MFU", "goodput", "p10", "central", "p90", "ideal")


def print_points(result: Sweep, law: ScalingLaw, deadline_days: float) -> None:
    """Print each point in full, then the assumptions."""
    out = Console()
    for point in result.points:
        _point(out, point, law, deadline_days)
        out.print()
    out.print("[bold]assumed, because nothing was given[/]")
    for item in result.assumptions:
        line = f"{escape(item.field)}: {escape(item.value)}  [dim]{escape(item.source)}[/]"
        print_table(out, Padding(line, (0, 0, 0, 2)))


def _point(out: Console, point: ScalePoint, law: ScalingLaw, deadline_days: float) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("law", f"{law.name}: {law.source}")
    table.add_row(
        "target",
        f"{point.compute_flop:.3g} FLOP, loss {point.loss:.3f} ({point.loss_low:.3f} to {point.loss_high:.3f})",
    )
    active = f", {count(point.active_parameters)} active" if point.active_parameters != point.parameters else ""
    table.add_row("model", f"[bold]{count(point.parameters)}[/] parameters{active}, width x depth {point.model}")
    critical = sorted((item.critical_batch, law) for law, item in point.by_batch_law.items())
    laws = ", ".join(f"{count(batch)} ({law})" for batch, law in critical)
    table.add_row("tokens", f"{count(point.tokens)}, {count(point.batch)} a step; critical batch {laws}")
    table.add_row("cluster", f"{point.devices:,} {point.accelerator}")
    table.add_row("layout", point.layout)
    table.add_row(
        "step",
        f"{_spread(point.step_time_s, STEP_TIME_UNITS)}; MFU {percent(point.mfu, 1)}, goodput "
        f"{percent(point.goodput, 1)}",
    )
    figures = (
        ("time", point.time_s, TIME_UNITS),
        ("energy", point.facility_energy_j, ENERGY_UNITS),
        ("operational", point.operational_kg, CARBON_UNITS),
        ("embodied", point.embodied_kg, CARBON_UNITS),
        ("carbon", point.total_kg, CARBON_UNITS),
    )
    for name, figure, units in figures:
        place = {CARBON_UNITS: f" in {point.zone}", ENERGY_UNITS: " of the facility"}.get(units, "")
        table.add_row(name, _spread(figure, units) + place)
    days = number(point.best_case_time_s / SECONDS_PER_DAY)
    size, unit = fitting_unit(point.best_case_kg, CARBON_UNITS)
    carbon = f"{number(point.best_case_kg / size)} {unit}"
    said = "the step above at its goodput; time, energy and carbon above are of a real run"
    table.add_row("best case", f"{days} days, {carbon}: {said}")
    size, unit = fitting_unit(point.ideal_kg, CARBON_UNITS)
    table.add_row("ideal", f"{number(point.ideal_kg / size)} {unit} at peak FLOP/s with nothing lost")
    print_table(out, table)
    if not point.meets_deadline:
        late = f"no cluster that was tried trains this in {deadline_days:g} days; the fastest is shown"
        out.print(f"[yellow]warning:[/] {late}")
    if point.extrapolated:
        out.print(f"[yellow]extrapolated:[/] {'; '.join(point.extrapolated)}")


def _spread(figure: Figure, units: Units) -> str:
    """Return a figure with its unit and its p10 to p90 range, for instance "6.9 s (4.2 to 11)"."""
    size, unit = fitting_unit(figure.value, units)
    low, value, high = (number(end / size) for end in (figure.low, figure.value, figure.high))
    return f"[bold]{value}[/] {unit} ({low} to {high})"


def print_range(result: Sweep, deadline_days: float) -> None:
    """Print the table of the first zone, the exponents, and the embodied share of every zone."""
    out = Console()
    first_zone = result.points[0].zone
    tables: dict[str, Table] = {}
    for point in result.points:
        if point.zone != first_zone:
            continue
        title = f"[bold]{point.accelerator}[/]: carbon in {first_zone}, tCO2e"
        if point.accelerator not in tables:
            tables[point.accelerator] = Table(title=title, title_justify="left", box=None, padding=(0, 1))
            for heading in HEADINGS:
                tables[point.accelerator].add_column(heading, justify="right")
        kilograms = (point.total_kg.low, point.total_kg.value, point.total_kg.high, point.ideal_kg)
        tables[point.accelerator].add_row(
            f"{point.compute_flop:.2g}".replace("e+", "e") + ("*" if point.extrapolated else " "),
            f"{point.loss:.3f}",
            f"{point.devices:,}",
            number(point.time_s.value / SECONDS_PER_DAY) + (" " if point.meets_deadline else "!"),
            percent(point.mfu, 0),
            percent(point.goodput, 0),
            *(count(kg / 1e3) for kg in kilograms),
        )
    for table in tables.values():
        print_numbers(out, table)
    out.print(f"[dim]*: extrapolated, beyond what was ever measured. !: misses {deadline_days:g} days.[/]")
    for item in result.exponents:
        if item.zone == first_zone:
            by_loss = f"reducible loss ^ -{item.real_loss:.2f} (ideal -{item.ideal_loss:.2f})"
            by_compute = f"compute ^ {item.real_compute:.3f} (last step {item.last_compute:.3f}, ideal 1)"
            out.print(
                f"{item.accelerator}: carbon goes as {by_loss}, {by_compute}; {plural(item.points, 'point')} in time"
            )
    shares: dict[str, list[float]] = {}
    for point in result.points:
        shares.setdefault(point.zone, []).append(point.embodied_share)
    parts = [f"{zone} {percent(min(values), 1)} to {percent(max(values), 1)}" for zone, values in shares.items()]
    out.print(f"embodied share of all carbon: {', '.join(parts)}")
