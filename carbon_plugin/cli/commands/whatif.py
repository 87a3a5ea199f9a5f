"""`carbon-plugin whatif`: compute the carbon of a finished run in another zone or at other hours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option, RunDirectory, Seed


def whatif(
    run_dir: RunDirectory,
    changes: Annotated[
        list[str],
        Argument(
            "What to change: zone=SWE,USA, hour=0,12, series=grid.csv, start=2026-01-01T00:00Z, pause_above=300.",
            assigned=("zone", "series", "start", "hour", "pause_above"),
        ),
    ],
    marginal: Annotated[Path | None, Option("File of marginal intensity, shown beside the average.")] = None,
    output: Annotated[Path | None, Option("Write a chart (.svg) or JSON here.", names=("-o", "--output"))] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Put a finished run elsewhere or at other hours. Every combination of the changes is shown beside the run as it
    was."""
    from carbon_plugin.audit.measured import measured_run
    from carbon_plugin.audit.summary import summarise
    from carbon_plugin.cli.output import check_format
    from carbon_plugin.cli.tables.comparison import show_comparison
    from carbon_plugin.plan.whatif.axes import parse_axes
    from carbon_plugin.plan.whatif.measured_run import RUN_AXES, compare_run

    check_format(output, "a comparison", chart=True)
    axes = parse_axes(changes, RUN_AXES)
    run = measured_run(summarise(run_dir), recorded_marginal(run_dir))
    comparison = compare_run(run, axes, marginal=None if marginal is None else str(marginal), seed=seed)
    show_comparison(comparison, output=output, as_json=as_json)


def recorded_marginal(run_dir: Path) -> float | None:
    """Return the mean of the marginal intensities in the windows of a run, g/kWh, weighted by their energy. It is None
    if no window states one."""
    from carbon_plugin.ledger.held.copies import original_files
    from carbon_plugin.ledger.reader import LedgerStream
    from carbon_plugin.ledger.records import Window

    energy_j = weighted = 0.0
    for path in original_files(run_dir):
        for record in LedgerStream(path):
            if isinstance(record, Window) and record.marginal_g_per_kwh is not None:
                joules = sum(energy.energy_j or 0.0 for energy in record.energies)
                energy_j += joules
                weighted += joules * record.marginal_g_per_kwh
    return weighted / energy_j if energy_j else None
