"""What the scheduler gave a job, from its own records: `sacct` output, or pods and events of Kubernetes as JSON.

Allocations by name, GPUs and duration, as plain values; what they mean for a run is `audit.reconcile`'s.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.audit.result import Allocation
from carbon_plugin.errors import ReportError

_SACCT_COLUMNS = ("JobID", "AllocTRES")
_STARTED, _ENDED = {"Scheduled"}, {"Killing", "Evicted", "Preempted", "Completed", "DeadlineExceeded"}


def read_sacct(path: Path) -> list[Allocation]:
    """Allocations in the output of `sacct -P -o JobID,State,Start,End,ElapsedRaw,AllocTRES` (`-D` for requeued jobs).

    Steps ("123.batch", "123.0") lie inside their job and are left out, and so is what was never started. GPUs are those
    of gres/gpu in AllocTRES. Raises `ReportError` for another file.
    """
    rows = list(csv.DictReader(_text(path).splitlines(), delimiter="|"))
    columns = set(rows[0]) if rows else set()
    missing = [name for name in _SACCT_COLUMNS if name not in columns]
    if missing or not columns & {"ElapsedRaw", "Elapsed"}:
        raise ReportError(
            f"{path}: expected the output of sacct -P with a header and the columns JobID, ElapsedRaw and AllocTRES"
        )
    found = [
        Allocation(
            name=f"job {row['JobID']}",
            state=(row.get("State") or "UNKNOWN").split()[0],
            gpus=_gpus_of_tres(row["AllocTRES"] or ""),
            duration_s=_elapsed_s(row, path),
        )
        for row in rows
        if "." not in (row["JobID"] or ".")
    ]
    return [one for one in found if one.duration_s > 0]


def read_kubernetes(path: Path, *, gpus_by_host: Mapping[str, int], until_unix_s: float) -> list[Allocation]:
    """Allocations in the output of `kubectl get pods,events -o json`, or of either alone.

    A pod holds its GPUs from being scheduled until its last container ended, or until it was evicted or killed; one
    that still runs holds them until `until_unix_s`. Events name no GPUs: for a pod that is gone, they are those of the
    ledger of that host (a pod's host name is its own), else as many as the largest host here has.
    Raises `ReportError` for another file.
    """
    try:
        document = msgspec.json.decode(_text(path))
    except msgspec.MsgspecError:
        document = None
    items = document.get("items", [document]) if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise ReportError(f"{path}: expected the output of kubectl get pods,events -o json")
    pods = {_name_of(item.get("metadata")): item for item in items if _kind(item) == "Pod"}
    events = [item for item in items if _kind(item) == "Event" and _about(item).get("kind") == "Pod"]
    names = dict.fromkeys([*pods, *(_name_of(_about(event)) for event in events)])
    found = []
    for name in names:
        own = [event for event in events if _name_of(_about(event)) == name]
        pod = pods.get(name, {})
        start_s = _earliest([_scheduled_s(pod), *(_moment_s(e) for e in own if e.get("reason") in _STARTED)])
        end_s = _latest([*_ended_s(pod), *(_moment_s(e) for e in own if e.get("reason") in _ENDED)])
        gpus = _gpus_of_pod(pod) if pod else gpus_by_host.get(name, max(gpus_by_host.values(), default=0))
        if start_s is None or not gpus:
            continue
        state = (pod.get("status") or {}).get("phase") or ("Gone" if end_s else "Unknown")
        duration_s = max(0.0, (until_unix_s if end_s is None else end_s) - start_s)
        found.append(Allocation(name=f"pod {name}", state=state, gpus=float(gpus), duration_s=duration_s))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _gpus_of_tres(tres: str) -> float:
    """GPUs of "cpu=64,gres/gpu=8,gres/gpu:h100=8,mem=1T,node=1": the total, else the sum over types."""
    total = re.search(r"(?:^|,)gres/gpu=(\d+)", tres)
    if total:
        return float(total[1])
    return float(sum(int(count) for count in re.findall(r"gres/gpu:[^=,]+=(\d+)", tres)))


def _elapsed_s(row: Mapping[str, str], path: Path) -> float:
    """Seconds from ElapsedRaw, or from Elapsed as [days-]hours:minutes:seconds."""
    raw = row.get("ElapsedRaw") or ""
    if raw.isdigit():
        return float(raw)
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", row.get("Elapsed") or "")
    if parts is None:
        raise ReportError(f"{path}: job {row['JobID']} has ElapsedRaw {raw!r}, expected seconds")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def _kind(item: Any) -> str | None:
    return item.get("kind") if isinstance(item, dict) else None


def _about(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return event.get("involvedObject") or event.get("regarding") or {}


def _name_of(reference: Mapping[str, Any] | None) -> str:
    return str((reference or {}).get("name", ""))


def _gpus_of_pod(pod: Mapping[str, Any]) -> float:
    """GPUs in the limits of its containers, of any vendor ("nvidia.com/gpu", "amd.com/gpu")."""
    limits = [
        (container.get("resources") or {}).get("limits") or {}
        for container in (pod.get("spec") or {}).get("containers", [])
    ]
    return float(sum(int(count) for limit in limits for name, count in limit.items() if name.endswith("/gpu")))


def _scheduled_s(pod: Mapping[str, Any]) -> float | None:
    status = pod.get("status") or {}
    moments = [
        one.get("lastTransitionTime") for one in status.get("conditions", []) if one.get("type") == "PodScheduled"
    ]
    return _unix_s(next(iter(moments), None) or status.get("startTime"))


def _ended_s(pod: Mapping[str, Any]) -> list[float | None]:
    """When its containers ended; nothing while one of them runs."""
    states = [one.get("state") or {} for one in (pod.get("status") or {}).get("containerStatuses", [])]
    if not all("terminated" in state for state in states):
        return []
    return [_unix_s(state["terminated"].get("finishedAt")) for state in states]


def _moment_s(event: Mapping[str, Any]) -> float | None:
    return _unix_s(event.get("eventTime") or event.get("firstTimestamp") or event.get("lastTimestamp"))


def _unix_s(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None


def _earliest(moments: Sequence[float | None]) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _latest(moments: Sequence[float | None]) -> float | None:
    return max((moment for moment in moments if moment is not None), default=None)
