"""Ask a source for a node's power at its own pace, on a thread of its own, and keep the energy that follows.

A service processor that hangs delays this thread alone, and neither the windows of the GPUs nor the training.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from carbon_plugin.meters.advance import advance, start_track
from carbon_plugin.meters.bounds import Bounds, possible_power
from carbon_plugin.meters.node.source import DEADLINE_S, NodeAnswer, NodeSource, SourceError
from carbon_plugin.meters.track import Sample, Track, Traits
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.patience import wait_while_running

NODE_COUNTER_SPREAD = 0.05
"""The half-range of a node's energy counter as p10-p90 (our convention; service processors state 1 to 5 %)."""

NODE_POWER_SPREAD = 0.10
"""The half-range of energy from power that is read every few seconds: the sensor, and what happens between (our
convention).
"""

NODE_STUCK_AFTER_S = 180.0
"""Slurm renews its counter every 30 s by default; one that stands still for this long under power is not trusted."""

FIRST_WAIT_S = 2 * DEADLINE_S


class NodeState(Struct, frozen=True, kw_only=True):
    """One state holds the energy since the first answer, complete up to `monotonic_s`.

    `kind` says how the last stretch was obtained; `fault` and `message` say what failed last.
    """

    monotonic_s: float
    energy: Range
    kind: EnergyKind
    power_w: float | None
    fault: str | None = None
    message: str | None = None
    covered_s: float = 0.0


class NodePoller:
    """The poller asks a source until it is closed.

    `first` is the first outcome, `started_s` the moment from which energy is counted. `news` holds a fault that was
    over with the next answer, until somebody takes it. Each attribute is replaced in one step, so that no lock is
    needed.
    """

    def __init__(self, source: NodeSource, bounds: Bounds, clock: Callable[[], float]) -> None:
        self.first: NodeAnswer | SourceError | None = None
        self.state: NodeState | None = None
        self.started_s = clock()
        self.poll_s = source.poll_s
        self.news: deque[tuple[str, str | None]] = deque(maxlen=1)
        self._source = source
        self._clock = clock
        self._track: Track | None = None
        self._traits = Traits(
            bounds=bounds,
            averaging="instant",
            poll_s=source.poll_s,
            stuck_after_s=NODE_STUCK_AFTER_S,
            counter_spread=NODE_COUNTER_SPREAD,
            stated_power_spread=NODE_POWER_SPREAD,
        )
        self._stop = threading.Event()
        self._answered = threading.Event()
        threading.Thread(target=self._run, name="carbon-plugin-node", daemon=True).start()
        wait_while_running(self._answered.wait, self._answered.is_set, FIRST_WAIT_S)

    def close(self) -> None:
        """Stop asking. A question that is being asked ends by its deadline and is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.ask_once()
            self._stop.wait(self.poll_s)

    def ask_once(self) -> None:
        """Ask the source and take in its answer, or the reason why there is none."""
        start_s = self._clock()
        outcome = self._ask()
        if isinstance(outcome, NodeAnswer):
            # The answer is of some moment while it was asked for, so that the middle of that time is taken.
            half_s = (self._clock() - start_s) / 2
            self._take(start_s + half_s, outcome, half_s)
        elif self.state is not None:
            held = self.state
            self.state = NodeState(
                monotonic_s=held.monotonic_s,
                energy=held.energy,
                kind="absent",
                power_w=None,
                fault=outcome.code,
                message=str(outcome),
                covered_s=held.covered_s,
            )
        self.first = self.first or outcome
        self._answered.set()

    def _ask(self) -> NodeAnswer | SourceError:
        try:
            answer = self._source.ask(DEADLINE_S)
        except SourceError as error:
            return error
        except Exception as error:  # if this thread ended, the meter would seem to stand still
            return SourceError(f"the answer cannot be understood ({type(error).__name__})", "error")
        if answer.counter_j is None and answer.power_w is None:
            return SourceError("the answer holds neither energy nor power", "malformed")
        if (answer.counter_j or 0.0) < 0 or (answer.power_w or 0.0) < 0:
            return SourceError(f"the answer is negative: {answer.counter_j} J, {answer.power_w} W", "malformed")
        bounds = self._traits.bounds
        if answer.counter_j is None and answer.power_w is not None and not possible_power(answer.power_w, bounds):
            told = f"the answer is {answer.power_w:.4g} W, which is not possible with {bounds.most}"
            return SourceError(told, "implausible")
        return answer

    def _take(self, monotonic_s: float, answer: NodeAnswer, late_s: float) -> None:
        sample = Sample(monotonic_s=monotonic_s, counter_j=answer.counter_j, power_w=answer.power_w, late_s=late_s)
        kind, fault, message = kind_of(answer), None, None
        if self._track is None:
            self._track, self.started_s = start_track(sample, self._traits.bounds), monotonic_s
            energy = self._track.energy
        else:
            step = advance(self._track, sample, self._traits)
            self._track, energy, kind, fault, message = step.track, step.energy, step.kind, step.fault, step.message
        if fault is not None:
            self.news.append((fault, message))
        # A counter that is seldom renewed says nothing yet about the time since it moved.
        self.state = NodeState(
            monotonic_s=self._track.accounted_s,
            energy=energy,
            kind=kind,
            power_w=answer.power_w,
            fault=fault,
            message=message,
            covered_s=self._track.covered_s,
        )


def kind_of(answer: NodeAnswer) -> EnergyKind:
    """Return how energy follows from answers like this one: by a counter or by integrated power."""
    return "power_integrated" if answer.counter_j is None else "counter"
