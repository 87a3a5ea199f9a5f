"""Read what Kubernetes gave a job: pods, their events and their resource claims, as `kubectl get ... -o json` writes
them.

A pod is known by its UID, because two pods of one name may follow each other or live in two namespaces.
`audit.allocation.reconcile` compares the allocations with a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.audit.allocation.gpu_resources import MOST_GPUS, AllocatedGpus, held_of
from carbon_plugin.audit.findings.reserved import Allocation
from carbon_plugin.errors import ReportError
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.parsing.boundary import Place, parse_json, read_bytes
from carbon_plugin.spec.parsing.limits import MOST_RUN_S

_STARTED, _ENDED = {"Scheduled"}, {"Killing", "Evicted", "Preempted", "Completed", "DeadlineExceeded"}
_OVER = {"Succeeded", "Failed"}
_WHAT = "expected the output of kubectl get pods,events -o json"
_KINDS = ("Pod", "Event", "ResourceClaim")


class _Reference(Struct, frozen=True):
    """A reference to a pod in another object. Fields that are not stated are empty."""

    name: str
    namespace: str
    uid: str

    def means(self, other: _Reference) -> bool:
        """Return whether two references mean the same pod. A field that one of them leaves empty matches any value."""
        if self.uid and other.uid:
            return self.uid == other.uid
        agree = not (self.namespace and other.namespace) or self.namespace == other.namespace
        return self.name == other.name and agree


class _Event(Struct, frozen=True):
    """An event of a pod: its reason, and when it happened for the first and for the last time, Unix s."""

    about: _Reference
    reason: str
    first_s: float | None
    last_s: float | None


class _Claim(Struct, frozen=True):
    """A resource claim: the number of devices that it was given (None before that), and the number of pods that share
    it.
    """

    devices: int | None
    pods: int


def read_kubernetes(path: Path, *, gpus_by_host: Mapping[str, int], until_unix_s: float) -> list[Allocation]:
    """Return the allocations in the output of `kubectl get pods,events,resourceclaims -o json`, or of any of these
    alone.

    A pod holds its GPUs from the moment that it is scheduled until its last container has ended. A pod that still runs
    holds them until `until_unix_s`, and a pod that was never scheduled holds none. A pod that is gone is known only
    from its events, which name no GPUs. It counts with the GPUs in the ledger of its host (a pod's host name is its
    own), else with those of the pod that has its name now, else with as many as the largest host here has. Raises
    `ReportError` naming the field for any other file.
    """
    document = Place(parse_json(read_bytes(path, ReportError), path, _WHAT, ReportError), str(path), ReportError)
    if not isinstance(document.value, dict) or not isinstance(document.value.get("items", []), list):
        raise ReportError(f"{path}: {_WHAT}")
    items = document.field("items").items() if "items" in document.value else [document]
    if items and not any(_kind(item) in _KINDS for item in items):
        raise ReportError(f"{path}: {_WHAT}; none of its {plural(len(items), 'item')} is a {' or '.join(_KINDS)}")
    pods = [(_reference(item.field("metadata")), item) for item in items if _kind(item) == "Pod"]
    events = [event for item in items if _kind(item) == "Event" and (event := _event(item)) is not None]
    claims = {_reference(item.field("metadata")): _claim(item) for item in items if _kind(item) == "ResourceClaim"}
    by_name: dict[str, list[_Event]] = {}
    for event in events:
        by_name.setdefault(event.about.name, []).append(event)
    found = []
    gpus_by_name: dict[str, float] = {}
    for reference, pod in pods:
        own = [event for event in by_name.get(reference.name, []) if event.about.means(reference)]
        start_s = _scheduled_s(pod)
        if start_s is not None:
            end_s = _ended_s(pod, own)
            held = _gpus_of_pod(pod, reference, claims)
            gpus_by_name[reference.name] = held.gpus
            found.append(_allocation(path, reference, _phase(pod), held, start_s, end_s, until_unix_s))
    for reference, own in _gone(events, [reference for reference, _ in pods]):
        known = {**gpus_by_name, **gpus_by_host}
        gpus = known.get(reference.name, max(gpus_by_host.values(), default=0))
        for start_s, end_s in _lives(own):
            state = "Unknown" if end_s is None else "Gone"
            found.append(_allocation(path, reference, state, AllocatedGpus(float(gpus)), start_s, end_s, until_unix_s))
    return [one for one in found if one.gpus]


def _allocation(
    path: Path,
    pod: _Reference,
    state: str,
    held: AllocatedGpus,
    start_s: float,
    end_s: float | None,
    until_unix_s: float,
) -> Allocation:
    duration_s = max(0.0, (until_unix_s if end_s is None else end_s) - start_s)
    if duration_s > MOST_RUN_S:
        raise ReportError(f"{path}: pod {pod.name} ran for {duration_s:,.0f} s, expected at most {MOST_RUN_S:,.0f} s")
    return Allocation(
        name=f"pod {pod.name}",
        state=state,
        gpus=held.gpus,
        duration_s=duration_s,
        start_unix_s=start_s,
        sized=held.sized,
        notes=list(held.notes),
    )


def _kind(item: Place) -> str | None:
    return item.field("kind").text()


def _reference(place: Place) -> _Reference:
    return _Reference(*(place.field(field).text() or "" for field in ("name", "namespace", "uid")))


def _event(item: Place) -> _Event | None:
    """Return an event of either API, whose fields have different names. Return None for an event of anything
    but a pod.
    """
    about = item.field("involvedObject") if item.field("involvedObject").value else item.field("regarding")
    if _kind(about) != "Pod":
        return None
    fields = ("eventTime", "firstTimestamp", "deprecatedFirstTimestamp", "lastTimestamp", "deprecatedLastTimestamp")
    stated = [item.field(field).moment_s() for field in fields]
    moments = [
        moment for moment in (*stated, item.field("series", "lastObservedTime").moment_s()) if moment is not None
    ]
    reason = item.field("reason").text() or ""
    return _Event(_reference(about), reason, min(moments, default=None), max(moments, default=None))


def _gone(events: Sequence[_Event], pods: Sequence[_Reference]) -> list[tuple[_Reference, list[_Event]]]:
    """Return the events of pods that are not listed, by pod."""
    listed: dict[str, list[_Reference]] = {}
    for pod in pods:
        listed.setdefault(pod.name, []).append(pod)
    groups: dict[str, list[tuple[_Reference, list[_Event]]]] = {}
    for event in events:
        about = event.about
        if any(about.means(pod) for pod in listed.get(about.name, ())):
            continue
        same_name = groups.setdefault(about.name, [])
        group = next((own for reference, own in same_name if reference.means(about)), None)
        if group is None:
            same_name.append((about, [event]))
        else:
            group.append(event)
    return [group for same_name in groups.values() for group in same_name]


def _lives(events: Sequence[_Event]) -> list[tuple[float, float | None]]:
    """Return the start and the end of each time that a pod of this name was scheduled, Unix s. An end is None if no
    event tells it.
    """
    starts = sorted(event.first_s for event in events if event.reason in _STARTED and event.first_s is not None)
    ends = sorted(event.last_s for event in events if event.reason in _ENDED and event.last_s is not None)
    lives = []
    for index, start_s in enumerate(starts):
        next_s = starts[index + 1] if index + 1 < len(starts) else float("inf")
        own = [end_s for end_s in ends if start_s <= end_s <= next_s]
        lives.append((start_s, max(own) if own else (None if next_s == float("inf") else next_s)))
    return lives


def _phase(pod: Place) -> str:
    return pod.field("status", "phase").text() or "Unknown"


def _scheduled_s(pod: Place) -> float | None:
    """Return when the pod was given its node, Unix s, or None for a pod that still waits for one."""
    started_s = pod.field("status", "startTime").moment_s()
    for condition in pod.field("status", "conditions").items():
        if condition.field("type").text() == "PodScheduled":
            since_s = condition.field("lastTransitionTime").moment_s()
            if (condition.field("status").text() or "True") != "True":
                return None
            return started_s if since_s is None else since_s
    return started_s


def _ended_s(pod: Place, events: Sequence[_Event]) -> float | None:
    """Return when the pod's last container ended, Unix s, or None while one still runs.

    A container that is killed may be started again. Events therefore tell the end only of a pod that is over and whose
    containers do not tell it.
    """
    statuses = pod.field("status", "containerStatuses").items()
    ended = [status.field("state", "terminated") for status in statuses]
    if ended and all(one.value is not None for one in ended):
        finished = [one.field("finishedAt").moment_s() for one in ended]
        known = [moment for moment in finished if moment is not None]
        if known:
            return max(known)
    if _phase(pod) not in _OVER:
        return None
    changes = [
        condition.field("lastTransitionTime").moment_s() for condition in pod.field("status", "conditions").items()
    ]
    ends = [event.last_s for event in events if event.reason in _ENDED]
    known = [moment for moment in ends if moment is not None] or [moment for moment in changes if moment is not None]
    return max(known, default=None)


def _gpus_of_pod(pod: Place, reference: _Reference, claims: Mapping[_Reference, _Claim]) -> AllocatedGpus:
    """Return the GPUs that the containers and claims of a pod hold.

    Containers run side by side, and so do sidecars (init containers that always restart). Other init containers run
    before them one by one, beside the sidecars that are already running. The pod holds the largest number that it needs
    at one time.
    """
    together: dict[str, int] = {}
    before: dict[str, int] = {}
    for container in pod.field("spec", "initContainers").items():
        resources = _resources(container)
        if container.field("restartPolicy").text() == "Always":
            _add(together, resources)
            resources = {}
        for name, count in resources.items():
            before[name] = max(before.get(name, 0), count + together.get(name, 0))
    for container in pod.field("spec", "containers").items():
        _add(together, _resources(container))
    held = held_of((name, max(together.get(name, 0), before.get(name, 0))) for name in {**together, **before})
    claimed, notes = _claimed(pod, reference, claims)
    return AllocatedGpus(held.gpus + claimed, held.sized, (*held.notes, *notes))


def _add(total: dict[str, int], resources: Mapping[str, int]) -> None:
    for name, count in resources.items():
        total[name] = total.get(name, 0) + count


def _resources(container: Place) -> dict[str, int]:
    """Return the number of devices of a container by resource name. Device plugins need equal limits and requests, of
    which one may be left out.
    """
    resources = container.field("resources")
    stated = {**resources.field("requests").mapping(), **resources.field("limits").mapping()}
    limits = resources.field("limits").mapping()
    return {
        name: resources.field("limits" if name in limits else "requests", name).count(MOST_GPUS)
        for name in stated
        if "/" in name
    }


def _claim(item: Place) -> _Claim:
    results = item.field("status", "allocation", "devices", "results")
    reserved = len(item.field("status", "reservedFor").items())
    return _Claim(None if results.value is None else len(results.items()), max(1, reserved))


def _claimed(pod: Place, reference: _Reference, claims: Mapping[_Reference, _Claim]) -> tuple[float, list[str]]:
    """Return the devices of a pod's resource claims: the allocated ones where the claim is in the file, else one for
    each claim.
    """
    stated = pod.field("spec", "resourceClaims").items()
    made = {
        status.field("name").text(): status.field("resourceClaimName").text()
        for status in pod.field("status", "resourceClaimStatuses").items()
    }
    total, notes = 0.0, []
    for entry in stated:
        own = entry.field("name").text() or ""
        name = entry.field("resourceClaimName").text() or made.get(own) or own
        wanted = _Reference(name, reference.namespace, "")
        claim = next((claim for known, claim in claims.items() if known.means(wanted)), None)
        if claim is None or claim.devices is None:
            total += 1.0
            notes.append(f"resource claim {name}, counted as one device: how many it was given is not in the file")
        else:
            total += claim.devices / claim.pods
            notes.append(f"resource claim {name}, {plural(claim.devices, 'device')} for {plural(claim.pods, 'pod')}")
    return total, notes
