"""Combine the meters of one host so that one `read` reads them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.gpu.context import ContextChange, ContextWatch, GpuContext
from carbon_plugin.meters.gpu.open import GpuMeters
from carbon_plugin.meters.host.machine import HostInfo
from carbon_plugin.meters.host.model_meter import GpuDraw, ModelMeter
from carbon_plugin.meters.node.meter import GpuHistory, NodeMeter
from carbon_plugin.meters.protocol import Meter, Note, PowerSource, Reading, Unavailable, UnreadGpus
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.turns import give_way

_ALIKE = ("package", "dram")
"""The scopes of devices that work alike on one machine, so that the power of one shows what another may draw."""


class GpuSide(Struct, frozen=True, kw_only=True):
    """One instance holds the GPUs of a node as a set of meters reads them.

    `metered` is the meter of the job's GPUs, which has no device where no driver answers, and `beside` that of the
    node's other GPUs where a node meter contains them. `stand_ins` estimate GPUs of a driver that does not answer.
    `draw` and `history` hold what the GPUs have used, for the models of the host and for a node meter.
    """

    metered: GpuMeters
    beside: GpuMeters | None
    draw: GpuDraw
    history: GpuHistory
    stand_ins: list[ModelMeter]

    def observe(self) -> None:
        """Add the energy of all GPUs of the node at their last reading to the history."""
        self.history.observe([*self.metered.whole, *(self.beside.whole if self.beside else [])])


class Found(Struct, frozen=True, kw_only=True):
    """One instance holds the results of opening the meters of a host.

    `notes` are reasons and assumptions for the ledger; `unavailable` are the meters that could not be opened.
    `host_share` is the part of the host that is charged to the job here (0 for a rank beside a leader that meters the
    host). `unread` are the GPUs that are there although no meter reads them, None where nothing shows any. `silent` is
    the problem of a driver that is there and does not tell whether it has GPUs, where nothing else does.
    """

    host: HostInfo
    host_share: float
    notes: list[Note]
    unavailable: list[Unavailable]
    unread: UnreadGpus | None
    silent: Unavailable | None


class MeterSet:
    """One instance holds the meters of one host, which one `read` reads. Make it with `open_meters`.

    It begins with what was `Found`; the reasons of unavailable meters are notes too. Host readings have the job's share
    applied. GPUs of a driver that hung when this was opened are among `devices` from the first `read` after it has
    answered. `poll_interval_s` is the shortest of its meters', None if any cadence is right.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        meters: Sequence[Meter],
        *,
        gpus: GpuSide,
        models: Mapping[str, PowerSource],
        found: Found,
    ) -> None:
        self.devices: list[DeviceIdentity] = [device for meter in meters for device in meter.devices]
        self.host = found.host
        self.gpus = gpus.metered
        self.host_share = found.host_share
        self.notes = [*found.notes, *(Note(problem.kind, problem.reason) for problem in found.unavailable)]
        self.unavailable = found.unavailable
        self.unread = found.unread
        self.silent = found.silent
        self._meters = list(meters)
        self._side = gpus
        self._stand_ins = gpus.stand_ins
        self._context = ContextWatch()
        self._bounds = {key: bound for meter in meters for key, bound in meter.bounds.items()}
        peers = {device.key: device.scope for device in self.devices if device.scope in _ALIKE}
        self._gate = ReadingGate(self._bounds, peers=peers, models=models)
        self.poll_interval_s = self._shortest_poll_s()

    def read(self) -> list[Reading]:
        """Return one reading a device, in the order of `devices`, as the gate admits them.

        The list is empty after `close` and in a forked child.
        """
        readings: list[Reading] = []
        self._take_late_gpus()
        if self._side.beside is not None:
            self._side.beside.read()
        for meter in self._meters:  # the GPUs come first, because other meters need their energy
            give_way()
            own = meter.read()
            if meter is self.gpus:  # each of its meters has a gate of its own, which knows whole GPUs
                give_way()
                self._side.draw.observe(own)
                give_way()
                self._side.observe()
            else:
                own = self._gate.admit(own)
            readings += own
        self.poll_interval_s = self._shortest_poll_s()
        return readings

    def _take_late_gpus(self) -> None:
        """Meter the GPUs of drivers that have answered since; `devices`, `notes` and `unread` change then."""
        late = self.gpus.take_late()
        if not late:
            return
        self.unread, self.silent = None, None
        new = self.gpus.devices
        known = {device.key for device in new}
        self.devices = [*new, *(device for device in self.devices if device.key not in known)]
        self.notes = [
            Note("gpus_late", "the driver has answered: its GPUs are metered from now on"),
            *self.gpus.notes,
        ]
        self._bounds.update(self.gpus.bounds)

    def retire_stand_ins(self) -> bool:
        """Leave out the stand-ins for GPUs of a driver that has answered since, and return whether there were any.

        This is called at the end of a window: up to there the stand-ins tell what was drawn.
        """
        if not self._stand_ins or self.unread is not None:
            return False
        self._meters = [meter for meter in self._meters if meter not in self._stand_ins]
        gone = {device.key for meter in self._stand_ins for device in meter.devices}
        self.devices = [device for device in self.devices if device.key not in gone]
        self._stand_ins = []
        self._side.draw.all_metered()
        return True

    def estimate(self, key: str) -> Range | None:
        """Return the power of a device, with its range, in a time before its first reading, or None if nothing tells
        it.
        """
        return self.gpus.estimate(key) or self._gate.estimate(key)

    def contexts(self) -> dict[str, GpuContext]:
        """Return what limits each of the job's GPUs now, by device key, with a few driver calls a GPU."""
        return self.gpus.contexts()

    def context_changes(self) -> list[ContextChange]:
        """Return the changes of power limits, clocks and throttling of the job's GPUs since the last call."""
        return self._context.news(self.contexts())

    @property
    def node_power_w(self) -> float | None:
        """Return the power of the whole node as its meter told it last, W; None without such a meter."""
        told = (meter.node_power_w for meter in self._meters if isinstance(meter, NodeMeter))
        return next((power_w for power_w in told if power_w is not None), None)

    def close(self) -> None:
        """Release all devices. Safe to call twice."""
        for meter in self._all():
            meter.close()

    def _all(self) -> list[Meter]:
        return [*self._meters, self._side.beside] if self._side.beside else self._meters

    def _shortest_poll_s(self) -> float | None:
        return min((m.poll_interval_s for m in self._all() if m.poll_interval_s is not None), default=None)
