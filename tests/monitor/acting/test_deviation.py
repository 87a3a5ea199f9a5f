"""An ordinary run raises no alert, however it is spread; a change that lasts raises one, and one only."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from carbon_plugin.monitor.acting.alerting import Alerting, News
from carbon_plugin.monitor.acting.samples import Cycle, TrainingSample
from carbon_plugin.spec.alerts import AlertRules

RULES = AlertRules()
HALF_A_DAY = 4320
"""Spans of ten seconds."""


def sample(step: int, step_time_s: float, power_w: float = 600.0) -> TrainingSample:
    return TrainingSample(step=step, step_time_s=step_time_s, data_wait_s=0.0, power_w={"GPU-a": power_w}, ranks={})


def said(samples: Iterator[TrainingSample]) -> list[News]:
    alerting = Alerting(RULES, node=0, world_size=1)
    found = []
    for one in samples:
        suspects = alerting.look(one, dict, {})
        found += alerting.judge(suspects, None)
    return found


def _normal(spread: float) -> Callable[[random.Random], float]:
    return lambda dice: dice.lognormvariate(0, spread)


def _heavy(dice: random.Random) -> float:
    """Draw the length of a span. One in twenty is three times as long, as with a checkpoint or a hiccup of the file
    system.
    """
    return dice.lognormvariate(0, 0.02) * (3.0 if dice.random() < 0.05 else 1.0)


@pytest.mark.parametrize(
    "noise",
    [_normal(0.01), _normal(0.05), _normal(0.15), _normal(0.4), _heavy],
    ids=["1%", "5%", "15%", "40%", "heavy"],
)
def test_half_a_day_of_an_ordinary_run_raises_no_alert(noise):
    dice = random.Random(7)

    found = said(sample(step, noise(dice), 600 * noise(dice)) for step in range(HALF_A_DAY))

    assert not [one.message for one in found]


@pytest.mark.parametrize("spread", [0.01, 0.04])
def test_a_step_that_stays_longer_is_one_alert_and_its_end_is_told(spread):
    dice = random.Random(7)

    def run() -> Iterator[TrainingSample]:
        for step in range(300):
            yield sample(step, dice.lognormvariate(0, spread) * (1.4 if 100 <= step < 200 else 1.0))

    alert, over = said(run())

    assert (alert.kind, over.kind) == ("alert", "alert_over")
    assert alert.data["quantity"] == "step_time"
    assert alert.data["ratio"] == pytest.approx(1.4, rel=0.1)
    assert alert.data["since_step"] in (100, 101)
    assert over.data == {"quantity": "step_time"}


def test_power_that_falls_without_the_step_getting_longer_is_an_alert_on_power():
    (alert,) = said(sample(step, 1.0, 600.0 if step < 50 else 400.0) for step in range(100))

    assert (alert.data["quantity"], alert.data["ratio"]) == ("power", pytest.approx(2 / 3))


def test_a_slow_creep_is_an_alert_in_the_end():
    (alert,) = said(sample(step, 1.0 + 0.0005 * step) for step in range(1000))

    assert alert.data["quantity"] == "step_time"


@pytest.mark.parametrize("steps", range(4))
def test_fewer_spans_than_count_are_no_alert(steps):
    assert not said(sample(step, 2.0 if 50 <= step < 50 + steps else 1.0) for step in range(100))


@pytest.mark.parametrize(
    ("pauses_s", "alerts"),
    [([5.0] * 20, 0), ([5, 9] * 10, 0), ([5.0] * 6 + [12.0] * 6, 1), ([0.01] * 6 + [0.5] * 6, 0)],
)
def test_evaluation_is_an_alert_only_where_it_has_grown_for_good(pauses_s, alerts):
    alerting = Alerting(RULES, node=0, world_size=1)
    cycles = [Cycle(phase="evaluation", step=step, training_s=100.0, pause_s=s) for step, s in enumerate(pauses_s)]

    found = [news for cycle in cycles for news in alerting.hear_cycle(cycle)]

    assert len(found) == alerts
