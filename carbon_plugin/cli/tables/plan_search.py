"""Run `carbon-plugin plan --search`: print the front as a table or JSON, and write its best few as spec files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.cli.printing import print_numbers, print_table
from carbon_plugin.cli.tables.plan_run import best_case_phrase
from carbon_plugin.cli.tables.plan_step import ALMOST_SURE
from carbon_plugin.cli.terminal import echo, steering_console
from carbon_plugin.errors import SpecError
from carbon_plugin.plan.alternatives import (
    OBJECTIVES,
    Question,
    RunOption,
    SearchAnswer,
    SearchReport,
    search_alternatives,
)
from carbon_plugin.plan.search.layouts import ProgressCallback
from carbon_plugin.spec.numbers.amounts import days_phrase, fitting_unit, number, percent, plural
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, SECONDS_PER_DAY, TIME_UNITS, Units
from carbon_plugin.spec.parsing.document import read_document
from carbon_plugin.spec.parsing.saving import save
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.writing import write_run_spec

MOST_ROWS = 20
FOOTNOTE = (
    "No other layout beats one of these in expected time, energy and carbon; differences under 0.1 % do not count. "
    "What is expected is the prediction and what a nearly full memory and a slow network may add to it "
    "(docs/search.md), so that a layout whose predicted time is a little shorter may not be here. Energy is that of "
    "the facility. The table is of real runs where a best case stands below it (docs/goodput.md)."
)
FEW = 5
"""The largest number of options that are written as specs."""


def parse_question(
    nodes: str | None, accelerators: str | None, zones: str | None, deadline_days: float | None
) -> Question:
    """Return what the options ask to search beside the layout. Raises `SpecError` for a value that cannot be."""
    try:
        counts = tuple(int(count) for count in _words("--search-nodes", nodes))
    except ValueError:
        raise SpecError(f"--search-nodes is {nodes!r}, expected numbers of nodes such as 8,16,32") from None
    return Question(
        nodes=counts,
        accelerators=_words("--search-accelerator", accelerators),
        zones=_words("--search-zone", zones),
        deadline_s=None if deadline_days is None else deadline_days * SECONDS_PER_DAY,
    )


def own_profiles(spec: Path | None) -> list[Path]:
    """Return the directories of hardware profiles that a spec file names. Other accelerators and written specs need
    them too."""
    if spec is None:
        return []
    return [spec.parent / entry for entry in read_document(spec).value["cluster"].get("profiles", [])]


def _words(option: str, text: str | None) -> tuple[str, ...]:
    """Return the words of an option, each once; none where it is not given. Raises `SpecError` for one without any."""
    if text is None:
        return ()
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise SpecError(f"{option} is {text!r}, expected words with commas between them")
    return words


def run_search(
    spec: RunSpec,
    question: Question,
    *,
    profile_dirs: Sequence[Path],
    seed: int,
    write_specs: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Search, print the front, and write the files that are asked for. Raises what `search_alternatives` and
    `write_run_spec` raise."""
    with _progress() as on_progress:
        answer = search_alternatives(spec, question, profile_dirs=profile_dirs, seed=seed, on_progress=on_progress)
    report = answer.report if write_specs is None else _with_specs(answer, write_specs, profile_dirs)
    document = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    if output is not None:
        save(output, f"{document}\n")
    if as_json:
        echo(document)
        return
    print_search(report)
    if output is not None:
        echo(f"search written to {output}")


@contextmanager
def _progress() -> Iterator[ProgressCallback | None]:
    """Show a progress bar if standard error is a terminal. Yields the function that sets its position, else
    None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress as Bar

    with Bar(console=steering_console(error=True), transient=True) as bar:
        task = bar.add_task("searching layouts", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _with_specs(answer: SearchAnswer, folder: Path, profile_dirs: Sequence[Path]) -> SearchReport:
    """Write the best few options as specs, and return the report with the names of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    options = list(answer.report.options)
    ranks = sorted(range(len(options)), key=lambda rank: (not options[rank].best, rank))[:FEW]
    for rank in sorted(ranks):
        option = options[rank]
        name = f"{answer.report.name}-{rank + 1}"
        path = folder / f"{name}.yaml"
        spec = msgspec.structs.replace(answer.specs[rank], name=name)
        write_run_spec(spec, path, profile_dirs=profile_dirs, note=_note(option))
        options[rank] = msgspec.structs.replace(option, spec_file=str(path))
    return msgspec.structs.replace(answer.report, options=tuple(options))


