"""`carbon-plugin whatif`: compute the carbon of a finished run in another zone or at other hours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option, RunDirectory, Seed

if TYPE_CHECKING:
    from carbon_plugin.audit.result import AuditSummary
    from carbon_plugin.footprint.values import EnergyItem
    from carbon_plugin.plan.whatif.measured_run import MeasuredRun


def whatif(
    run_dir: RunDirectory,
    changes: Annotated[
        list[str],
        Argument("What to change: zone=SWE,USA, series=grid.csv, start=2026-01-01T00:00Z, pause_above=300."),
    ],
    marginal: Annotated[Path | None, Option("File of marginal intensity, shown beside the average.")] = None,
    output: Annotated[Path | None, Option("Write a chart (.svg) or JSON here.", names=("-o", "--output"))] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Put a finished run elsewhere or at other hours. Every combination of the changes is shown beside the run as it
    was."""
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


def measured_run(summary: AuditSummary, marginal_g_per_kwh: float | None = None) -> MeasuredRun:
    """Return the part of an audit that another zone or start changes. Raises `LedgerError` if the run has no carbon."""
    from carbon_plugin.errors import LedgerError
    from carbon_plugin.footprint.values import IT_RUNGS
    from carbon_plugin.ledger.held.account_inputs import chargeable, energy_item, reservations
    from carbon_plugin.plan.whatif.measured_run import MeasuredRun

    if summary.footprint is None or summary.factors is None:
        raise LedgerError(f"run {summary.run.name}: has no carbon to compare: {summary.no_carbon_reason}")
    found = summary.footprint.energy_j
    energies = [energy_item((rung, rung), found[rung].range) for rung in IT_RUNGS if rung in found]
    held = reservations(devices=summary.reserved.device_s, hosts=summary.reserved.host_s)
    series = summary.series
    bins = [energy for rung, energy in series.rung_energy_j.items() if rung != "facility"]
    return MeasuredRun(
        name=summary.run.name,
        start_unix_s=summary.period.start_unix_s,
        width_s=series.width_s,
        energy_j=tuple(map(sum, zip(*bins, strict=True))),
        energies=tuple(energies),
        reserved=tuple(chargeable(held, summary.factors)),
        factors=summary.factors,
        footprint=summary.footprint,
        idle_j_per_s=_idle(summary),
        marginal_g_per_kwh=marginal_g_per_kwh,
    )


def _idle(summary: AuditSummary) -> tuple[EnergyItem, ...] | None:
    """Return the power of each rung in a pause, J a second. GPUs idle with an open context; all else is as measured."""
    from carbon_plugin.footprint.values import EnergyItem
    from carbon_plugin.predict.power import idle_with_context_w
    from carbon_plugin.spec.hardware.profiles import find_accelerator
    from carbon_plugin.spec.range import Range

    items = []
    for device in summary.devices:
        identity, power_w = device.identity, device.mean_power_w
        if identity.rung == "gpu":
            profile = find_accelerator(identity.profile) if identity.profile else None
            if profile is None:
                return None
            power_w = idle_with_context_w(profile)
        if power_w is not None and identity.rung != "facility":
            scope = f"{identity.rung} in pauses"
            items.append(EnergyItem(rung=identity.rung, scope=scope, energy=Range.exactly(power_w)))
    return tuple(items)
