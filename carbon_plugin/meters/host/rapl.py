"""Read CPU and DRAM energy from RAPL, through the kernel's powercap files.

None of its domains covers NICs, disks, fans or supply losses. Counters that go back without having wrapped, that stand
still or that show more than a package can draw are faults; the gate estimates what they do not tell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.advance import advance, start_track
from carbon_plugin.meters.bounds import Bounds, possible_energy
from carbon_plugin.meters.host.modelled import CPU_FULL_SHARE, CPU_IDLE_SHARE
from carbon_plugin.meters.host.rapl_domains import POWERCAP, Closed, Domain, DomainKind, find_domains
from carbon_plugin.meters.host.share import WHOLE, HostShare, ShareSource, fixed
from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.meters.track import Sample, Step, Traits
from carbon_plugin.spec.metered import Accuracy, DeviceIdentity
from carbon_plugin.spec.numbers.range import ZERO, Range

RAPL_SPREAD = 0.05
"""The half-range of a RAPL domain as p10-p90 (our convention; the counters carry no stated accuracy)."""

MOST_W: dict[DomainKind, float] = {"package": 1000.0, "dram": 300.0}
"""The power in W that no domain exceeds, for a machine of which nothing is known."""

HEADROOM = 2.0
"""The factor by which a package may exceed its TDP under a short-term limit, which vendors set to 1.2 to 2 times it
(our convention).
"""

POLL_S = 10.0
"""The longest time in seconds between two reads. A counter that starts again is told from one that wrapped by the
energy that a wrap would mean, which is clearer the shorter the time is.
"""

STUCK_AFTER_S = 5.0
"""The counters step every millisecond, and every package draws power, so that one that stands still this
long is stuck.
"""

MIRROR_J = 2.0
"""Two reads of one counter right after each other differ by less than this: it steps every millisecond."""


class RaplMeter:
    """The meter reads a host's packages and DRAM. Make it with `open_rapl_meter`.

    `share` gives the part of the host's energy that is the job's. `poll_interval_s` is short enough that no counter
    wraps twice between two reads.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        groups: Sequence[Sequence[Domain]],
        host_key: str,
        *,
        bounds: Sequence[Bounds],
        share: ShareSource,
        note: str | None,
        clock: Callable[[], float],
    ) -> None:
        domains = [group[0] for group in groups]
        self.devices = [
            DeviceIdentity(
                key=f"{host_key}/rapl-{domain.label}",
                name=domain.label,
                rung="host",
                scope=domain.scope,
                meter="rapl energy counter",
                energy_kind="counter",
                note="; ".join(filter(None, (_mirror_note(group), note))) or None,
                accuracy=Accuracy(proportional=RAPL_SPREAD, age_s=0.001, source="convention of this project"),
            )
            for domain, group in zip(domains, groups, strict=True)
        ]
        self.bounds = {device.key: bound for device, bound in zip(self.devices, bounds, strict=True)}
        wraps_s = [d.wrap_j / b.ceiling_w for d, b in zip(domains, bounds, strict=True) if d.wrap_j is not None]
        self.poll_interval_s = min([POLL_S, *wraps_s])
        self._pid = os.getpid()
        self._share = share
        self._clock = clock
        self._sockets = [_Socket(group, bound, clock) for group, bound in zip(groups, bounds, strict=True)]
        self._closed = False

    def read(self) -> list[Reading]:
        """Return one reading a domain. The list is empty after `close` and in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return []
        share = self._share()
        return [socket.read(device.key, share) for socket, device in zip(self._sockets, self.devices, strict=True)]

    def close(self) -> None:
        """Stop reading; no file is held open."""
        self._closed = True


class _Socket:
    """One instance is a device: a domain, and further domains that have shown the same counter until now.

    A domain that shows another value later has had its own counter all the time, so that its energy is added.
    """

    def __init__(self, group: Sequence[Domain], bounds: Bounds, clock: Callable[[], float]) -> None:
        self._first, *self._mirrors = (_Counter(domain, bounds, clock) for domain in group)
        self._apart: list[_Counter] = []
        self._clock = clock

    def read(self, key: str, share: HostShare) -> Reading:
        """Return the job's energy so far, and what is wrong with the counter."""
        asked_s = self._clock()
        step, fault, message = self._first.look(share)
        charged = self._first.charged
        for mirror in [*self._mirrors, *self._apart]:
            mirror.look(share)
        self._apart += [mirror for mirror in self._mirrors if abs(mirror.raw_j - self._first.raw_j) > MIRROR_J]
        self._mirrors = [mirror for mirror in self._mirrors if mirror not in self._apart]
        for apart in self._apart:
            charged = charged.plus(apart.charged)
        now_s = self._clock()
        return Reading(
            key=key,
            monotonic_s=now_s,
            energy=charged,
            kind=step.kind,
            fault=fault,
            message=None if message is None else f"{key}: {message}",
            covered_s=step.track.covered_at(now_s, step.kind),
            late_s=now_s - asked_s,
        )


