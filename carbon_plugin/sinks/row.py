"""Define the rows that sinks get: one row of figures a window, with the devices and the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.spec.metered import EnergyKind, Rung

Scalar = str | int | float | bool

PREFIX = "carbon/"
"""The figures of a row have names that begin with this, as docs/monitor.md lists them."""
HEAD_KEY = "carbon/ledger_head"
"""The name under which sinks that take text get the head of the ledger."""


class DeviceFigures(Struct, frozen=True, kw_only=True):
    """One instance holds the energy that a metered device of this node has used for the run so far, J, and its power in
    the last window, W.
    """

    key: str
    name: str
    rung: Rung
    energy_j: float
    power_w: float
    energy_kind: EnergyKind


class RunDescription(Struct, frozen=True, kw_only=True):
    """One instance identifies a run and describes it.

    `params` are the effective fields of its spec by dotted name, as far as they are known. They can change once, after
    the first step.
    """

    run_id: str
    name: str
    run_dir: Path
    hostname: str
    total_steps: int | None = None
    programme: str | None = None
    role: str | None = None
    params: Mapping[str, Scalar] = {}


class Row(Struct, frozen=True, kw_only=True):
    """The figures of a run at the end of a window.

    `ended` says that the run has ended, so that nothing is projected any more. `step` is the last optimizer step of the
    run, `metrics` are the `carbon/*` figures, `head` is the head of this node's ledger, and `devices` are the devices
    that this process meters.
    """

    step: int
    at_unix_s: float
    metrics: Mapping[str, float]
    run: RunDescription
    head: str | None = None
    devices: tuple[DeviceFigures, ...] = ()
    ended: bool = False


def without_outlook(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a run that has ended, without those of steps that will not come.

    A run that has reached its last step has no further steps, and keeps all its figures.
    """
    if not metrics.get(f"{PREFIX}remaining_h"):
        return dict(metrics)
    ahead = (f"{PREFIX}projected_", f"{PREFIX}remaining_h", f"{PREFIX}budget_share")
    return {name: value for name, value in metrics.items() if not name.startswith(ahead)}


def at_rest(row: Row) -> Row:
    """Return the row of a run that is not active, without power and projection."""
    metrics = without_outlook(row.metrics)
    if f"{PREFIX}power_w" in metrics:
        metrics[f"{PREFIX}power_w"] = 0.0
    devices = tuple(replace(device, power_w=0.0) for device in row.devices)
    return replace(row, metrics=metrics, devices=devices, ended=True)


def nested(document: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """Return the scalars of nested mappings by dotted name. Lists and None are left out."""
    found: dict[str, Scalar] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= nested(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            found[prefix + name] = value
    return found
