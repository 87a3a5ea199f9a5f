"""Print the time of one step term by term, and the memory of a device."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from carbon_plugin.cli.printing import print_line, print_table
from carbon_plugin.plan.forecast import Forecast
from carbon_plugin.predict.result import MemoryPrediction
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent, quantity
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import FLOP_RATE_UNITS, GIB, STEP_TIME_UNITS

HALF = 0.5
ALMOST_SURE = 0.99
"""The largest probability that is printed. The residuals of a dozen sources make nothing certain."""
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
FEW_TERMS, LEAST_TERM = 5, 0.01
"""Without `verbose` at most so many terms are named, none of them with a smaller share of the step."""


def print_step(out: Console, forecast: Forecast, verbose: bool) -> None:
    """Print the time of a step with its largest terms. `verbose` prints all of them."""
    prediction = forecast.prediction
    total, kind = prediction.step_time_s.value, forecast.spec.cluster.accelerator.kind
    size, unit = fitting_unit(total, STEP_TIME_UNITS)
    device = kind.upper() if kind != "gpu" else "GPU"
    counted = f"{prediction.attention_convention} attention, " if verbose else ""
    peak = f"{counted}{prediction.peak_dtype} peak {quantity(prediction.peak_flops, FLOP_RATE_UNITS, 4)}"
    rate, power = number(prediction.tokens_per_s_per_device), number(prediction.gpu_power_w.value)
    again = f", HFU {percent(prediction.hfu, 1)}" if verbose or prediction.hfu > prediction.mfu else ""
    print_line(
        out,
        "one step",
        f"{span(prediction.step_time_s.scaled(1 / size))} {unit}; MFU {percent(prediction.mfu, 1)}{again} "
        f"[dim]({peak})[/]; "
        f"{rate} {samples_of(forecast)}/s and {power} W a {device}",
    )
    ranked = sorted(prediction.breakdown_s.items(), key=lambda item: -item[1])
    if not verbose:
        named = [f"{TERMS.get(name, name)} {percent(s / total, 0)}" for name, s in ranked if s >= LEAST_TERM * total]
        print_line(out, "", f"[dim]{', '.join(named[:FEW_TERMS])}[/]")
        return
    table = _grid(28)
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, seconds in ranked:
        table.add_row(f"  {TERMS.get(name, name)}", f"{number(seconds / size, 4)} {unit}", percent(seconds / total, 1))
    print_table(out, table)
    out.print()


def print_memory(out: Console, forecast: Forecast, verbose: bool) -> None:
    """Print how full the memory of a device is, and whether the layout fits."""
    memory = forecast.prediction.memory
    fill = memory.total_bytes / memory.capacity_bytes
    largest = sorted(memory.parts_bytes.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {number(size / GIB)}" for name, size in largest[: None if verbose else FEW_TERMS])
    used = f"{number(memory.total_bytes / GIB)} of {number(memory.capacity_bytes / GIB)} GiB ({percent(fill, 0)})"
    print_line(out, "memory", f"{used} a device, {verdict(memory)}; [dim]{parts}[/]")
    out.print()


def verdict(memory: MemoryPrediction) -> str:
    """Return whether a layout fits and how likely, in marked-up words."""
    if memory.fit_probability is None:
        return "[green]fits[/]" if memory.fits else "[red]does not fit[/]"
    likely = memory.fit_probability if memory.fits else 1 - memory.fit_probability
    chance = f"with a probability of {percent(min(likely, ALMOST_SURE), 0)}"
    if not memory.fits:
        return f"[red]does not fit[/] {chance}"
    # What is predicted fits, and most runs hold more than that.
    return f"[green]fits[/] {chance}" if likely >= HALF else f"[yellow]may fit[/] {chance}"


def span(figure: Figure, digits: int = 3) -> str:
    """Return the central value of a figure with its p10 to p90 range as text."""
    return f"{number(figure.value, digits)} ({number(figure.low, digits)} to {number(figure.high, digits)})"


def samples_of(forecast: Forecast) -> str:
    """Return the word for what the model is trained on: samples for a counted model without a sequence length."""
    counted = isinstance(forecast.spec.model, CountedModel) and forecast.spec.model.seq_len is None
    return "samples" if counted else "tokens"


def _grid(*widths: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for width in widths:
        table.add_column(min_width=width)
    return table