class _Counter:
    """One instance holds a domain between two reads: its track, what it has wrapped, and the energy that is
    the job's.
    """

    def __init__(self, domain: Domain, bounds: Bounds, clock: Callable[[], float]) -> None:
        self.raw_j = domain.joules()
        self.charged = ZERO
        self._domain = domain
        self._traits = Traits(
            bounds=bounds,
            averaging="instant",
            stuck_after_s=STUCK_AFTER_S,
            counter_spread=RAPL_SPREAD,
        )
        self._clock = clock
        self._wrapped_j = 0.0
        self._track = start_track(Sample(monotonic_s=clock(), counter_j=self.raw_j, power_w=None), bounds)

    def look(self, share: HostShare) -> tuple[Step, str | None, str | None]:
        """Read the counter and charge what it shows; return the step, and a fault with its sentence."""
        asked_s = self._clock()
        try:
            raw_j = self._domain.joules()
        except (OSError, ValueError) as error:
            fault = "permission" if isinstance(error, PermissionError) else "lost"
            held = Step(track=self._track, energy=self._track.energy, kind="absent")
            return held, fault, f"{self._domain.counter} could not be read: {error}"
        step = advance(self._track, self._sample(raw_j, asked_s), self._traits)
        added = step.track.energy.since(self._track.energy)
        self.charged = self.charged.plus(added.times(share.part))
        self._track = step.track
        return step, step.fault, None if step.message is None else f"{step.message} ({self._domain.counter})"

    def _sample(self, raw_j: float, asked_s: float) -> Sample:
        """Return a sample of the counter, which was read since `asked_s`, as if it never wrapped.

        A lower value is a wrap where a package can have drawn the energy that a wrap would mean. Otherwise the counter
        went back, which the track judges.
        """
        now_s = self._clock()
        wrap_j = self._domain.wrap_j
        if wrap_j is not None and raw_j < self.raw_j:
            elapsed_s = now_s - self._track.moved_s + self._track.late_s
            if possible_energy(raw_j + wrap_j - self.raw_j, elapsed_s, self._traits.bounds):
                self._wrapped_j += wrap_j
        self.raw_j = raw_j
        return Sample(monotonic_s=now_s, counter_j=raw_j + self._wrapped_j, power_w=None, late_s=now_s - asked_s)


def _mirror_note(group: Sequence[Domain]) -> str | None:
    names = ", ".join(domain.label for domain in group[1:])
    return f"{names} shows the same counter, which counts once" if names else None


class Platform(Struct, frozen=True, kw_only=True):
    """One instance holds the most that the CPUs and the memory of a machine draw together in use; None where it is not
    known.
    """

    cpu_tdp: Range | None = None
    dram: Range | None = None

    def bounds(self, scope: DomainKind, parts: int) -> Bounds:
        """Return what one of `parts` domains of this kind can draw. One of them may have all of the cores or memory."""
        whole = self.cpu_tdp if scope == "package" else self.dram
        if whole is None:
            most_w = MOST_W[scope]
            return Bounds(ceiling_w=most_w, limit_w=None, source=f"the most of any {scope}", always_draws=True)
        idle, full = (CPU_IDLE_SHARE.value, CPU_FULL_SHARE.high) if scope == "package" else (1.0, 1.0)
        ceiling_w = min(MOST_W[scope], max(HEADROOM * whole.high, 50.0))
        return Bounds(
            ceiling_w=ceiling_w,
            limit_w=min(ceiling_w, full * whole.high / parts),
            idle_w=idle * whole.low / parts,
            always_draws=True,
            source=f"{HEADROOM:g} times what this machine's {scope} can draw",
        )


def open_rapl_meter(
    host_key: str,
    *,
    root: Path = POWERCAP,
    platform: Platform | None = None,
    share: ShareSource | None = None,
    note: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[RaplMeter | None, list[Unavailable]]:
    """Return a meter of every package and dram domain below `root` that can be read, and a reason for each that cannot.

    `platform` is what the machine can draw. `share` is the job's part of the host, all of it by default; `note` says
    how it was found.
    """
    found = find_domains(root)
    problems = [_problem(failure) for failure in found.closed]
    problems += [Unavailable(kind="rapl_range", reason=remark) for remark in found.remarks]
    if not any(domain.scope == "package" for domain in found.domains):
        return None, problems or [Unavailable(kind="rapl_absent", reason=_absent(root), advice=_ABSENCE)]
    try:
        groups = with_mirrors(found.domains)
        counts = {scope: sum(group[0].scope == scope for group in groups) for scope in MOST_W}
        known = platform or Platform()
        bounds = [known.bounds(group[0].scope, counts[group[0].scope]) for group in groups]
        return RaplMeter(groups, host_key, bounds=bounds, share=share or fixed(WHOLE), note=note, clock=clock), problems
    except (OSError, ValueError) as error:
        return None, [Unavailable(kind="rapl_error", reason=f"RAPL counters do not answer: {error}"), *problems]


def with_mirrors(domains: Sequence[Domain]) -> list[list[Domain]]:
    """Return each domain with those that show its counter once more.

    Some AMD kernels show a socket's counter as that of each of its dies. Dies with counters of their own stay alone.
    Raises the errors of `Domain.joules`.
    """
    groups: list[list[Domain]] = []
    values = {domain.label: domain.joules() for domain in domains}
    for domain in domains:
        same = (
            group
            for group in groups
            if group[0].socket == domain.socket and abs(values[group[0].label] - values[domain.label]) <= MIRROR_J
        )
        group = next(same, None)
        if group is None:
            groups.append([domain])
        else:
            group.append(domain)
    return [[replace(group[0], label=group[0].socket), *group[1:]] if len(group) > 1 else group for group in groups]


def _problem(failure: Closed) -> Unavailable:
    if not failure.permission:
        return Unavailable(kind="rapl_error", reason=f"RAPL counters do not answer: {failure.sentence}")
    return Unavailable(
        kind="rapl_permission",
        reason=f"RAPL counters are not readable: {failure.sentence}",
        advice=f"RAPL is readable by root only since CVE-2020-8694: {failure.opening_command}; "
        "in a container, mount /sys/class/powercap and /sys/devices/virtual/powercap too",
    )


def _absent(root: Path) -> str:
    return f"no RAPL package counter below {root}"


_ABSENCE = "usual in virtual machines, in containers (Docker masks it) and on Arm; host power is modelled instead"