def _note(option: RunOption) -> str:
    best = f"; least {', '.join(option.best)}" if option.best else ""
    return (
        f"Found by carbon-plugin plan --search: {_amount(option.run_time_s.value, TIME_UNITS)}, "
        f"{_amount(option.energy_j.value, ENERGY_UNITS)}, {_amount(option.total_kg.value, CARBON_UNITS)}{best}."
    )


def print_search(report: SearchReport, console: Console | None = None) -> None:
    """Print the front with one row for each option, then their layouts."""
    out = console or Console()
    clusters = f"{report.clusters} clusters" if report.clusters > 1 else "one cluster"
    limit = "" if report.deadline_s is None else f", deadline {days_phrase(report.deadline_s / SECONDS_PER_DAY)}"
    out.print(
        f"[bold]search: {escape(report.name)}[/], {plural(report.considered, 'layout')} on {clusters}, "
        f"{report.fitting:,} of them fit in memory{limit}"
    )
    out.print()
    shown = report.options[:MOST_ROWS]
    print_numbers(out, _table(shown))
    for rank, option in enumerate(shown, start=1):
        print_table(out, Padding(f"{rank}  {escape(_line(option))}", (0, 0, 0, 1)))
    if len(report.options) > len(shown):
        out.print(f"  and {len(report.options) - len(shown)} more: --json has all of them")
    print_table(out, f"[dim]{FOOTNOTE}[/]")
    for one in report.skipped:
        print_table(out, f"[yellow]left out:[/] {escape(f'{one.cluster}: {one.reason}')}")


def _table(options: Sequence[RunOption]) -> Table:
    """Return the table of numbers, in units that all rows share."""
    time = fitting_unit(max(option.run_time_s.value for option in options), TIME_UNITS)
    energy = fitting_unit(max(option.energy_j.value for option in options), ENERGY_UNITS)
    carbon = fitting_unit(max(option.total_kg.value for option in options), CARBON_UNITS)
    priced = any(option.cost_usd is not None for option in options)
    table = Table(box=None, padding=(0, 1))
    headings = ["", "devices", time[1], energy[1], carbon[1], "p10 to p90", "embodied", *(["USD"] if priced else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("least", no_wrap=True)
    for rank, option in enumerate(options, start=1):
        total = option.total_kg
        table.add_row(
            str(rank),
            f"{option.devices:,}",
            number(option.run_time_s.value / time[0]),
            number(option.energy_j.value / energy[0]),
            number(total.value / carbon[0]),
            f"{number(total.low / carbon[0])} to {number(total.high / carbon[0])}",
            number(option.embodied_kg.value / carbon[0]),
            *([] if option.cost_usd is None else [number(option.cost_usd.value)]),
            "all" if option.best == OBJECTIVES else ", ".join(option.best),
        )
    return table


def _line(option: RunOption) -> str:
    """Return in words what has no column: the place, the layout, its step, its notes and its file."""
    where = f"{option.nodes:,} x {option.node}, {option.accelerator}, {option.zone}"
    used = f"memory {percent(option.memory_bytes / option.memory_capacity_bytes, 0)}"
    if option.fit_probability is not None:
        used += f", fits with a probability of {percent(min(option.fit_probability, ALMOST_SURE), 0)}"
    step = f"{_amount(option.step_time_s.value, TIME_UNITS)} a step, MFU {percent(option.mfu, 1)}, {used}"
    written = [f"spec: {option.spec_file}"] if option.spec_file else []
    best = [best_case_phrase(option.best_case)] if option.best_case is not None else []
    return "; ".join([f"{where}: {option.layout_phrase}", step, *best, *option.notes, *written])


def _amount(value: float, units: Units) -> str:
    size, unit = fitting_unit(value, units)
    return f"{number(value / size)} {unit}"
