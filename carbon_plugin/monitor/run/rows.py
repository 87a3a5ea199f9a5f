"""Make the row of a window that the sinks get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.ledger.records import RunIdentity
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.sinks.row import DeviceFigures, Row, RunDescription, nested


def row_of(
    metrics: Mapping[str, float],
    run: RunDescription,
    *,
    step: int,
    at_unix_s: float,
    head: str | None,
    totals: FileTotals | None,
    ended: bool = False,
) -> Row:
    """Return the row. `totals` are those of the ledger that this process writes, or None if it writes none."""
    devices = devices_of(totals) if totals is not None else ()
    return Row(step=step, at_unix_s=at_unix_s, metrics=metrics, run=run, head=head, devices=devices, ended=ended)


def description_of(
    identity: RunIdentity, context: Context, run_dir: Path, environ: Mapping[str, str]
) -> RunDescription:
    """Return what identifies and describes a run, with the effective fields of its spec as far as they are known."""
    effective = context.effective
    return RunDescription(
        run_id=identity.run_id,
        name=identity.name,
        run_dir=run_dir,
        hostname=read_host_info(environ=environ).hostname,
        total_steps=effective.total_steps,
        programme=identity.programme,
        role=identity.role,
        params=nested({name: field["value"] for name, field in effective.fields.items()}),
    )


def devices_of(totals: FileTotals) -> tuple[DeviceFigures, ...]:
    """Return what each device of a ledger has used so far. A device of which nothing is known is left out."""
    return tuple(
        DeviceFigures(
            key=key,
            name=device.name,
            rung=device.rung,
            energy_j=used.energy.energy.value,
            power_w=used.power_w,
            energy_kind=device.energy_kind,
        )
        for key, device in totals.identities.items()
        if (used := totals.devices.get(key)) is not None and used.start_s is not None
    )
