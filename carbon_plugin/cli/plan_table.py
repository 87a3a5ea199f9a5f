"""The forecast as a table that fits a terminal: the numbers first, then what they rest on."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.footprint.boundary import ladder
from carbon_plugin.footprint.grid import describe_basis
from carbon_plugin.plan.forecast import Forecast, layout_phrase
from carbon_plugin.plan.goodput import Expected
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.training import TrainingPlan

TERMS = {
    "matmul": "matrix products",
    "attention": "attention core",
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
    "overhead": "all other time, as stated",
}
GIB = 2**30
LEAST_SHARE = 0.02
"""Uncertain inputs below this share of the range are not worth a word."""

# Units by rising size; a row is printed in the largest that its central value reaches.
TIME_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
ENERGY_UNITS = ((3.6e3, "Wh"), (3.6e6, "kWh"), (3.6e9, "MWh"), (3.6e12, "GWh"))
BYTE_UNITS = ((1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
WATER_UNITS = ((1.0, "L"), (1e3, "m3"))
CARBON_UNITS = ((1e-3, "gCO2e"), (1.0, "kgCO2e"), (1e3, "tCO2e"))

WIDEST = 200
"""Columns that a table may take."""
SMALLEST_SHARE = 0.0005
"""Of the run's time: parts below it are left out of the table."""


def print_forecast(forecast: Forecast, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print a forecast for a person."""
    out = console or Console()
    _head(out, forecast)
    _run(out, forecast)
    _goodput(out, forecast)
    _step(out, forecast)
    _memory(out, forecast)
    for warning in forecast.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}")
    _assumptions(out, forecast)


def span(figure: Figure, digits: int = 3) -> str:
    """Central value with its p10-p90 range."""
    return f"{number(figure.value, digits)}  ({number(figure.low, digits)} to {number(figure.high, digits)})"


def number(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, with thousands separated and no exponent in everyday sizes."""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    return f"{float(text):,.0f}" if 1 <= abs(value) < 1e15 else text


def print_numbers(out: Console, table: Table) -> None:
    """Print a table of numbers whole: a narrow terminal may wrap its lines, but a number cut short is another one."""
    terminal = out.width
    out.width = max(terminal, out.measure(table, options=out.options.update(max_width=WIDEST)).maximum)
    try:
        out.print(table)
    finally:
        out.width = terminal


Units = tuple[tuple[float, str], ...]


def fitting_unit(value: float, units: Units) -> tuple[float, str]:
    """The largest unit that `value` reaches, else the smallest."""
    reached = [unit for unit in units if abs(value) >= unit[0]]
    return reached[-1] if reached else units[0]


def count(parameters: float) -> str:
    """A number of parameters in thousands, millions, billions or trillions."""
    size, unit = fitting_unit(parameters, ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " B"), (1e12, " T")))
    return f"{parameters / size:.3g}{unit}"


