"""Meter a whole node or facility by any source of its power. The host is metered as the node without its GPUs.

A node meter contains the GPUs; the difference is recorded, so that no joule is counted twice.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.host.share import HostShare, ShareSource, fixed
from carbon_plugin.meters.node.address import VARIABLE, NodeAddress
from carbon_plugin.meters.node.open import open_source
from carbon_plugin.meters.node.poller import (
    FIRST_WAIT_S,
    NODE_COUNTER_SPREAD,
    NODE_POWER_SPREAD,
    NodePoller,
    NodeState,
    kind_of,
)
from carbon_plugin.meters.node.source import DEADLINE_S, FaultCode, NodeAnswer, SourceError
from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.spec.metered import Accuracy, DeviceIdentity
from carbon_plugin.spec.numbers.range import ZERO, Range

_KEPT_GPU_POINTS = 256
"""More rounds than there are between two answers of the slowest meter at one round a second."""

BELOW_FOR_S = 5.0
"""A node meter that is behind its GPUs by what they draw in this many seconds is not just slow (our convention)."""

FACILITY = Bounds(ceiling_w=2e9, limit_w=None, source="the most of any data centre")

_ADVICE: dict[FaultCode, str] = {
    "unreachable": "check from this node that the service answers and that no firewall is between",
    "refused": f"give user and password, or a token, in {VARIABLE}_USER, _PASSWORD, _TOKEN",
    "permission": "let this user read it; ipmitool needs /dev/ipmi0",
    "not_supported": "docs/meters.md says what each kind of node meter needs",
}


class GpuHistory:
    """One instance holds the energy of all GPUs of the node at the moments when they were read.

    It gives the energy at the moments between, too.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, Range]] = deque(maxlen=_KEPT_GPU_POINTS)

    def observe(self, readings: Sequence[Reading]) -> None:
        """Add one round of readings of whole GPUs; a GPU that cannot be read keeps its energy."""
        if not readings:
            return
        energy = ZERO
        for reading in readings:
            energy = energy.plus(reading.energy or ZERO)
        self._points.append((max(reading.monotonic_s for reading in readings), energy))

    def at(self, monotonic_s: float) -> Range:
        """Return the energy at a moment, on a straight line between two rounds; outside of them that of the nearest
        round.
        """
        before: tuple[float, Range] | None = None
        for moment_s, energy in self._points:
            if moment_s >= monotonic_s:
                if before is None or moment_s <= before[0]:
                    return energy
                part = (monotonic_s - before[0]) / (moment_s - before[0])
                return before[1].towards(energy, part)
            before = (moment_s, energy)
        return before[1] if before else ZERO


class _Below(Struct, frozen=True, kw_only=True):
    """One instance holds how the energy of the node compares with that of the GPUs in it.

    `at_s` is the moment up to which the remainder is known; `waits` is whether the GPUs are ahead since, and `fault`
    says that they cannot be. `given_up_j` is what was given up of the remainder, which is below zero, and `forfeited_s`
    for how many seconds.
    """

    at_s: float
    waits: bool = False
    fault: str | None = None
    given_up_j: float = 0.0
    forfeited_s: float = 0.0

    def behind(self, lead_j: float, gpus_j: float, monotonic_s: float) -> _Below:
        """Return the comparison where the GPUs are ahead of the node by `lead_j` and have drawn `gpus_j` since `at_s`.

        A lead that no delay explains becomes a fault, and its stretch is given up.
        """
        elapsed_s = monotonic_s - self.at_s
        if self.fault is None and lead_j <= gpus_j / elapsed_s * BELOW_FOR_S:
            return replace(self, waits=True)
        node_w, gpus_w = (gpus_j - lead_j) / elapsed_s, gpus_j / elapsed_s
        return _Below(
            at_s=monotonic_s,
            waits=True,
            fault=f"the node meter tells {max(0.0, node_w):.0f} W while the GPUs inside the node draw {gpus_w:.0f} W",
            given_up_j=self.given_up_j - lead_j,
            forfeited_s=self.forfeited_s + elapsed_s,
        )


