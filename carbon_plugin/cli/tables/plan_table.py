"""Print a forecast on one screen: first the question, then the numbers, then the assumptions.

`verbose` also prints all terms of the step, the energy of every rung and every assumption with its source.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from carbon_plugin.cli.printing import print_line, print_table
from carbon_plugin.cli.tables.plan_run import print_goodput, print_run
from carbon_plugin.cli.tables.plan_step import print_memory, print_step, samples_of
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Intensity
from carbon_plugin.plan.forecast import Forecast, layout_phrase
from carbon_plugin.spec.frameworks import STACK_OF_NAME
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.amounts import count, number, plural
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.training import TrainingPlan

OPEN_CHOICES = (
    "cluster.",
    "training.seq_len",
    "training.global_batch_size",
    "training.precision",
    "training.optimizer",
    "training.master_weights",
    "layout.",
    "stack",
    "site.pue",
)
"""The beginnings of the fields whose assumptions a user can best replace. Those are named without `verbose` too."""

USUAL = frozenset(
    (
        ("training.master_weights", "true"),
        ("training.optimizer_state_dtype", "fp32"),
        ("stack.autocast", "false"),
        ("stack.fused_optimizer", "false"),
        ("stack.grad_reduce_dtype", "bf16"),
        ("stack.grad_reduce_dtype", "fp32"),
    )
)
"""Values that are named with `verbose` alone, because most runs have them."""
LABELS = {"site.pue": "PUE", STACK_OF_NAME: "stack"}
"""Words for fields whose last part does not say what they are."""


def print_forecast(forecast: Forecast, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print a forecast for a person. `verbose` adds where the numbers come from."""
    out = console or Console()
    _head(out, forecast, verbose)
    print_run(out, forecast, verbose)
    print_goodput(out, forecast, verbose)
    print_step(out, forecast, verbose)
    print_memory(out, forecast, verbose)
    for warning in forecast.warnings:
        print_table(out, f"[yellow]warning:[/] {escape(warning)}")
    if verbose:
        _assumptions(out, forecast)
    else:
        _choices(out, forecast.assumptions)


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
    if samples_of(forecast) == "samples":
        return plural(training.global_batch_size, "sample")
    return f"{training.global_batch_size:,} x {training.seq_len:,} tokens"


def _notes(model: TransformerModel | CountedModel, verbose: bool) -> str:
    """Return the remarks on the model's counts as text. `verbose` adds where the model comes from."""
    remarks = model.remarks if isinstance(model, TransformerModel) else ()
    said = "; ".join(
        [model.source, *(remark for remark in remarks if remark not in model.source)] if verbose else remarks
    )
    return f" [dim]({escape(said)})[/]" if said else ""


def _asked(forecast: Forecast) -> str:
    """Return the cloud region that was asked for, to stand before the name of its place."""
    zone, found = forecast.spec.site.zone or "", forecast.factors.intensity
    other = ":" in zone and found.granularity == "annual" and found.zone.casefold() != zone.casefold()
    return f"{escape(zone)}, " if other else ""


def _place(intensity: Intensity, verbose: bool) -> str:
    """Return the intensity in force with its range, its year and what it counts."""
    figure, basis = intensity.figure, intensity.basis
    year = f" {intensity.year}" if intensity.year is not None else ""
    ends = f"{number(figure.low)} to {number(figure.high)}; " if figure.low < figure.high else ""
    counted = describe_basis(basis) if verbose or basis is None else basis.scope
    value = f"{number(figure.value)} gCO2e/kWh [dim]({ends}{intensity.granularity}{year}, {counted})[/]"
    return f"{escape(intensity.zone_name)} {value}"


def _optimizer(training: TrainingPlan) -> str:
    """Return the optimizer, with the dtype and place of its states if these are unusual."""
    narrow = f" with {training.optimizer_state_dtype} states" if training.optimizer_state_dtype != "fp32" else ""
    return f"{training.optimizer}{narrow}{' on the host' if training.optimizer_offload else ''}"


def _choices(out: Console, assumptions: Sequence[Assumption]) -> None:
    """Print the assumptions that a user can best replace, in few words, and the number of the others."""
    if not assumptions:
        return
    told = (one for one in assumptions if (one.field, one.value) not in USUAL)
    named = [one for one in told if one.field.startswith(OPEN_CHOICES)]
    words = list(dict.fromkeys(f"{_field(one.field)} {_short(one.value)}" for one in named))
    others = len(assumptions) - len(named)
    more = [plural(others, "other value")] if others else []
    said = " and ".join(filter(None, (", ".join(words), *more)))
    print_table(out, f"assumed, because nothing was given: {escape(said)} [dim](-v lists all with their sources)[/]")


def _field(field: str) -> str:
    """Return the last part of a field as words."""
    word = field.rpartition(".")[2]
    return LABELS.get(field, word.replace("_", " "))


def _short(value: str) -> str:
    """Return a value without its range and its remarks."""
    return value.partition(" (")[0].partition(",")[0] if not value[:1].isdigit() else value.partition(" (")[0]


def _assumptions(out: Console, forecast: Forecast) -> None:
    if not forecast.assumptions:
        return
    out.print("[bold]assumed, because nothing was given[/]")
    for item in forecast.assumptions:
        line = Padding(f"{escape(item.field)}: {escape(item.value)}  [dim]{escape(item.source)}[/]", (0, 0, 0, 2))
        print_table(out, line)
