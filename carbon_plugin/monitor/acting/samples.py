"""Make samples of a training from the records of a node's ledger: step time, power of each GPU, waiting, pauses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from msgspec import Struct

from carbon_plugin.ledger.records import Manifest, Record, Span, Window

TRAINING = ("train", "data_wait")
PAUSING = ("evaluation", "checkpoint")
"""The phases that interrupt a training again and again, and that may grow."""


class RankShare(Struct, frozen=True, kw_only=True):
    """Says what the training thread of a rank did, as shares of the time: it ran on a CPU, it was ready to run without
    one, or it waited for data. For the rest of the time it was blocked, for instance in a collective.

    `behind_steps` is by how many steps its last step boundary is behind those of the other ranks of its host.
    """

    busy: float
    delayed: float
    data: float
    behind_steps: float = 0.0

    @property
    def own(self) -> float:
        """Return the share in which the thread was not blocked, so that other ranks may have waited for it."""
        return self.busy + self.delayed + self.data


class TrainingSample(Struct, frozen=True, kw_only=True):
    """Describes a stretch of training between step boundaries: the last step, the step time and the wait for data a
    step, s, the mean power of each GPU of the node by key, W, and what the ranks of the host did.
    """

    step: int
    step_time_s: float
    data_wait_s: float
    power_w: Mapping[str, float]
    ranks: Mapping[int, RankShare]

    @property
    def mean_power_w(self) -> float | None:
        """Return the mean power of a GPU, W, or None without any."""
        return sum(self.power_w.values()) / len(self.power_w) if self.power_w else None


class Cycle(Struct, frozen=True, kw_only=True):
    """One pause of a training and the training before it, s. `share` is that of the pause."""

    phase: str
    step: int
    training_s: float
    pause_s: float

    @property
    def share(self) -> float:
        """Return the share of the pause in the time of the cycle."""
        return self.pause_s / (self.pause_s + self.training_s)


class Samples:
    """Makes samples from the records of a ledger as they are written. Only the monitor thread uses it."""

    def __init__(self) -> None:
        self._gpus: set[str] = set()
        self._span: Span | None = None
        self._training_s = self._data_s = 0.0
        self._energy_j: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._since_pause_s = dict.fromkeys(PAUSING, 0.0)
        self._pause_s = dict.fromkeys(PAUSING, 0.0)
        self._cycles: list[Cycle] = []

    def hear(self, record: Record) -> None:
        """Add the next record."""
        if isinstance(record, Manifest):
            self._gpus = {device.key for device in record.devices if device.rung == "gpu"}
        elif isinstance(record, Span) and not record.short:
            self._span = record
        elif isinstance(record, Window):
            self._hear_window(record)

    @property
    def has_span(self) -> bool:
        """Return whether a span has ended since the last sample."""
        return self._span is not None

    @property
    def step_time_s(self) -> float:
        """Return the step time of that span, s, or 0 without one."""
        return self._span.step_time_s if self._span is not None else 0.0

    def take(self, ranks: Mapping[int, RankShare]) -> TrainingSample | None:
        """Return the sample of the newest span, or None if no span has ended since the last call. `ranks` are the
        shares of the host's ranks."""
        span, self._span = self._span, None
        if span is None or self._training_s <= 0:
            return None
        sample = TrainingSample(
            step=span.last_step,
            step_time_s=span.step_time_s,
            data_wait_s=span.step_time_s * self._data_s / self._training_s,
            power_w={key: joules / self._seconds[key] for key, joules in self._energy_j.items()},
            ranks=ranks,
        )
        self._training_s = self._data_s = 0.0
        self._energy_j, self._seconds = {}, {}
        return sample

    def take_cycles(self) -> list[Cycle]:
        """Return the cycles that have ended since the last call."""
        cycles, self._cycles = self._cycles, []
        return cycles

    def _hear_window(self, window: Window) -> None:
        if window.phase in PAUSING:
            self._pause_s[window.phase] += window.duration_s
            return
        if window.phase not in TRAINING or window.duration_s <= 0:
            return
        for phase in PAUSING:
            if self._pause_s[phase] > 0:
                if self._since_pause_s[phase] > 0:
                    self._cycles.append(
                        Cycle(
                            phase=phase,
                            step=window.last_step,
                            training_s=self._since_pause_s[phase],
                            pause_s=self._pause_s[phase],
                        )
                    )
                self._pause_s[phase] = self._since_pause_s[phase] = 0.0
            self._since_pause_s[phase] += window.duration_s
        self._training_s += window.duration_s
        self._data_s += window.duration_s if window.phase == "data_wait" else 0.0
        for energy in window.energies:
            if energy.key in self._gpus and energy.energy_j is not None:
                self._energy_j[energy.key] = self._energy_j.get(energy.key, 0.0) + energy.energy_j
                self._seconds[energy.key] = self._seconds.get(energy.key, 0.0) + window.duration_s


def middle(samples: Sequence[TrainingSample]) -> TrainingSample:
    """Return the sample that consists of the medians of several samples, of which there is at least one."""
    powers = {key for sample in samples for key in sample.power_w}
    ranks = {rank for sample in samples for rank in sample.ranks}
    return TrainingSample(
        step=samples[-1].step,
        step_time_s=median(sample.step_time_s for sample in samples),
        data_wait_s=median(sample.data_wait_s for sample in samples),
        power_w={key: median(one.power_w[key] for one in samples if key in one.power_w) for key in sorted(powers)},
        ranks={rank: _middle_share([one.ranks[rank] for one in samples if rank in one.ranks]) for rank in ranks},
    )


def _middle_share(shares: Sequence[RankShare]) -> RankShare:
    return RankShare(
        busy=median(share.busy for share in shares),
        delayed=median(share.delayed for share in shares),
        data=median(share.data for share in shares),
        behind_steps=median(share.behind_steps for share in shares),
    )