class NodeMeter:
    """The meter reads one device: the host as node less GPUs, or a share of a facility. Make it with
    `open_node_meter`.
    """

    def __init__(
        self,
        poller: NodePoller,
        identity: DeviceIdentity,
        *,
        bounds: Bounds,
        share: ShareSource,
        gpus: GpuHistory | None,
        clock: Callable[[], float],
    ) -> None:
        self.devices = [identity]
        self.bounds = {identity.key: bounds}
        self.poll_interval_s: float | None = None
        self._poller = poller
        self._share = share
        self._gpus = gpus
        self._clock = clock
        self._pid = os.getpid()
        self._closed = False
        self._start: Range | None = None
        self._remainder = self._charged = ZERO
        self._below = _Below(at_s=poller.started_s)

    def read(self) -> list[Reading]:
        """Return the state as of the last answer, without asking the source.

        The list is empty after `close` and in a forked child.
        """
        if self._closed or os.getpid() != self._pid:
            return []
        state = self._poller.state
        if state is None:
            return []
        self._charge(state)
        key, below, charged = self.devices[0].key, self._below, self._charged
        kind = "absent" if below.waits else state.kind
        news = self._poller.news.pop() if self._poller.news else (None, None)
        fault, message = (state.fault, state.message) if state.fault is not None else news
        if fault is None and below.fault is not None:
            fault, message = "below_gpus", below.fault
        return [
            Reading(
                key=key,
                # An answer holds for its own moment; without one, nothing is known of the present moment.
                monotonic_s=self._clock() if kind == "absent" else state.monotonic_s,
                energy=charged,
                kind=kind,
                fault=fault,
                message=None if message is None else f"{key}: {message}",
                covered_s=min(state.covered_s, below.at_s - self._poller.started_s) - below.forfeited_s,
            )
        ]

    @property
    def node_power_w(self) -> float | None:
        """Return the power of the whole node with its GPUs as last told, W; None where the source tells no power or
        meters something else than one node."""
        state = self._poller.state
        return state.power_w if state is not None and self._gpus is not None else None

    def close(self) -> None:
        """Stop asking the source. Safe to call twice."""
        self._closed = True
        if os.getpid() == self._pid:
            self._poller.close()

    def _charge(self, state: NodeState) -> None:
        """Add the job's energy up to now: each stretch of the remainder times the share of that stretch.

        Where the GPUs are ahead of the node that contains them, the remainder waits: a service processor averages over
        seconds, and a GPU's counter may make up for a gap. A lead that no delay explains is a fault of the node meter:
        the stretch is given up, and counting goes on from here.
        """
        elapsed_s = state.monotonic_s - self._below.at_s
        if elapsed_s <= 0 or state.kind == "absent":
            return  # without a new answer the share of this stretch is asked for at the next read
        before, raw = self._remainder, self._beside_gpus(state)
        given_up_j = self._below.given_up_j
        ahead_j = raw.value - given_up_j - before.value
        if ahead_j <= 0 and self._gpus is not None:
            gpus_j = self._gpus.at(state.monotonic_s).value - self._gpus.at(self._below.at_s).value
            self._below = self._below.behind(-ahead_j, gpus_j, state.monotonic_s)
            return
        self._below = replace(self._below, at_s=state.monotonic_s, waits=False, fault=None)
        now = before.at_least(raw.plus(Range.exactly(-given_up_j)))
        self._charged = self._charged.plus(now.since(before).times(self._share().part))
        self._remainder = now

    def _beside_gpus(self, state: NodeState) -> Range:
        """Return E_node - E_gpus since the start.

        The errors of the node's sensor and of the GPUs' counters are independent.
        """
        gpus = self._gpus.at(state.monotonic_s) if self._gpus else ZERO
        if self._start is None:
            self._start = self._gpus.at(self._poller.started_s) if self._gpus else ZERO
        return state.energy.less_independent(gpus.since(self._start))


def open_node_meter(
    address: NodeAddress,
    host_key: str,
    *,
    bounds: Bounds,
    share: ShareSource,
    note: str | None = None,
    gpus: GpuHistory | None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
) -> NodeMeter | Unavailable:
    """Open the meter at an address and wait for its first answer, or return why there is none.

    `bounds` are what the node can draw with all that is in it. `share` is the job's part of the host and `note` says
    how it was found; the share of a facility is in its address. `gpus` is observed with all GPUs that the node
    contains; the caller makes sure that none is hidden. Without `gpus`, all energy of the node is that of the host.
    """
    try:
        bounds = bounds if address.covers == "node" else FACILITY
        poller = NodePoller(open_source(address, environ), bounds, clock)
    except SourceError as error:
        return _unavailable(error)
    if not isinstance(poller.first, NodeAnswer):
        poller.close()
        silent = SourceError(f"{address.shown} has not answered within {FIRST_WAIT_S:g} s", "unreachable")
        return _unavailable(poller.first or silent)
    reads = "what {} reads beside the GPUs" if gpus else "all that {} reads; no GPU can be read apart"
    note = "; ".join(filter(None, (reads.format(address.shown), note)))
    identity = _identity(address, host_key, poller, poller.first, note, "node less GPUs" if gpus else "node")
    if address.covers == "facility":
        stated = HostShare(part=Range.exactly(address.share), sentence="stated")
        return NodeMeter(poller, identity, bounds=bounds, share=fixed(stated), gpus=None, clock=clock)
    return NodeMeter(poller, identity, bounds=bounds, share=share, gpus=gpus, clock=clock)


def _identity(
    address: NodeAddress, host_key: str, poller: NodePoller, first: NodeAnswer, note: str, scope: str
) -> DeviceIdentity:
    kind = kind_of(first)
    meter = f"{address.kind} energy counter" if kind == "counter" else f"{address.kind} power, integrated"
    accuracy = Accuracy(
        proportional=NODE_COUNTER_SPREAD if kind == "counter" else NODE_POWER_SPREAD,
        age_s=poller.poll_s + DEADLINE_S,
        source="convention of this project",
    )
    if address.covers == "facility":
        # The key is the same on every node that asks the same meter, so that its energy counts once.
        digest = blake2b(f"{address.shown} {sorted(address.options.items())}".encode(), digest_size=6).hexdigest()
        return DeviceIdentity(
            key=f"facility/{digest}",
            name="facility",
            rung="facility",
            scope="facility",
            meter=meter,
            energy_kind=kind,
            note=f"{address.share:g} of {address.shown}",
            accuracy=accuracy,
        )
    return DeviceIdentity(
        key=f"{host_key}/host",
        name="host",
        rung="host",
        scope=scope,
        meter=meter,
        energy_kind=kind,
        note=note,
        accuracy=accuracy,
    )


def _unavailable(error: SourceError) -> Unavailable:
    return Unavailable(
        kind=f"node_{error.code}",
        reason=f"the node meter cannot be used: {error}; the host is known without it",
        advice=_ADVICE.get(error.code),
    )
