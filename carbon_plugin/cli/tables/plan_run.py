"""Print what a whole run takes: time, energy, carbon and cost with their ranges, and what is lost to failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.cli.printing import print_line, print_numbers, print_table, unbroken
from carbon_plugin.footprint.boundary import ladder
from carbon_plugin.plan.forecast import Forecast
from carbon_plugin.plan.goodput import ExpectedLosses
from carbon_plugin.plan.real_run import ON_OTHER_SOFTWARE, OVERRUNS, BestCase, RunClass, run_class
from carbon_plugin.predict.assumed import EXPERT_LOOP
from carbon_plugin.show.drawing import driver_name
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent, plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import BYTE_UNITS, CARBON_UNITS, ENERGY_UNITS, TIME_UNITS, WATER_UNITS, Units

PARTS = {
    "training": "training steps",
    "evaluation": "evaluation",
    "startup": "start-up",
    "checkpoint": "checkpoints",
    "redone": "redone work",
    "restart": "restarts",
    "overrun": "what real runs take beyond these",
    "overhead": "all other time, as stated",
}
LEAST_SHARE = 0.02
"""Uncertain inputs with a smaller share of the range are not named."""

SMALLEST_SHARE = 0.0005
"""Parts with a smaller share of the run's time are not named."""
LOOPED_EXPERTS = (
    "p90 allows for experts that a loop runs one after the other, as transformers did before version 5; a run spec "
    "with stack: {expert_loop: false} (grouped products) or true (a loop) narrows the range"
)
FEW_DRIVERS = 3
LEAST_FAILURES, LIKELY_FAILURES = 0.001, 0.1
"""Below the first number of failures none is printed, and from the second on the time between two is printed."""


def print_run(out: Console, forecast: Forecast, verbose: bool) -> None:
    """Print the figures of the run. `verbose` adds the energy of every rung, water and waste."""
    print_numbers(out, _figures(forecast, verbose))
    for sentence in _what_to_know(forecast, verbose):
        _below_the_table(out, sentence)
    out.print()


def _figures(forecast: Forecast, verbose: bool) -> Table:
    footprint, best = forecast.footprint, forecast.best_case
    table = Table(box=None, padding=(0, 2 if best is None else 1, 0, 0))
    table.add_column("a real run" if best is not None else "the run")
    for heading in ("central", "p10", "p90"):
        table.add_column(heading, justify="right")
    table.add_column("")
    if best is not None:
        table.add_column("best case", justify="right")

    def row(name: str, figure: Figure | None, units: Units, at_best: Figure | None = None) -> None:
        if figure is None:
            table.add_row(f"  {name}", "unknown")
            return
        size, unit = fitting_unit(figure.value, units)
        values = [number(value / size) for value in (figure.value, figure.low, figure.high)]
        table.add_row(f"  {name}", *values, unit, *([number(at_best.value / size)] if at_best is not None else []))

    device = "GPUs" if forecast.spec.cluster.accelerator.kind == "gpu" else "devices"
    least = best.footprint if best is not None else None
    row("time", forecast.run_time_s, TIME_UNITS, best.run_time_s if best else None)
    row("device-hours", forecast.device_hours, ((1.0, "h"),), best.device_hours if best else None)
    names = {"gpu": device, "node": "nodes", "it": "IT, without storage", "facility": "facility (with PUE)"}
    at_best = {total.rung: total.energy for total in ladder(least.energy_j)} if least else {}
    for total in ladder(footprint.energy_j):
        if verbose or total.rung in ("gpu", "it", "facility"):
            row(f"energy, {names[total.rung]}", total.energy, ENERGY_UNITS, at_best.get(total.rung))
    row("operational carbon", footprint.operational_kg, CARBON_UNITS, least.operational_kg if least else None)
    if footprint.market is not None:
        row("  by contract (market-based)", footprint.market.operational_kg, CARBON_UNITS)
    row("embodied carbon", footprint.embodied_kg, CARBON_UNITS, least.embodied_kg if least else None)
    row("total carbon", footprint.total_kg, CARBON_UNITS, least.total_kg if least else None)
    if forecast.cost_usd is not None:
        row("cost", forecast.cost_usd, ((1.0, "USD"),), best.cost_usd if best else None)
    if verbose:
        for place, liters in footprint.water_l.items():
            row(f"water, {place}", liters, WATER_UNITS)
        _wasted(forecast, row)
    return table


def _what_to_know(forecast: Forecast, verbose: bool) -> Iterator[str]:
    """Yield what the range of total carbon comes from, and what it allows for, in sentences."""
    footprint = forecast.footprint
    wide = footprint.interval_95.get("total_kg")
    if verbose and wide is not None:
        size, unit = fitting_unit(footprint.counted_kg.value, CARBON_UNITS)
        ends = f"{number(wide[0] / size)} to {number(wide[1] / size)} {unit}"
        yield f"95 % interval of total carbon: {ends}"
    ranked = [
        f"{driver_name(driver.scope)} {percent(driver.share, 0)}"
        for driver in forecast.drivers
        if driver.share >= LEAST_SHARE
    ]
    if ranked:
        said = "what the range comes from" if verbose else "the range of total carbon comes most from"
        yield f"{said}: {escape('; '.join(ranked if verbose else ranked[:FEW_DRIVERS]))}"
    factor = forecast.goodput.overrun if forecast.goodput is not None else None
    if factor is not None:
        yield _beyond_the_best_case(factor, run_class(forecast.spec))
    if any(item.field == EXPERT_LOOP for item in forecast.assumptions):
        yield LOOPED_EXPERTS


