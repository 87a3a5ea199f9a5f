"""Define what every meter provides, whatever it reads: its devices, its accuracy, and their energy so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.spec.metered import DeviceIdentity, EnergyKind
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.numbers.range import Range

PowerSource = Callable[[float], Range]
"""A function that returns the mean power, W, of the stretch that ends now and took the given number of seconds."""


class Reading(Struct, frozen=True, kw_only=True, gc=False):
    """One reading holds the energy of one device from the opening of its meter to one moment.

    `energy` is in J and never falls: counter resets and wrap-arounds are absorbed and reported in `fault`. It is None
    when the device cannot be read and nothing can be said. `kind` is how the energy of this stretch was obtained.
    `power_w` is the latest power if the device tells it.
    `monotonic_s` is the time of the reading itself on the monotonic clock, and `energy` may be that of a moment up to
    `late_s` before it, because a process can be stopped between the two. `fault` is a short code ("counter_reset",
    "counter_stuck", "lost", "not_supported", "permission", "slow", "error", ...) and `message` its sentence, both None
    when there is no fault; a reset is reported once, other faults on every reading while they last.

    A meter that cannot read keeps `energy` as it is, calls the stretch "absent" and says in `covered_s` how many
    seconds since its opening `energy` covers; None means all of them. If the device answers again, its energy may
    cover the stretch after all. The gate (`meters.gate`) fills what is not covered with a labelled estimate:
    `estimated_j` is that part of `energy`, and the stretch is then "modelled".
    """

    key: str
    monotonic_s: float
    energy: Range | None
    kind: EnergyKind
    power_w: float | None = None
    fault: str | None = None
    message: str | None = None
    covered_s: float | None = None
    estimated_j: float = 0.0
    late_s: float = 0.0

    @property
    def energy_j(self) -> float | None:
        """Return the energy without its range, J, or None where there is none."""
        return None if self.energy is None else self.energy.value

    def moved(self, monotonic_s: float, energy: Range, estimated_j: float) -> Reading:
        """Return the same reading as it was at another moment, with the energy of that moment, J."""
        return replace(self, monotonic_s=monotonic_s, energy=energy, estimated_j=estimated_j)


class Note(NamedTuple):
    """One note holds what the ledger must say about how this host is metered: a kind of event and its sentence."""

    kind: str
    message: str


class Unavailable(Struct, frozen=True, kw_only=True):
    """One instance says why a meter that was asked for is not there: a short code, a sentence, and what the user could
    do.
    """

    kind: str
    reason: str
    advice: str | None = None


UNREAD_EVENT = "gpus_not_metered"
"""The kind of the event that says which GPUs no meter reads; its data are those of `UnreadGpus.data`."""


class UnreadGpus(Struct, frozen=True, kw_only=True):
    """One instance describes GPUs that this machine or this job has and that no meter reads.

    It says how many they are, what shows them, and the problem. They are `usable` unless only the bus shows them:
    without a device file nobody can compute on a GPU.
    """

    count: int
    evidence: str
    problem: Unavailable
    usable: bool = True

    @property
    def sentence(self) -> str:
        """Return one line that a headline or a warning can show as it is."""
        many = f"{plural(self.count, 'GPU')} {verb(self.count, 'is', 'are')}"
        return f"{many} not metered ({self.evidence}): {self.problem.reason}"

    @property
    def data(self) -> dict[str, object]:
        """Return the count, the evidence and the problem as data for the ledger."""
        problem = self.problem
        return {"count": self.count, "evidence": self.evidence, "kind": problem.kind, "advice": problem.advice}


class Meter(Protocol):
    """A meter reads a fixed set of devices.

    `read` may block for a driver call, so only the monitor thread calls it. It never raises for a device that fails;
    the `Reading` says so. `poll_interval_s` is how often `read` must be called for the numbers to be right: None for
    hardware counters, a second or less for integration. `bounds` are what each device can draw, by key: without them no
    reading passes the gate.
    """

    @property
    def devices(self) -> list[DeviceIdentity]:
        """Return the devices that this meter reads."""
        ...

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Return what each device can draw, by its key."""
        ...

    @property
    def poll_interval_s(self) -> float | None:
        """Return the longest interval between two reads in seconds, or None if any cadence is right."""
        ...

    def read(self) -> list[Reading]:
        """Return one `Reading` a device, in the order of `devices`."""
        ...

    def close(self) -> None:
        """Release the driver. Safe to call twice."""
        ...