def _grid(*widths: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for width in widths:
        table.add_column(min_width=width)
    return table


def _head(out: Console, forecast: Forecast) -> None:
    spec, cluster = forecast.spec, forecast.spec.cluster
    table = _grid(12)
    name = spec.model.name
    size = f"{count(spec.model.parameters)} parameters"
    if isinstance(spec.model, TransformerModel) and spec.model.moe is not None:
        size += f", {count(spec.model.active_parameters)} active"
    table.add_row("model", f"[bold]{escape(name)}[/]  {size}")
    capped = f", each capped at {cluster.power_cap_w:g} W" if cluster.power_cap_w is not None else ""
    table.add_row(
        "cluster",
        f"{cluster.nodes} x {cluster.node.name} with {cluster.devices_per_node} {cluster.accelerator.name} "
        f"({cluster.devices} device{'s' * (cluster.devices > 1)}{capped})",
    )
    table.add_row("layout", f"{layout_phrase(forecast)}  [dim]({forecast.layout_source})[/]")
    training = spec.training
    table.add_row(
        "training",
        f"{forecast.total_steps:,} steps of {training.global_batch_size:,} x {training.seq_len:,} tokens, "
        f"{training.precision}, {_optimizer(training)}",
    )
    factors = forecast.factors
    table.add_row(
        "site",
        f"{escape(factors.intensity.zone_name)}: {number(factors.intensity.figure.value)} gCO2e/kWh "
        f"[dim]({factors.intensity.granularity}; {describe_basis(factors.intensity.basis)})[/], "
        f"PUE {number(factors.pue.value)}",
    )
    out.print(table)
    out.print()


def _optimizer(training: TrainingPlan) -> str:
    """The optimizer, with what of its states is unusual."""
    narrow = f" with {training.optimizer_state_dtype} states" if training.optimizer_state_dtype != "fp32" else ""
    return f"{training.optimizer}{narrow}{' on the host' if training.optimizer_offload else ''}"


def _run(out: Console, forecast: Forecast) -> None:
    footprint = forecast.footprint
    table = Table(title="the run", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for heading, justify in (("", "left"), ("central", "right"), ("p10", "right"), ("p90", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # rich wants the literal type

    def row(name: str, figure: Figure, units: Units) -> None:
        size, unit = fitting_unit(figure.value, units)
        table.add_row(name, *(number(value / size) for value in (figure.value, figure.low, figure.high)), unit)

    device = "GPUs" if forecast.spec.cluster.accelerator.kind == "gpu" else "devices"
    row("time", forecast.run_time_s, TIME_UNITS)
    row("device-hours", forecast.device_hours, ((1.0, "h"),))
    names = {"gpu": device, "node": "nodes", "it": "IT, without storage", "facility": "facility (with PUE)"}
    for total in ladder(footprint.energy_j):
        row(f"energy, {names[total.rung]}", total.energy, ENERGY_UNITS)
    row("operational carbon", footprint.operational_kg, CARBON_UNITS)
    if footprint.market is not None:
        row("  by contract (market-based)", footprint.market.operational_kg, CARBON_UNITS)
    row("embodied carbon", footprint.embodied_kg, CARBON_UNITS)
    row("total carbon", footprint.total_kg, CARBON_UNITS)
    for place, liters in footprint.water_l.items():
        row(f"water, {place}", liters, WATER_UNITS)
    if forecast.wasted is not None:
        # A stated overhead may hold evaluation, which is no waste.
        modelled = forecast.goodput is not None and forecast.goodput.expected is not None
        lost = "wasted" if modelled else "outside the steps"
        row(f"energy {lost} (facility)", forecast.wasted.energy_j["facility"], ENERGY_UNITS)
        row(f"carbon {lost}", forecast.wasted.total_kg, CARBON_UNITS)
    if forecast.cost_usd is not None:
        row("cost", forecast.cost_usd, ((1.0, "USD"),))
    print_numbers(out, table)
    wide = footprint.interval_95.get("total_kg")
    if wide is not None:
        size, unit = fitting_unit(footprint.total_kg.value, CARBON_UNITS)
        out.print(f"  95 % interval of total carbon: {number(wide[0] / size)} to {number(wide[1] / size)} {unit}")
    ranked = [
        f"{escape(driver.scope)} {driver.share:.0%}" for driver in forecast.drivers if driver.share >= LEAST_SHARE
    ]
    if ranked:
        out.print(f"  what the range comes from: {', '.join(ranked)}")
    out.print()


def _goodput(out: Console, forecast: Forecast) -> None:
    goodput = forecast.goodput
    if goodput is None:
        return
    parts = [f"{PARTS[part]} {share:.1%}" for part, share in goodput.shares.items() if share >= SMALLEST_SHARE]
    out.print(f"[bold]goodput[/]  {1 - goodput.wasted_s / goodput.run_time_s:.1%}   [dim]{', '.join(parts)}[/]")
    if goodput.expected is not None:
        checkpoints = _checkpoints(goodput.expected, forecast.prediction.step_time_s.value)
        out.print(f"  [dim]{_failures(goodput.expected)}; {checkpoints}[/]")
    out.print()


def _failures(expected: Expected) -> str:
    if expected.failures < 0.1:
        return f"a failure is unlikely ({number(expected.failures, 1)} expected)"
    size, unit = fitting_unit(expected.mtbf_s, TIME_UNITS)
    return f"{number(expected.failures, 2)} failures expected, one every {number(expected.mtbf_s / size, 2)} {unit}"


def _checkpoints(expected: Expected, step_s: float) -> str:
    size, unit = fitting_unit(expected.checkpoint_bytes, BYTE_UNITS)
    interval_s = expected.checkpoint_every_steps * step_s
    every, time_unit = fitting_unit(interval_s, TIME_UNITS)
    written = f"a checkpoint of {number(expected.checkpoint_bytes / size)} {unit}"
    interval = f"every {expected.checkpoint_every_steps:,} steps ({number(interval_s / every, 2)} {time_unit})"
    return f"{written} {interval} stops training for {number(expected.checkpoint_pause_s, 2)} s"


def _step(out: Console, forecast: Forecast) -> None:
    prediction = forecast.prediction
    total = prediction.step_time_s.value
    out.print(
        f"[bold]one step[/]  {span(prediction.step_time_s)} s   "
        f"MFU {prediction.mfu:.1%}, HFU {prediction.hfu:.1%} [dim]({prediction.attention_convention} attention, "
        f"{prediction.peak_dtype} peak {prediction.peak_flops / 1e12:.4g} TFLOP/s)[/]   "
        f"{number(prediction.tokens_per_s_per_device)} tokens/s/device   "
        f"{number(prediction.gpu_power_w.value)} W/device"
    )
    table = _grid(28)
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, seconds in sorted(prediction.breakdown_s.items(), key=lambda item: -item[1]):
        table.add_row(f"  {TERMS.get(name, name)}", f"{seconds:.4g} s", f"{seconds / total:.1%}")
    out.print(table)
    out.print()


def _memory(out: Console, forecast: Forecast) -> None:
    memory = forecast.prediction.memory
    verdict = "[green]fits[/]" if memory.fits else "[red]does not fit[/]"
    parts = ", ".join(
        f"{name} {size / GIB:.1f}" for name, size in sorted(memory.parts_bytes.items(), key=lambda item: -item[1])
    )
    out.print(
        f"[bold]memory[/]  {memory.total_bytes / GIB:.1f} of {memory.capacity_bytes / GIB:.1f} GiB a device, {verdict}"
    )
    out.print(f"  [dim]GiB: {parts}[/]")
    out.print()


def _assumptions(out: Console, forecast: Forecast) -> None:
    if not forecast.assumptions:
        return
    out.print("[bold]assumed, because nothing was given[/]")
    for item in forecast.assumptions:
        line = Padding(f"{escape(item.field)}: {escape(item.value)}  [dim]{escape(item.source)}[/]", (0, 0, 0, 2))
        out.print(line)