def _beyond_the_best_case(factor: Figure, kind: RunClass) -> str:
    """Return a sentence with the factor of a real run, and why it is another one on other software."""
    ends = f"{number(factor.value)} ({number(factor.low)} to {number(factor.high)})"
    other = number(OVERRUNS[ON_OTHER_SOFTWARE[kind]].central)
    software, apart = ("tuned", "ordinary software, whose best case is slower")
    if kind.endswith("ordinary"):
        software, apart = ("ordinary", "tuned software, whose best case is faster")
    return (
        f"a real run takes {ends} times the best case of {software} software ({other} times that of {apart}); from "
        f"{escape(factor.source)}"
    )


def _below_the_table(out: Console, text: str) -> None:
    """Print a sentence as far from the edge as the names of the table, in each of its lines."""
    print_table(out, Padding(unbroken(text), (0, 0, 0, 2)))


def _wasted(forecast: Forecast, row: Callable[[str, Figure | None, Units], None]) -> None:
    if forecast.wasted is None:
        return
    # A stated overhead may include evaluation, which is not wasted.
    modelled = forecast.goodput is not None and forecast.goodput.expected is not None
    lost = "wasted" if modelled else "outside the steps"
    row(f"energy {lost} (facility)", forecast.wasted.energy_j["facility"], ENERGY_UNITS)
    row(f"carbon {lost}", forecast.wasted.counted_kg, CARBON_UNITS)


def print_goodput(out: Console, forecast: Forecast, verbose: bool) -> None:
    """Print the useful share of the modelled time and the failures that are expected in it.

    Both belong to the best case where the run takes longer than what is modelled; the parts are those of the run.
    """
    goodput, at_best = forecast.goodput, forecast.best_case is not None
    if goodput is None:
        return
    useful = percent(goodput.useful_share, 1)
    said = [f"{'best case: ' if at_best else ''}training steps take {useful} of the time"]
    if goodput.expected is not None:
        failures = _failures(goodput.expected)
        said = [f"{said[0]}, {failures}"] if at_best else [*said, failures]
    if verbose:
        parts = [
            f"{PARTS[part]} {percent(share, 1)}" for part, share in goodput.shares.items() if share >= SMALLEST_SHARE
        ]
        said.append(f"{'the time of a real run: ' if at_best else ''}{', '.join(parts)}")
    if goodput.expected is not None:
        said.append(_checkpoints(goodput.expected, forecast.prediction.step_time_s.value, verbose))
    print_line(out, "goodput", "; ".join(said))


def _failures(expected: ExpectedLosses) -> str:
    if expected.failures < LEAST_FAILURES:
        return "a failure is unlikely"
    if expected.failures < LIKELY_FAILURES:
        return f"a failure is unlikely ({number(expected.failures, 1)} expected)"
    failures = number(expected.failures, 2)
    said = "1 failure is" if failures == "1" else f"{failures} failures are"
    return f"{said} expected, one every {_time(expected.mtbf_s)}"


def _time(seconds: float) -> str:
    """Return a time with two digits, for instance 17 days, 1 day or 3.1 h."""
    size, unit = fitting_unit(seconds, TIME_UNITS, 2)
    text = number(seconds / size, 2)
    return f"{text} {unit.removesuffix('s') if text == '1' and unit == 'days' else unit}"


def _checkpoints(expected: ExpectedLosses, step_s: float, verbose: bool) -> str:
    size, unit = fitting_unit(expected.checkpoint_bytes, BYTE_UNITS)
    written = f"a checkpoint of {number(expected.checkpoint_bytes / size)} {unit}"
    interval = f"every {_time(expected.checkpoint_every_steps * step_s)}"
    if not verbose:
        return f"{written} {interval}"
    steps = f"({plural(expected.checkpoint_every_steps, 'step')})"
    return f"{written} {interval} {steps} stops training for {number(expected.checkpoint_pause_s, 2)} s"


def best_case_phrase(best: BestCase) -> str:
    """Return time, energy and carbon of the best case in one phrase."""
    figures = (
        (best.run_time_s, TIME_UNITS),
        (best.footprint.energy_j["facility"], ENERGY_UNITS),
        (best.footprint.counted_kg, CARBON_UNITS),
    )
    amounts = []
    for figure, units in figures:
        size, unit = fitting_unit(figure.value, units)
        amounts.append(f"{number(figure.value / size)} {unit}")
    return f"best case {', '.join(amounts)}"
