"""Write the lines that rank 0 prints about a run: one at its start and one at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from carbon_plugin.footprint.values import CarbonTotals
from carbon_plugin.show import wording
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.amounts import plural, verb

_KINDS = {"counter": "by energy counter", "power_integrated": "by power", "modelled": "modelled", "absent": "not read"}


def opening(
    devices: Sequence[DeviceIdentity] | None,
    run_dir: Path,
    *,
    nodes: int,
    has_site: bool,
    budget: str | None = None,
    written: bool = True,
) -> str:
    """Return the line for the start: which devices are metered on this node, where the record is, what the budget is,
    and what is missing.

    `devices` is None if another process of the node meters it. `written` is False as long as no file can be written in
    the run directory. `budget` is the budget in words, or None without one.
    """
    metered = "another process of this node meters" if devices is None else f"metering {_metered(devices)}"
    where = f"on the first of {nodes} nodes" if nodes > 1 else "on this machine"
    missing = "" if has_site else "; carbon is missing, because no site is known (site=...)"
    limit = "" if budget is None else f"; budget: {budget}"
    record = "the record is in" if written else "the record is kept in memory until it can be written in"
    return f"{metered} {where}; {record} {run_dir}{limit}{missing}"


def closing(
    *,
    step: int,
    energy_j: float,
    spent: CarbonTotals | None,
    nodes_seen: int,
    nodes: int,
    run_dir: Path,
    being_written: int = 0,
    ledgers: int = 1,
    unheard: int = 0,
    written: bool = True,
) -> str:
    """Return the line for the end: energy and carbon of the run so far, what may be missing from them, and the command
    for the report.

    Of the `ledgers` of the launch, `being_written` have not ended. `unheard` ranks of this host have told nothing.
    `written` is False where nothing could be written in the run directory, so that there is no report.
    """
    carbon = ""
    if spent is not None:
        known = spent.counted_kg
        carbon = f" and {wording.carbon(known.value)} ({wording.carbon_range(known)})"
        carbon += " in operation" if spent.total_kg is None else ""
    seen = f", as far as {nodes_seen} of {nodes} nodes are known" if nodes_seen < nodes else ""
    if being_written:
        seen += (
            f"; {being_written} of {plural(ledgers, 'ledger')} {verb(being_written, 'was', 'were')} still being "
            "written: the audit has the whole"
        )
    elif unheard:
        ranks = plural(unheard, "other rank")
        seen += f", without {ranks} of this host, not heard of yet: the audit has what they record"
    report = (
        f"report: carbon-plugin audit {run_dir}" if written else f"no report: nothing could be written in {run_dir}"
    )
    return f"the run is at step {step:,} and has used {wording.energy(energy_j)}{carbon}{seen}; {report}"


def _metered(devices: Sequence[DeviceIdentity]) -> str:
    counts = Counter((device.rung, device.energy_kind) for device in devices)
    parts = []
    for (rung, kind), number in counts.items():
        what = plural(number, "GPU") if rung == "gpu" else f"the {rung}"
        parts.append(f"{what} ({_KINDS.get(kind, kind)})")
    return ", ".join(parts) or "nothing"
