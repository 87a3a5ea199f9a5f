"""Take the values from an audit that `plan.whatif` needs to move the run to another place or to other hours."""

from __future__ import annotations

from collections.abc import Iterator

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import LedgerError
from carbon_plugin.footprint.values import EnergyItem
from carbon_plugin.ledger.held.account_inputs import UncertaintyScope, chargeable, energy_item, reservations, scope_of
from carbon_plugin.ledger.held.unobserved import unobserved_scope
from carbon_plugin.plan.whatif.measured_run import MeasuredRun
from carbon_plugin.spec.hardware.profiles import find_accelerator
from carbon_plugin.spec.numbers.range import Range


def measured_run(summary: AuditSummary, marginal_g_per_kwh: float | None = None) -> MeasuredRun:
    """Return the values of an audit that another zone or start changes. Raises `LedgerError` if the run has
    no carbon.
    """
    if summary.footprint is None or summary.factors is None:
        raise LedgerError(f"run {summary.run.name}: has no carbon to compare: {summary.no_carbon_reason}")
    held = reservations(devices=summary.reserved.device_s, hosts=summary.reserved.host_s)
    series = summary.series
    bins = [energy for rung, energy in series.rung_energy_j.items() if rung != "facility"]
    return MeasuredRun(
        name=summary.run.name,
        start_unix_s=summary.period.start_unix_s,
        duration_s=summary.period.wall_s,
        width_s=series.width_s,
        energy_j=tuple(map(sum, zip(*bins, strict=True))),
        energies=tuple(_energies(summary)),
        reserved=tuple(chargeable(held, summary.factors)),
        factors=summary.factors,
        footprint=summary.footprint,
        idle_j_per_s=_idle(summary),
        marginal_g_per_kwh=marginal_g_per_kwh,
        by_hour_g_per_kwh=tuple(series.grid_by_hour_g_per_kwh),
        by_hour_from=series.grid_by_hour_from,
    )


def _energies(summary: AuditSummary) -> Iterator[EnergyItem]:
    """Yield the energies of the run in the uncertainty scopes of its own account, so that the run put where it was has
    the range of its audit."""
    scopes: dict[UncertaintyScope, list[Range]] = {}
    for device in summary.devices:
        if (scope := scope_of(device.identity)) is not None:
            scopes.setdefault(scope, []).append(device.energy.range)
    for rung, idle in summary.unobserved.items():
        scopes[unobserved_scope(rung)] = [idle.range]
    for scope in sorted(scopes):
        yield energy_item(scope, Range.total(scopes[scope]))


def _idle(summary: AuditSummary) -> tuple[EnergyItem, ...] | None:
    """Return the power of each rung in a pause, W. GPUs idle with an open context; everything else draws what was
    measured.
    """
    items = []
    for device in summary.devices:
        identity, power_w = device.identity, device.mean_power_w
        if identity.rung == "gpu":
            profile = find_accelerator(identity.profile) if identity.profile else None
            if profile is None:
                return None
            power_w = profile.idle_with_context_w
        if power_w is not None and identity.rung != "facility":
            scope = f"{identity.rung} in pauses"
            items.append(EnergyItem(rung=identity.rung, scope=scope, energy=Range.exactly(power_w)))
    return tuple(items)
