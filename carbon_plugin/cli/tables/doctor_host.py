"""Find out for `carbon-plugin doctor` how the host, the whole node and each rung of the boundary can be metered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from carbon_plugin.meters.meter_set import MeterSet
    from carbon_plugin.meters.protocol import Reading
    from carbon_plugin.spec.metered import DeviceIdentity, Rung

FindingState = Literal["measured", "modelled", "missing", "note"]

_HOST, _BOUNDARY = "Host and network", "Boundary"
_MEASURED = ("counter", "power_integrated")
_RUNGS: dict[Rung, str] = {"gpu": "accelerators", "host": "hosts", "network": "network"}


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that the user should know, with its area, its state and what the user can do about it."""

    area: str
    state: FindingState
    text: str
    advice: str | None = None


def unavailable(meters: MeterSet, meter: str, area: str) -> list[Finding]:
    """Return why there is no meter of a kind, and what the user can do about it."""
    return [
        Finding(area=area, state="missing", text=problem.reason, advice=problem.advice)
        for problem in meters.unavailable
        if problem.kind.startswith(f"{meter}_")
    ]


def host(meters: MeterSet, readings: Mapping[str, Reading], *, node_metered: bool) -> list[Finding]:
    """Return how host and network are metered or modelled, which meters are missing, and the job's share of the
    host."""
    findings = _below_gpus(meters, readings)
    for device in meters.devices:
        if device.rung == "gpu":
            continue
        state: FindingState = "measured" if device.energy_kind in _MEASURED else "modelled"
        how = f"{device.meter}; {device.note}" if device.note and state == "measured" else device.note or device.meter
        findings.append(Finding(area=_HOST, state=state, text=f"{device.name}: {how}"))
    findings += unavailable(meters, "node", _HOST) + unavailable(meters, "rapl", _HOST)
    if not node_metered:
        findings.append(_no_node_meter())
    if meters.host_share < 1:
        text = f"{meters.host_share:.3f} of the host is charged to a job here, by its part of CPUs or GPUs"
        findings.append(Finding(area=_HOST, state="note", text=text))
    return findings


def _below_gpus(meters: MeterSet, readings: Mapping[str, Reading]) -> list[Finding]:
    """Return the finding about a node meter that shows less power than the GPUs inside the node draw at the moment."""
    node_w = meters.node_power_w
    gpus_w = sum(readings[device.key].power_w or 0.0 for device in meters.gpus.devices if device.key in readings)
    if node_w is None or node_w >= gpus_w:
        return []
    return [
        Finding(
            area=_HOST,
            state="missing",
            text=f"the node meter tells {node_w:.0f} W while the GPUs inside the node draw {gpus_w:.0f} W, which "
            "cannot be: a run whose meter goes on like this estimates the host instead",
            advice="ask again in some seconds; then check that the meter is that of this node, with all its supplies",
        )
    ]


def _no_node_meter() -> Finding:
    """Return the finding which meter of the whole node this machine may have, as far as the machine shows it."""
    from carbon_plugin.meters.node.address import VARIABLE
    from carbon_plugin.meters.node.files import PM_COUNTERS

    kinds = ["pm_counters"] if PM_COUNTERS.is_dir() else []
    kinds += ["ipmi"] if shutil.which("ipmitool") and os.access(Path("/dev/ipmi0"), os.R_OK) else []
    advice = f"set {VARIABLE} to the address of one, for instance redfish://<its service processor>"
    if kinds:
        advice = f"this machine has one: set {VARIABLE}={kinds[0]}"
    text = "no meter of the whole node is named: fans, disks and supplies are modelled or left out"
    return Finding(area=_HOST, state="note", text=text, advice=advice)


def boundary(devices: Iterable[DeviceIdentity]) -> list[Finding]:
    """Return for each rung from the accelerators to the facility whether it is measured, modelled or missing."""
    kinds: dict[str, set[str]] = {}
    for device in devices:
        kinds.setdefault(device.rung, set()).add(device.energy_kind)
    findings = []
    for rung, name in _RUNGS.items():
        known = kinds.get(rung, set()) - {"absent"}
        measured = sorted(known & set(_MEASURED))
        state: FindingState = "measured" if measured else "modelled" if known else "missing"
        partly = " in part, the rest modelled" if measured and "modelled" in known else ""
        findings.append(Finding(area=_BOUNDARY, state=state, text=f"{name}{partly}"))
    findings.append(Finding(area=_BOUNDARY, state="missing", text="shared storage: in no meter and no profile"))
    if "facility" in kinds:
        findings.append(Finding(area=_BOUNDARY, state="measured", text="facility"))
    else:
        text = "facility: the machines times the PUE of the site"
        findings.append(Finding(area=_BOUNDARY, state="modelled", text=text))
    return findings
