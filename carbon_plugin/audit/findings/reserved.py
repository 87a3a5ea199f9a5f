"""Define the time for which a run reserved its devices, according to its ledgers and to the scheduler."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.footprint.values import Footprint
from carbon_plugin.spec.numbers.figure import Assumption, Figure


class Reserved(Struct, frozen=True, kw_only=True):
    """The device time that is charged with embodied carbon.

    `before_first_record_s` of it, in device-seconds, was covered by no record: it lies between allocation and the first
    record, or between attempts of one allocation. Of that, `modelled_idle_s` is in the energy of the run, modelled as
    idle with the profiles that `idle_model` names; the energy of the rest is unknown and in no total. `devices_from`
    says how the devices were counted. Time of devices that other runs used at the same time is shared as their energy
    is: `shared_s` is charged to the others and is in no other figure. `whole_device_s` and `whole_host_s` are the times
    for which devices and hosts were reserved before a run that has a part of them is charged that part.
    """

    device_s: float
    before_first_record_s: float
    host_s: float
    devices_from: str
    shared_s: float = 0.0
    whole_device_s: float = 0.0
    whole_host_s: float = 0.0
    modelled_idle_s: float = 0.0
    idle_model: str = ""

    @property
    def unknown_s(self) -> float:
        """Return the reserved device time, s, whose energy was neither recorded nor modelled."""
        return max(0.0, self.before_first_record_s - self.modelled_idle_s)


class Allocation(Struct, frozen=True, kw_only=True):
    """One allocation is what the scheduler gave to a job or a pod: a number of GPUs for a time. `state` is the
    scheduler's word for how it ended.

    With `sized` a slice of a GPU counts as its share. Otherwise everything that the scheduler calls a GPU counts as
    one. `notes` name what is not a whole GPU of its own. `start_unix_s` is None where the file does not tell the start.
    """

    name: str
    state: str
    gpus: float
    duration_s: float
    sized: bool = False
    notes: list[str] = []
    start_unix_s: float | None = None


class Reconciliation(Struct, frozen=True, kw_only=True):
    """The scheduler's account beside that of the ledgers. None of it is in the totals.

    `unobserved_device_s` is allocated time that no ledger observed. It is charged with idle power (`power_w`, of a
    device with its part of host and network). The part of it in `uncharged_device_s`, whose manufacture is not in the
    totals, is also charged with embodied carbon. `footprint` is None where it cannot be modelled, and
    `not_modelled_reason` says why.
    """

    source: str
    allocations: list[Allocation]
    allocated_device_s: float
    observed_device_s: float
    unobserved_device_s: float
    uncharged_device_s: float
    power_w: Figure | None
    footprint: Footprint | None
    not_modelled_reason: str | None
    assumptions: list[Assumption]
