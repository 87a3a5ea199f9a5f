"""`carbon-plugin plan`: predict a run before it starts, compare it with others, or search its layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Struct, structs

from carbon_plugin.cli.options import Argument, AsJson, Option, Seed
from carbon_plugin.cli.output import check_format
from carbon_plugin.cli.run_options import RunOptions, run_of
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.errors import CarbonPluginError, SpecError

if TYPE_CHECKING:
    from carbon_plugin.plan.forecast import Forecast
    from carbon_plugin.spec.run import RunSpec


class SearchOptions(Struct, frozen=True):
    """Says what to search and within which bounds. Each of these options asks for a search."""

    search: Annotated[bool, Option("Search all layouts: the front of time, energy and carbon.")] = False
    search_nodes: Annotated[str | None, Option("Search these numbers of nodes too, for instance 8,16,32.")] = None
    search_accelerator: Annotated[str | None, Option("Search these accelerators, for instance h100-sxm,b200.")] = None
    search_zone: Annotated[str | None, Option("Search these grid zones, for instance FRA,SWE.")] = None
    deadline_days: Annotated[float | None, Option("Search only what ends within so many days.")] = None
    write_specs: Annotated[Path | None, Option("Search, and write the best few as spec files into this directory.")] = (
        None
    )

    @property
    def asked(self) -> bool:
        """Return whether a search is asked for."""
        return self != SearchOptions()


class OutputOptions(Struct, frozen=True):
    """Says where the answer is written, and how much of it is shown."""

    output: Annotated[
        Path | None,
        Option("Write the forecast to this file; a comparison as .svg or JSON.", names=("-o", "--output")),
    ] = None
    verbose: Annotated[
        bool, Option("Also the range's causes, the step term by term, every assumption.", names=("-v", "--verbose"))
    ] = False
    as_json: AsJson = False


def plan(
    spec: Annotated[Path | None, Argument("Run spec (YAML). Flags override its fields.")] = None,
    more: Annotated[list[str] | None, Argument("More axes for --compare.", metavar="[AXES]...")] = None,
    *,
    options: RunOptions,
    seed: Seed = 0,
    compare: Annotated[
        list[str] | None, Option("The same run otherwise: zone=SWE,USA accelerator=b200-sxm start=... pause_above=...")
    ] = None,
    search: SearchOptions,
    out: OutputOptions,
) -> None:
    """Predict time, memory, energy and carbon of a run before launch. The part of the layout that is not stated is
    searched."""
    if spec is not None and compare and "=" in spec.name and not spec.exists():
        spec, more = None, [str(spec), *(more or ())]  # without a spec the first axis comes first
    if more and not compare:
        raise SpecError(f"plan takes one spec; {' '.join(more)} would be axes for --compare")
    if compare and search.asked:
        raise SpecError("--compare and --search are two questions: ask one of them")
    check_format(out.output, "a comparison" if compare else "a plan", chart=bool(compare))
    run = run_of(spec, options, searching=search.asked)
    if compare:
        _compare(run, [*compare, *(more or ())], options, seed, out)
    elif search.asked:
        _search(run, spec, search, options, seed, out)
    else:
        _forecast(run, spec, options, seed, out)


def _compare(run: RunSpec, axes: list[str], options: RunOptions, seed: int, out: OutputOptions) -> None:
    from carbon_plugin.cli.tables.comparison import show_comparison
    from carbon_plugin.plan.whatif.axes import parse_axes
    from carbon_plugin.plan.whatif.planned_run import PLAN_AXES, compare_plan

    comparison = compare_plan(
        run, parse_axes(axes, PLAN_AXES), profile_dirs=options.directories, seed=seed, force=options.force
    )
    show_comparison(comparison, output=out.output, as_json=out.as_json)


def _search(
    run: RunSpec, spec: Path | None, search: SearchOptions, options: RunOptions, seed: int, out: OutputOptions
) -> None:
    from carbon_plugin.cli.tables.plan_search import own_profiles, parse_question, run_search

    question = parse_question(search.search_nodes, search.search_accelerator, search.search_zone, search.deadline_days)
    run_search(
        run,
        question,
        profile_dirs=(*options.directories, *own_profiles(spec)),
        seed=seed,
        write_specs=search.write_specs,
        output=out.output,
        as_json=out.as_json,
    )


def _forecast(run: RunSpec, spec: Path | None, options: RunOptions, seed: int, out: OutputOptions) -> None:
    from carbon_plugin.plan.forecast import make_forecast, require_fit

    with _naming(spec, options):
        forecast = make_forecast(run, seed=seed)
        if not options.force:
            require_fit(forecast)
    _show(forecast, out)


def _show(forecast: Forecast, out: OutputOptions) -> None:
    """Write the forecast to the file that was asked for, and print it."""
    from carbon_plugin.plan.forecast import save_forecast

    if out.output is not None:
        save_forecast(forecast, out.output)
    if out.as_json:
        echo_json(forecast)
        return
    from carbon_plugin.cli.tables.plan_table import print_forecast

    print_forecast(forecast, verbose=out.verbose)
    if out.output is not None:
        echo(f"forecast written to {out.output}")


@contextmanager
def _naming(spec: Path | None, options: RunOptions) -> Iterator[None]:
    """Put before the message of an error where the value is from that it quotes: the option, or the spec file with line
    and field."""
    try:
        yield
    except CarbonPluginError as error:
        from carbon_plugin.spec.parsing.boundary import dotted
        from carbon_plugin.spec.parsing.document import quoted_in, read_document

        by_option = quoted_in(str(error), {"site": structs.asdict(options.site)})
        if by_option is not None:
            raise type(error)(f"command line: {dotted(by_option)}: {error}") from None
        if spec is None:
            raise
        document = read_document(spec)
        keys = quoted_in(str(error), document.value)
        said = f"{spec}: {error}" if keys is None else str(document.error(keys, str(error)))
        raise type(error)(said) from None
