"""Raise one alert when step time or power deviates for long, or when pauses grow, and name the likely cause."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from carbon_plugin.ledger.records import SUSPECT_EVENT
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.monitor.acting.causes import Cause, Suspect, likely_cause, suspected_gpus, suspected_ranks
from carbon_plugin.monitor.acting.deviation import Deviation, WatchedQuantity
from carbon_plugin.monitor.acting.samples import PAUSING, Cycle, TrainingSample, middle
from carbon_plugin.monitor.acting.suspects import suspect_data
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.alerts import AlertRules
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.numbers.figure import Figure

ALERT_EVENT = "alert"
OVER_EVENT = "alert_over"
CYCLES = 3
"""So many cycles of training and pausing make the ordinary share of pauses, and so many in a row an alert."""
GROWN = 1.5
LEAST_GROWTH = 0.01
"""Pauses that grow by less than this share of the time are no alert: checkpoints that take a millisecond, for one."""
BEYOND = 1.25
"""A measured value counts as off the prediction when it is beyond its 80 % range by this factor."""


class News(Struct, frozen=True, kw_only=True):
    """Holds a message for the user: an event kind, a sentence and data."""

    kind: str
    message: str
    data: dict[str, Any]


class Alerting:
    """Follows the samples of one node. On rank 0 it raises the alerts of the run; on other nodes only `suspects` count.

    `contexts` reads clocks and throttle reasons of the node's GPUs. It is called only once the baseline is known, and
    while something deviates.
    """

    def __init__(self, rules: AlertRules, *, node: int, world_size: int) -> None:
        self._rules = rules
        self._node, self._world_size = node, world_size
        self._step_time, self._power = WatchedQuantity(rules), WatchedQuantity(rules)
        self._first: list[TrainingSample] = []
        self._recent: deque[TrainingSample] = deque(maxlen=rules.sustained)
        self._contexts_before: dict[str, GpuContext] | None = None
        self._open: str | None = None
        self._cycles: dict[str, list[Cycle]] = {phase: [] for phase in PAUSING}
        self._grown: set[str] = set()
        self._compared = False
        self._told: set[tuple[str, str | int | None]] = set()

    def look(
        self,
        sample: TrainingSample,
        contexts: Callable[[], Mapping[str, GpuContext]],
        gpu_ranks: Mapping[str, Sequence[int]],
    ) -> list[Suspect]:
        """Add a sample, and return the suspects of this node if step time or power deviates for long."""
        step_time, power = self._step_time, self._power
        step_time.look(sample.step_time_s, sample.step)
        if sample.mean_power_w is not None:
            power.look(sample.mean_power_w, sample.step)
        if len(self._first) < self._rules.learn:
            self._first.append(sample)
        elif self._contexts_before is None and not (step_time.is_away or power.is_away):
            self._contexts_before = dict(contexts())
        self._recent.append(sample)
        if self._deviation() is None:
            return []
        before, now = middle(self._first), middle(list(self._recent))
        gpus = suspected_gpus(
            before, now, self._contexts_before or {}, contexts(), node=self._node, ranks=gpu_ranks
        )  # fmt: skip
        return [*gpus, *suspected_ranks(before, now, node=self._node)]

    def news_of(self, suspects: Sequence[Suspect]) -> list[News]:
        """Return the suspects that this node has not reported yet, as events for its record."""
        fresh = [one for one in suspects if (one.kind, one.gpu or one.rank) not in self._told]
        self._told.update((one.kind, one.gpu or one.rank) for one in fresh)
        return [News(kind=SUSPECT_EVENT, message=one.sentence, data=suspect_data(one)) for one in fresh]

    def judge(self, suspects: Sequence[Suspect], prediction: StepPrediction | None) -> list[News]:
        """Return an alert that begins, or the news that one is over. `suspects` are those of all nodes."""
        if self._open is not None:
            return self._over()
        found = self._deviation()
        if found is None:
            return self._against(prediction)
        quantity, deviation = found
        before, now = middle(self._first), middle(list(self._recent))
        breakdown_s = prediction.breakdown_s if prediction is not None else {}
        cause = likely_cause(before, now, suspects, breakdown_s=breakdown_s, world_size=self._world_size)
        self._open = quantity
        return [_alert(quantity, deviation, cause, "baseline")]

    def hear_cycle(self, cycle: Cycle) -> list[News]:
        """Add a cycle of training and pausing, and return an alert if the pauses of the last cycles have grown."""
        cycles = self._cycles[cycle.phase]
        cycles.append(cycle)
        if len(cycles) > 2 * CYCLES:
            del cycles[CYCLES]  # the first ones are the ordinary ones
        if len(cycles) < 2 * CYCLES or cycle.phase in self._grown:
            return []
        ordinary = median(one.share for one in cycles[:CYCLES])
        recent = cycles[CYCLES:]
        least = min(one.share for one in recent)
        if least <= GROWN * ordinary or least - ordinary < LEAST_GROWTH:
            return []
        self._grown.add(cycle.phase)
        present = median(one.share for one in recent)
        longer = (
            f"{median(one.pause_s for one in cycles[:CYCLES]):.3g} s to {median(one.pause_s for one in recent):.3g} s"
        )
        message = (
            f"{cycle.phase} takes {percent(present, 0)} of the time, {percent(ordinary, 0)} at first, since step "
            f"{recent[0].step:,}; "
            f"one goes from {longer}"
        )
        data = {
            "quantity": f"{cycle.phase}_share",
            "against": "baseline",
            "ordinary": ordinary,
            "present": present,
            "ratio": present / ordinary,
            "since_step": recent[0].step,
            "term": cycle.phase,
        }
        return [News(kind=ALERT_EVENT, message=message, data=data)]

    def _deviation(self) -> tuple[str, Deviation] | None:
        """Return the quantity that deviates, or None. A deviation of power counts only while step time is not about to
        deviate too, because step time is named first.
        """
        found = self._step_time.deviation
        if found is not None:
            return "step_time", found
        found = self._power.deviation
        return ("power", found) if found is not None and not self._step_time.is_away else None

    def _over(self) -> list[News]:
        watched = self._step_time if self._open == "step_time" else self._power
        if not watched.is_back:
            return []
        quantity, self._open = self._open, None
        self._told.clear()
        words = str(quantity).replace("_", " ")
        return [News(kind=OVER_EVENT, message=f"{words} is as before again", data={"quantity": quantity})]

    def _against(self, prediction: StepPrediction | None) -> list[News]:
        """Return an alert if the ordinary values differ much from the prediction. It is raised once."""
        step_time_s, power_w = self._step_time.ordinary, self._power.ordinary
        if self._compared or prediction is None or step_time_s is None:
            return []
        self._compared = True
        pairs = [("step_time", prediction.step_time_s, step_time_s)]
        pairs += [("power", prediction.gpu_power_w, power_w)] if power_w is not None else []
        for quantity, predicted, measured in pairs:
            too_low = quantity == "power" and measured < predicted.low / BEYOND
            if measured > predicted.high * BEYOND or too_low:
                return [_off_prediction(quantity, predicted, measured, prediction, self._first[-1].step)]
        return []


def _alert(quantity: str, deviation: Deviation, cause: Cause, against: str) -> News:
    change = deviation.ratio - 1
    unit = "s" if quantity == "step_time" else "W a GPU"
    message = (
        f"{quantity.replace('_', ' ')} is {percent(abs(change), 0)} {'above' if change > 0 else 'below'} what it was "
        f"({deviation.present:.3g} {unit}, {deviation.ordinary:.3g} {unit} before) since about step "
        f"{deviation.since_step:,}; likely {cause.term}: {cause.sentence}"
    )
    data = {
        "quantity": quantity,
        "against": against,
        "ordinary": deviation.ordinary,
        "present": deviation.present,
        "ratio": deviation.ratio,
        "since_step": deviation.since_step,
        "term": cause.term,
    }
    if cause.suspect is not None:
        data |= {"suspect": suspect_data(cause.suspect)}
    return News(kind=ALERT_EVENT, message=message, data=data)


def _off_prediction(quantity: str, predicted: Figure, measured: float, prediction: StepPrediction, step: int) -> News:
    unit = "s" if quantity == "step_time" else "W a GPU"
    term = max(prediction.breakdown_s, key=lambda name: prediction.breakdown_s[name], default="unknown")
    message = (
        f"{quantity.replace('_', ' ')} is {measured:.3g} {unit}, and {predicted.value:.3g} {unit} "
        f"({predicted.low:.3g} to {predicted.high:.3g}) is predicted; the largest predicted term is {term}"
    )
    data = {
        "quantity": quantity,
        "against": "prediction",
        "ordinary": predicted.value,
        "present": measured,
        "ratio": measured / predicted.value,
        "since_step": step,
        "term": term,
    }
    return News(kind=ALERT_EVENT, message=message, data=data)
