"""What every meter answers, whatever it reads: which devices, how well, and how much energy since it started."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from msgspec import Struct

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.spec.amounts import plural, verb
from carbon_plugin.spec.metered import DeviceIdentity, EnergyKind


class Reading(Struct, frozen=True, kw_only=True):
    """Energy of one device since its meter was opened, at one moment.

    `energy_j` never falls: counter resets and wrap-arounds are absorbed and reported in `fault`. It is None
    when the device cannot be read and nothing can be said. `kind` is how this stretch was obtained; `low_j` and
    `high_j` bound `energy_j` where the method has a range. `power_w` is the latest power if the device tells it.
    `monotonic_s` is the clock at the reading itself. `fault` is a short code ("counter_reset", "counter_stuck",
    "lost", "not_supported", "permission", "slow", "error", ...) and `message` its sentence, both None when all is
    well; a reset is told once, other faults on every reading while they last.

    A meter that cannot read holds `energy_j`, calls the stretch "absent" and says in `covered_s` for how many seconds
    since it was opened `energy_j` stands; None means for all of them. If the device answers again, its energy may cover
    the stretch after all. The gate (`meters.gate`) fills what is not covered with a labelled estimate: `estimated_j` is
    that part of `energy_j`, and the stretch is then "modelled".
    """

    key: str
    monotonic_s: float
    energy_j: float | None
    kind: EnergyKind
    low_j: float | None = None
    high_j: float | None = None
    power_w: float | None = None
    fault: str | None = None
    message: str | None = None
    covered_s: float | None = None
    estimated_j: float = 0.0


class Note(NamedTuple):
    """Something that the ledger must carry about how this host is metered: a kind of event and its sentence."""

    kind: str
    message: str


class Unavailable(Struct, frozen=True, kw_only=True):
    """Why there is no meter where one was asked for: a short code, a sentence, and what the user could do."""

    kind: str
    reason: str
    advice: str | None = None


UNREAD_EVENT = "gpus_not_metered"
"""Kind of the event that says which GPUs no meter reads; its data are those of `UnreadGpus.data`."""


class UnreadGpus(Struct, frozen=True, kw_only=True):
    """GPUs that this machine or this job has and that no meter reads: how many, what shows it, and the problem. They
    are `usable` unless only the bus shows them: without a device file nobody computes on one."""

    count: int
    evidence: str
    problem: Unavailable
    usable: bool = True

    @property
    def sentence(self) -> str:
        """One line that a headline or a warning can carry as it is."""
        many = f"{plural(self.count, 'GPU')} {verb(self.count, 'is', 'are')}"
        return f"{many} not metered ({self.evidence}): {self.problem.reason}"

    @property
    def data(self) -> dict[str, object]:
        """The same for the ledger."""
        problem = self.problem
        return {"count": self.count, "evidence": self.evidence, "kind": problem.kind, "advice": problem.advice}


class Meter(Protocol):
    """Reads a fixed set of devices. `read` may block for a driver call, so only the monitor thread calls it;
    it never raises for a device that fails, it says so in the `Reading`. `poll_interval_s` is how often `read`
    must be called for the numbers to be right: None for hardware counters, a second or less for integration. `bounds`
    are what each device can draw, by key: without them no reading passes the gate."""

    @property
    def devices(self) -> list[DeviceIdentity]:
        """The devices that it reads."""
        ...

    @property
    def bounds(self) -> dict[str, Bounds]:
        """What each device can draw, by its key."""
        ...

    @property
    def poll_interval_s(self) -> float | None:
        """Longest interval between two reads, in seconds; None if any cadence is right."""
        ...

    def read(self) -> list[Reading]:
        """One `Reading` a device, in the order of `devices`."""
        ...

    def close(self) -> None:
        """Release the driver. Safe to call twice."""
        ...
