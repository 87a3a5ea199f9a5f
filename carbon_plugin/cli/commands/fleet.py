"""`carbon-plugin fleet`: compact the ledgers of thousands of runs into a store, and report from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Struct

from carbon_plugin.cli.options import Argument, AsJson, Option, OptionFamily
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.errors import CarbonPluginError

if TYPE_CHECKING:
    from carbon_plugin.fleet.accounts import Accounts

SKIPPED = 1
"""The exit code if some runs are in no total, or not with their newest state."""


class Scheduler(Struct, frozen=True):
    """Names the files with the scheduler's account of the same jobs."""

    sacct: Annotated[
        Path | None, Option("Output of sacct -P -o JobID,State,ElapsedRaw,AllocTRES: which part of it was recorded.")
    ] = None
    kubernetes: Annotated[Path | None, Option("The same from kubectl get pods,events -o json.")] = None


def fleet() -> int:
    """Account for thousands of runs: ingest their ledgers once, report by team, programme, region and month."""
    raise CarbonPluginError("fleet: expected a subcommand, ingest or report; see carbon-plugin fleet --help")


def ingest(
    sources: Annotated[list[str], Argument("Directories with runs below, or s3://bucket/prefix.", metavar="SOURCE...")],
    into: Annotated[str, Option("Where the store is: a directory, or s3://bucket/prefix.", metavar="STORE")],
    as_json: AsJson = False,
) -> int:
    """Add the ledgers of runs to a store, each once. Runs that have not changed are not read again."""
    from carbon_plugin.fleet.ingest import ingest as ingest_runs

    done = ingest_runs(sources, into)
    if as_json:
        echo_json(done)
    else:
        echo(
            f"{done.found:,} found: {done.added:,} added, {done.replaced:,} replaced, {done.unchanged:,} unchanged, "
            f"{done.copies:,} copies, {len(done.skipped):,} skipped; the store holds {done.held:,}"
        )
    for one in done.skipped:
        echo(f"skipped: {one.place}: {one.reason}", error=True)
    return SKIPPED if done.skipped else 0


def report(
    store: Annotated[str, Argument("Store that ingest wrote: a directory, or s3://bucket/prefix.", metavar="STORE")],
    by: Annotated[
        list[str] | None,
        Option(
            "Group by team, project, owner, cost_centre, user, programme, role, hardware or region.",
            shown_default="team",
            metavar="NAME,...",
        ),
    ] = None,
    since: Annotated[str | None, Option("First month, such as 2025-01.", names=("--from",))] = None,
    until: Annotated[str | None, Option("Last month.", names=("--to",))] = None,
    counts: Annotated[str | None, Option("Emissions of the grids that count: lifecycle or direct.")] = None,
    embodied: Annotated[
        str, Option("When hardware is booked: reserved-time, or first-use (each device once, whole).")
    ] = "reserved-time",
    boundary: Annotated[str | None, Option("Add inventory lines by year (GHG): own, colo or cloud.")] = None,
    scheduler: Scheduler = Scheduler(),  # noqa: B008  # frozen
    factors: Annotated[
        str | None, Option("Restate with the factors of a YAML file, or with the shipped ones (current).")
    ] = None,
    engine: Annotated[str, Option("duckdb, or Spark: local-cluster, local[N], spark://HOST:PORT.")] = "duckdb",
    out: Annotated[list[Path] | None, Option("Write to a .json, .csv, .parquet or .html file. Repeatable.")] = None,
    html: Annotated[Path | None, Option("Write the dashboard page; the same as --out with .html.")] = None,
    cache: Annotated[Path | None, Option("Where files of an object store are kept.", shown_default="~/.cache")] = None,
    as_json: AsJson = False,
) -> int:
    """Report energy and carbon of a fleet by group and month, with waste, coverage and what is missing."""
    from carbon_plugin.fleet.report import Asked
    from carbon_plugin.fleet.report import report as report_of
    from carbon_plugin.fleet.tables import as_json as json_of
    from carbon_plugin.fleet.tables import checked_suffix, write

    outputs = [checked_suffix(path) for path in (*(out or ()), *((html,) if html else ()))]
    accounts = report_of(
        store,
        Asked(
            by=tuple(by or ("team",)),
            engine=engine,
            first=since,
            last=until,
            counts=counts,
            embodied=embodied,
            boundary=boundary,
            sacct=scheduler.sacct,
            kubernetes=scheduler.kubernetes,
            factors=factors,
            cache=cache,
        ),
    )
    for path in outputs:
        write(accounts, path)
    if as_json:
        echo(json_of(accounts).decode(), end="")
    else:
        _print(accounts)
        for path in outputs:
            echo(f"written: {path}")
    return SKIPPED if accounts.missing else 0


def _print(accounts: Accounts) -> None:
    from rich.console import Console
    from rich.table import Table

    from carbon_plugin.cli.printing import print_numbers
    from carbon_plugin.fleet.wording import month_name, rows_of, summary_lines

    for text in summary_lines(accounts):
        echo(text)
    out = Console(highlight=False)
    for title, lines in (
        (", ".join(accounts.by) or "all", accounts.groups or [accounts.totals]),
        ("month", accounts.months),
    ):
        headings, rows = rows_of(title, lines, month_name)
        table = Table(box=None, padding=(0, 1))
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        echo("")
        print_numbers(out, table)
    echo("")
    for note in accounts.notes:
        echo(f"note: {note}")
    for one in accounts.missing:
        echo(f"missing: {one.place}: {one.reason}", error=True)


family = OptionFamily(main=fleet, subcommands={"ingest": ingest, "report": report})
