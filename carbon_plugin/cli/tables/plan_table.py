"""The forecast as a table that fits one screen: the numbers first, then what they rest on.

What is behind them (the step term by term, the ladder of energies, every assumption) is printed with `verbose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.cli.printing import print_line, print_numbers
from carbon_plugin.footprint.boundary import ladder
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Intensity
from carbon_plugin.plan.forecast import Forecast, layout_phrase
from carbon_plugin.plan.goodput import Expected
from carbon_plugin.plan.real_run import BestCase
from carbon_plugin.spec.amounts import Units, count, fitting_unit, number, plural
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.model import CountedModel, TransformerModel
from carbon_plugin.spec.training import TrainingPlan

ALMOST_SURE = 0.99
"""The largest probability that is printed: nothing is certain from residuals of a dozen sources."""
TERMS = {
    "matmul": "matrix products",
    "attention": "attention core",
    "scan": "scan of states (Mamba, gated delta)",
    "elementwise": "elementwise",
    "recompute": "recompute",
    "head": "output head",
    "tp": "tensor parallel",
    "cp": "context parallel",
    "ep": "expert parallel",
    "dp": "gradient exchange",
    "dp_shard": "FSDP traffic, exposed",
    "pp_bubble": "pipeline bubble",
    "pp_transfer": "pipeline transfers",
    "host": "waiting for the host",
    "optimizer": "optimizer",
    "offload": "optimizer on the host",
    "jitter": "waiting for the slowest rank",
    "framework": "framework factor",
}
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
GIB = 2**30
LEAST_SHARE = 0.02
"""Uncertain inputs below this share of the range are not worth a word."""

# Units by rising size; a row is printed in the largest that its central value reaches.
STEP_UNITS = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"))
TIME_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
ENERGY_UNITS = ((3.6e3, "Wh"), (3.6e6, "kWh"), (3.6e9, "MWh"), (3.6e12, "GWh"))
BYTE_UNITS = ((1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
WATER_UNITS = ((1.0, "L"), (1e3, "m3"))
CARBON_UNITS = ((1e-3, "gCO2e"), (1.0, "kgCO2e"), (1e3, "tCO2e"))

SMALLEST_SHARE = 0.0005
"""Of the run's time: parts below it are left out of the table."""
FEW_TERMS, LEAST_TERM = 5, 0.01
"""Terms of the step that are named without `verbose`, and the share of the step below which one is not worth a word."""
FEW_DRIVERS = 3
LEAST_FAILURES, LIKELY_FAILURES = 0.001, 0.1
"""Below the first nobody counts them, from the second on their interval says more."""
OPEN_CHOICES = (
    "cluster.",
    "training.seq_len",
    "training.global_batch_size",
    "training.precision",
    "training.optimizer",
    "layout.",
    "stack",
    "site.pue",
)
"""Assumptions that a user can best replace by a fact, by the beginning of their field: named without `verbose`."""


