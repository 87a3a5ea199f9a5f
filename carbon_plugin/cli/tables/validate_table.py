"""Print the tables of `carbon-plugin validate`, which docs/validation.md explains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carbon_plugin.calibrate.rows.rows import FIRST_COLLECTION, next_step, unknown_fields
from carbon_plugin.spec.numbers.amounts import percent, plural
from carbon_plugin.validate.run.full_runs import FullRunRow
from carbon_plugin.validate.run.real_runs import ClassOverrun
from carbon_plugin.validate.step.error_summary import ErrorSummary
from carbon_plugin.validate.step.headlines import ALL, CollectionError
from carbon_plugin.validate.step.layout_choice import overall_phrase
from carbon_plugin.validate.step.step_time import Validation

PIPED_WIDTH = 140
"""The width in characters if the output is no terminal, so that no row of a table is broken."""
HEADINGS = ("n", "MAPE", "median", "p90", "worst", "bias", "|log|", "80 % covers", "model left out")

BASELINES = ("llmcarbon", "constant_mfu", "6nd_40")


def print_validation(result: Validation, *, own: bool) -> None:
    """Print the errors by source, by cluster and as on an unknown device, then memory, the choice of layout, whole runs
    and the number of rows that were skipped. `own` says that the rows are a user's, and that what is printed next says
    why each of them was skipped."""
    out = _console()
    if result.summary or result.clusters:
        _print_step_times(out, result, own)
    if result.hybrids:
        out.print()
        hybrids = _table("models whose layers differ (Mamba-2 and others), fitted to nothing", _headings(result))
        for item in result.hybrids:
            hybrids.add_row(item.source, *_cells(item, list(result.macro_baseline_mape)))
        out.print(hybrids)
    if result.memory or result.layouts:
        out.print()
    _print_memory(out, result)
    for choice in result.layouts:
        ranks = [
            f"rank correlation {value:.2f} {how}"
            for value, how in ((choice.spearman, "with ties"), (choice.spearman_untied, "without"))
            if value is not None
        ]
        out.print(
            f"choice of layout, {choice.source}: {plural(choice.layouts, 'layout')} of "
            f"{', '.join([plural(choice.jobs, 'job'), *ranks])}, regret "
            f"{choice.regret:.1f} %, worst {choice.worst_regret:.0f} %"
        )
    if result.layouts:
        out.print(f"choice of layout: {overall_phrase(result.layouts)}")
    if result.full_runs:
        out.print()
        out.print(_full_runs(result.full_runs))
    for line in overrun_lines(result.overruns):
        out.print(line)
    skipped = sum(row.skipped is not None for row in result.rows)
    if skipped:
        where = "the reason of each is below" if own else "--json gives the reason of each"
        out.print(f"{plural(skipped, 'row')} skipped; {where}")


def _headings(result: Validation) -> tuple[str, ...]:
    return (*HEADINGS, *result.macro_baseline_mape)


def _print_step_times(out: Console, result: Validation, own: bool) -> None:
    """Print the errors of step times by source and by cluster, and as on an unknown device."""
    out.print(_headlines(result.headlines, own))
    out.print("[dim]Every source counts once. A source is left out with all its rows before its rows are predicted.[/]")
    out.print()
    baselines = list(result.macro_baseline_mape)
    table = _table("step time, error in % of measured", _headings(result))
    for item in (*result.summary, *result.clusters):
        table.add_row(item.source + ("" if item.left_out else " *"), *_cells(item, baselines))
    if result.macro_mape is not None:
        macro = [f"{result.macro_baseline_mape[name]:.0f}" for name in baselines]
        table.add_section()
        blanks = [""] * 4
        log = f"{result.macro_abs_log_ratio:.3f}"
        table.add_row("mean over sources", "", f"[bold]{result.macro_mape:.1f}[/]", *blanks, log, "", "", *macro)
    out.print(table)
    out.print(
        "[dim]Constants that never saw a row of the source; under 'model left out', of the model. *: shipped constants "
        "as they are, which saw some of these rows.[/]"
    )
    if result.unknown_device:
        out.print()
        unknown = _table("the same on a device that nobody calibrated (its family left out)", _headings(result))
        for item in result.unknown_device:
            unknown.add_row(item.source, *_cells(item, baselines))
        out.print(unknown)


def _print_memory(out: Console, result: Validation) -> None:
    """Print the share of layouts that ran and are called feasible, the share of probes that failed and are called
    infeasible, and the errors of memory."""
    ran, feasible = sum(one.ran for one in result.fits), sum(one.called_feasible for one in result.fits)
    probes, called = sum(one.out_of_memory for one in result.fits), sum(one.called_too_large for one in result.fits)
    if ran:
        out.print(
            f"memory: {feasible:,} of {ran:,} layouts that ran are called feasible ({percent(feasible / ran, 1)})"
        )
    wrong = [f"{one.source} {one.ran - one.called_feasible}" for one in result.fits if one.ran > one.called_feasible]
    if wrong:
        out.print(f"  not called feasible: {', '.join(wrong)}")
    if probes:
        out.print(f"memory: {called} of {probes} layouts that ran out of memory are called too large")
    for memory in result.memory:
        said = "" if memory.scope == "allocated" else f" ({memory.scope})"
        out.print(
            f"memory, {memory.source}{said}: n {memory.n}, MAPE {memory.mape:.1f} %, worst {memory.worst:+.0f} %, "
            f"bias {memory.bias:+.1f} %"
        )


def print_own_rows(result: Validation, records: Path) -> None:
    """Print what was assumed for each row of the user, which of its fields are unknown, and why a row was skipped."""
    out = _console()
    out.print()
    for row in result.rows:
        if row.skipped is not None:
            said = [f"{records}: {row.id}: {row.skipped}", next_step(row.skipped)]
        else:
            said = [f"{row.id}: assumed {'; '.join(row.assumed)}" if row.assumed else f"{row.id}: nothing assumed"]
        said += [unknown_fields(row.not_read)] if row.not_read else []
        out.print("; ".join(said), markup=False, soft_wrap=True)
    if any(row.skipped is None for row in result.rows):
        out.print("--explain ROW prints the predicted step of one of them, term by term.")


def _headlines(items: Sequence[CollectionError], own: bool) -> Table:
    table = _table(
        "step time, mean over sources, error in % of measured",
        ("rows", "sources", "source left out", "model left out", "bias", "80 % covers", *BASELINES),
    )
    for item in items:
        table.add_row(
            f"{_collection(item.collection, own)}, {item.kind}",
            str(item.rows),
            str(item.sources),
            f"[bold]{item.source_left_out:.1f}[/]",
            "" if item.model_left_out is None else f"{item.model_left_out:.1f}",
            f"{item.bias:+.1f}",
            percent(item.coverage, 0),
            *(f"{item.baseline_mape[name]:.0f}" for name in BASELINES),
        )
    return table


def _collection(name: str, own: bool) -> str:
    """Return what the rows of a collection are called. Rows of a user's file that names no collection are in none of
    the published ones."""
    if own and name == FIRST_COLLECTION:
        return "rows of this file"
    return f"{name} {'collections' if name == ALL else 'collection'}"


def _full_runs(rows: Sequence[FullRunRow]) -> Table:
    """Print device-hours of whole published runs: as published, as predicted for a real run, and the best case over the
    published value."""
    headings = ("published", "real run", "p10", "p90", "best case", "best case ratio", "goodput")
    table = _table("whole runs, device-hours", headings)
    table.add_column("assumed")
    for row in rows:
        best, real, ratio, goodput = row.predicted_device_hours, row.real_run_device_hours, row.ratio, row.goodput
        if best is None or real is None or ratio is None or goodput is None:
            table.add_row(row.model, *([""] * len(headings)), f"skipped: {row.skipped}")
            continue
        published = f"{row.published_device_hours:,.0f}"
        hours = (f"{value:,.0f}" for value in (real.value, real.low, real.high, best.value))
        table.add_row(row.model, published, *hours, f"{ratio:.2f}", f"{goodput:.2f}", "; ".join(row.assumed))
    return table


def overrun_lines(found: Sequence[ClassOverrun]) -> list[str]:
    """Return a line for each class of runs that says how much longer than the best case real runs take."""
    return [
        f"real runs, {item.kind}: {item.overrun.central:.2f} ({item.overrun.low:.2f} to {item.overrun.high:.2f}) times "
        f"the best case, {item.overrun.runs} runs of {item.overrun.sources} sources; the 80 % range holds "
        f"{percent(item.coverage, 0)}, without the run's source {percent(item.blind_coverage, 0)}"
        for item in found
    ]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("source", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", style="dim" if heading in BASELINES else None)
    return table


def _cells(item: ErrorSummary, baselines: Sequence[str]) -> list[str]:
    return [
        str(item.n),
        f"[bold]{item.mape:.1f}[/]",
        f"{item.median:.1f}",
        f"{item.p90:.1f}",
        f"{item.worst:+.0f}",
        f"{item.bias:+.1f}",
        f"{item.abs_log_ratio:.3f}",
        percent(item.coverage, 0),
        "" if item.model_left_out_mape is None else f"{item.model_left_out_mape:.1f}",
        *(f"{item.baseline_mape[name]:.0f}" if name in item.baseline_mape else "" for name in baselines),
    ]