def print_forecast(forecast: Forecast, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print a forecast for a person; `verbose` adds what is behind the numbers."""
    out = console or Console()
    _head(out, forecast, verbose)
    _run(out, forecast, verbose)
    _goodput(out, forecast, verbose)
    _step(out, forecast, verbose)
    _memory(out, forecast, verbose)
    for warning in forecast.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}")
    if verbose:
        _assumptions(out, forecast)
    else:
        _choices(out, forecast.assumptions)


def span(figure: Figure, digits: int = 3) -> str:
    """Central value with its p10-p90 range."""
    return f"{number(figure.value, digits)} ({number(figure.low, digits)} to {number(figure.high, digits)})"


def best_case_phrase(best: BestCase) -> str:
    """Time, energy and carbon of the best case in one phrase."""
    figures = (
        (best.run_time_s, TIME_UNITS),
        (best.footprint.energy_j["facility"], ENERGY_UNITS),
        (best.footprint.total_kg, CARBON_UNITS),
    )
    amounts = []
    for figure, units in figures:
        size, unit = fitting_unit(figure.value, units)
        amounts.append(f"{number(figure.value / size)} {unit}")
    return f"best case {', '.join(amounts)}"


def _grid(*widths: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for width in widths:
        table.add_column(min_width=width)
    return table


def _head(out: Console, forecast: Forecast, verbose: bool) -> None:
    spec, cluster = forecast.spec, forecast.spec.cluster
    size = f"{count(spec.model.parameters)} parameters"
    if isinstance(spec.model, TransformerModel) and spec.model.moe is not None:
        size += f", {count(spec.model.active_parameters)} active"
    print_line(out, "model", f"{escape(spec.model.name)}, {size}{_notes(spec.model, verbose)}")
    capped = f", each capped at {cluster.power_cap_w:g} W" if cluster.power_cap_w is not None else ""
    print_line(
        out,
        "cluster",
        f"{cluster.nodes:,} x {cluster.node.name} with {cluster.devices_per_node} {cluster.accelerator.name} "
        f"({plural(cluster.devices, 'device')}{capped})",
    )
    print_line(out, "layout", f"{layout_phrase(forecast)} [dim]({escape(forecast.layout_source)})[/]")
    training = spec.training
    steps = plural(forecast.total_steps, "step")
    print_line(
        out,
        "training",
        f"{steps} of {_batch(forecast)}, {training.precision}, {_optimizer(training)}",
    )
    pue = f"PUE {number(forecast.factors.pue.value)}"
    print_line(out, "site", f"{_asked(forecast)}{_place(forecast.factors.intensity, verbose)}, {pue}")
    out.print()


def _batch(forecast: Forecast) -> str:
    training = forecast.spec.training
    if _samples(forecast) == "samples":
        return plural(training.global_batch_size, "sample")
    return f"{training.global_batch_size:,} x {training.seq_len:,} tokens"


def _samples(forecast: Forecast) -> str:
    """What the model is trained on: a sample of a counted model that has no length is no token."""
    counted = isinstance(forecast.spec.model, CountedModel) and forecast.spec.model.seq_len is None
    return "samples" if counted else "tokens"


def _notes(model: TransformerModel | CountedModel, verbose: bool) -> str:
    """What a reader of the model's counts should know; with `verbose` also where the model comes from."""
    remarks = model.remarks if isinstance(model, TransformerModel) else ()
    said = "; ".join(
        [model.source, *(remark for remark in remarks if remark not in model.source)] if verbose else remarks
    )
    return f" [dim]({escape(said)})[/]" if said else ""


def _asked(forecast: Forecast) -> str:
    """The cloud region that was asked for, before the name of its place."""
    zone, found = forecast.spec.site.zone or "", forecast.factors.intensity
    other = ":" in zone and found.granularity == "annual" and found.zone.casefold() != zone.casefold()
    return f"{escape(zone)}, " if other else ""


def _place(intensity: Intensity, verbose: bool) -> str:
    """The intensity in force with its range, its year and what it counts."""
    figure, basis = intensity.figure, intensity.basis
    year = f" {intensity.year}" if intensity.year is not None else ""
    ends = f"{number(figure.low)} to {number(figure.high)}; " if figure.low < figure.high else ""
    counted = describe_basis(basis) if verbose or basis is None else basis.scope
    value = f"{number(figure.value)} gCO2e/kWh [dim]({ends}{intensity.granularity}{year}, {counted})[/]"
    return f"{escape(intensity.zone_name)} {value}"


def _optimizer(training: TrainingPlan) -> str:
    """The optimizer, with what of its states is unusual."""
    narrow = f" with {training.optimizer_state_dtype} states" if training.optimizer_state_dtype != "fp32" else ""
    return f"{training.optimizer}{narrow}{' on the host' if training.optimizer_offload else ''}"


def _run(out: Console, forecast: Forecast, verbose: bool) -> None:
    footprint, best = forecast.footprint, forecast.best_case
    table = Table(box=None, padding=(0, 2 if best is None else 1, 0, 0))
    table.add_column("a real run" if best is not None else "the run")
    for heading in ("central", "p10", "p90"):
        table.add_column(heading, justify="right")
    table.add_column("")
    if best is not None:
        table.add_column("best case", justify="right")

    def row(name: str, figure: Figure, units: Units, at_best: Figure | None = None) -> None:
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
        if verbose or total.rung in ("gpu", "facility"):
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
    print_numbers(out, table)
    wide = footprint.interval_95.get("total_kg")
    if verbose and wide is not None:
        size, unit = fitting_unit(footprint.total_kg.value, CARBON_UNITS)
        out.print(f"  95 % interval of total carbon: {number(wide[0] / size)} to {number(wide[1] / size)} {unit}")
    ranked = [f"{driver.scope} {driver.share:.0%}" for driver in forecast.drivers if driver.share >= LEAST_SHARE]
    if ranked:
        said = "what the range comes from" if verbose else "the range of total carbon comes most from"
        out.print(f"  {said}: {escape(', '.join(ranked if verbose else ranked[:FEW_DRIVERS]))}")
    factor = forecast.goodput.overrun if forecast.goodput is not None else None
    if factor is not None:
        ends = f"{number(factor.value)} ({number(factor.low)} to {number(factor.high)})"
        out.print(f"  a real run takes {ends} times the best case; from {escape(factor.source)}")
    out.print()


def _wasted(forecast: Forecast, row: Callable[[str, Figure, Units], None]) -> None:
    if forecast.wasted is None:
        return
    # A stated overhead may hold evaluation, which is no waste.
    modelled = forecast.goodput is not None and forecast.goodput.expected is not None
    lost = "wasted" if modelled else "outside the steps"
    row(f"energy {lost} (facility)", forecast.wasted.energy_j["facility"], ENERGY_UNITS)
    row(f"carbon {lost}", forecast.wasted.total_kg, CARBON_UNITS)


def _goodput(out: Console, forecast: Forecast, verbose: bool) -> None:
    goodput = forecast.goodput
    if goodput is None:
        return
    parts = [f"{PARTS[part]} {share:.1%}" for part, share in goodput.shares.items() if share >= SMALLEST_SHARE]
    said = [f"{goodput.useful_share:.1%}", *([", ".join(parts)] if verbose else [])]
    if goodput.expected is not None:
        said.append(_failures(goodput.expected))
        said.append(_checkpoints(goodput.expected, forecast.prediction.step_time_s.value, verbose))
    print_line(out, "goodput", "; ".join(said))


def _failures(expected: Expected) -> str:
    if expected.failures < LEAST_FAILURES:
        return "a failure is unlikely"
    if expected.failures < LIKELY_FAILURES:
        return f"a failure is unlikely ({number(expected.failures, 1)} expected)"
    return f"{number(expected.failures, 2)} failures expected, one every {_time(expected.mtbf_s)}"


def _time(seconds: float) -> str:
    """A time to two digits: 17 days, 1 day, 3.1 h."""
    size, unit = fitting_unit(seconds, TIME_UNITS, 2)
    text = number(seconds / size, 2)
    return f"{text} {unit.removesuffix('s') if text == '1' and unit == 'days' else unit}"


def _checkpoints(expected: Expected, step_s: float, verbose: bool) -> str:
    size, unit = fitting_unit(expected.checkpoint_bytes, BYTE_UNITS)
    written = f"a checkpoint of {number(expected.checkpoint_bytes / size)} {unit}"
    interval = f"every {_time(expected.checkpoint_every_steps * step_s)}"
    if not verbose:
        return f"{written} {interval}"
    steps = f"({plural(expected.checkpoint_every_steps, 'step')})"
    return f"{written} {interval} {steps} stops training for {number(expected.checkpoint_pause_s, 2)} s"


def _step(out: Console, forecast: Forecast, verbose: bool) -> None:
    prediction = forecast.prediction
    total, kind = prediction.step_time_s.value, forecast.spec.cluster.accelerator.kind
    size, unit = fitting_unit(total, STEP_UNITS)
    device = kind.upper() if kind != "gpu" else "GPU"
    counted = f"{prediction.attention_convention} attention, " if verbose else ""
    peak = f"{counted}{prediction.peak_dtype} peak {number(prediction.peak_flops / 1e12, 4)} TFLOP/s"
    rate, power = number(prediction.tokens_per_s_per_device), number(prediction.gpu_power_w.value)
    again = f", HFU {prediction.hfu:.1%}" if verbose or prediction.hfu > prediction.mfu else ""
    print_line(
        out,
        "one step",
        f"{span(prediction.step_time_s.scaled(1 / size))} {unit}; MFU {prediction.mfu:.1%}{again} [dim]({peak})[/]; "
        f"{rate} {_samples(forecast)}/s and {power} W a {device}",
    )
    ranked = sorted(prediction.breakdown_s.items(), key=lambda item: -item[1])
    if not verbose:
        named = [f"{TERMS.get(name, name)} {s / total:.0%}" for name, s in ranked if s >= LEAST_TERM * total]
        print_line(out, "", f"[dim]{', '.join(named[:FEW_TERMS])}[/]")
        return
    table = _grid(28)
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, seconds in ranked:
        table.add_row(f"  {TERMS.get(name, name)}", f"{number(seconds / size, 4)} {unit}", f"{seconds / total:.1%}")
    out.print(table)
    out.print()


def _memory(out: Console, forecast: Forecast, verbose: bool) -> None:
    memory = forecast.prediction.memory
    fill = memory.total_bytes / memory.capacity_bytes
    verdict = "[green]fits[/]" if memory.fits else "[red]does not fit[/]"
    if memory.fit_probability is not None:
        likely = memory.fit_probability if memory.fits else 1 - memory.fit_probability
        verdict += f" with a probability of {min(likely, ALMOST_SURE):.0%}"
    largest = sorted(memory.parts_bytes.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest[: None if verbose else FEW_TERMS])
    used = f"{memory.total_bytes / GIB:.1f} of {memory.capacity_bytes / GIB:.1f} GiB ({fill:.0%})"
    print_line(out, "memory", f"{used} a device, {verdict}; [dim]{parts}[/]")
    out.print()


def _choices(out: Console, assumptions: Sequence[Assumption]) -> None:
    """The assumptions that a user can best replace, in a word each, and how many there are."""
    if not assumptions:
        return
    named = [one for one in assumptions if one.field.startswith(OPEN_CHOICES)]
    words = list(dict.fromkeys(f"{_field(one.field)} {_short(one.value)}" for one in named))
    others = len(assumptions) - len(named)
    more = [plural(others, "other value")] if others else []
    said = " and ".join(filter(None, (", ".join(words), *more)))
    out.print(f"assumed, because nothing was given: {escape(said)} [dim](-v lists all with their sources)[/]")


def _field(field: str) -> str:
    """The last part of a field in words."""
    word = field.rpartition(".")[2]
    return "PUE" if word == "pue" else word.replace("_", " ")


def _short(value: str) -> str:
    """A value without its range and what is said beside it."""
    return value.partition(" (")[0].partition(",")[0] if not value[:1].isdigit() else value.partition(" (")[0]


def _assumptions(out: Console, forecast: Forecast) -> None:
    if not forecast.assumptions:
        return
    out.print("[bold]assumed, because nothing was given[/]")
    for item in forecast.assumptions:
        line = Padding(f"{escape(item.field)}: {escape(item.value)}  [dim]{escape(item.source)}[/]", (0, 0, 0, 2))
        out.print(line)
