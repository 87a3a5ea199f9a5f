"""Pause a training after a checkpoint while the grid is dirty, where that saves carbon after the cost of idling.

Rank 0 decides by the what-if of the rest of the run, and writes the end of the pause into a file that is written only
once. The other ranks read it. All ranks wait by themselves, so that none waits in a collective that would time out.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.ledger.once import publish_once
from carbon_plugin.plan.whatif.pausing import PauseSchedule, schedule
from carbon_plugin.spec.parsing.moment import iso_utc
from carbon_plugin.spec.units import GRAMS_PER_KG, JOULES_PER_KWH

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

logger = logging.getLogger(__name__)
FOLDER = "pause"
ANSWER_S = 60.0
"""Ranks other than 0 wait so long for the decision, s. Without one they go on, as rank 0 does."""
LOOK_S = 0.2
MOST_SLEEP_S = 60.0
NO_PAUSE = 0.0


class RestOfRun(Struct, frozen=True, kw_only=True):
    """What the rest of a run takes: time, power of its machines while it trains and while it idles, W, PUE, and the
    manufacture that is charged a second, kg."""

    remaining_s: float
    running_w: float
    idle_w: float
    pue: float
    embodied_kg_per_s: float


class PausePlan(Struct, frozen=True, kw_only=True):
    """A pause that saves carbon: until when, and how much the rest of the run emits less with all of its pauses."""

    until_unix_s: float
    saved_kg: float


def pause_of(
    forecast: str, rest: RestOfRun, *, now_unix_s: float, above_g_per_kwh: float, most_s: float
) -> PausePlan | None:
    """Return the pause that begins now, as `worth_pausing` does, by a file of intensity for the hours to come."""
    from carbon_plugin.footprint.series.file import load_trace

    trace = load_trace(forecast)
    return worth_pausing(trace, rest, now_unix_s=now_unix_s, above_g_per_kwh=above_g_per_kwh, most_s=most_s)


def worth_pausing(
    trace: Trace, rest: RestOfRun, *, now_unix_s: float, above_g_per_kwh: float, most_s: float
) -> PausePlan | None:
    """Return the pause that begins now, or None where the grid is clean enough or waiting does not save.

    The rest of the run with pauses above the threshold is compared with the rest without any: energy of training at its
    hours, energy of idling at those of the pauses, and the manufacture of the longer reservation. A pause lasts at most
    `most_s` seconds.
    """
    present, known = trace.mean(now_unix_s, 1.0)
    if known <= 0 or present <= above_g_per_kwh:
        return None
    try:
        through = schedule(trace, now_unix_s, rest.remaining_s, pause_above=None)
        pausing = schedule(trace, now_unix_s, rest.remaining_s, pause_above=above_g_per_kwh)
    except FootprintError:  # the trace ends before the work is done, so that nobody knows whether waiting saves
        return None
    saved_kg = _emitted_kg(through, rest) - _emitted_kg(pausing, rest)
    until_unix_s = _clean_from(trace, now_unix_s, above_g_per_kwh)
    if saved_kg <= 0 or until_unix_s is None or until_unix_s - now_unix_s > most_s:
        return None
    return PausePlan(until_unix_s=until_unix_s, saved_kg=saved_kg)


def agree_on_pause(
    run_dir: Path, step: int, plan: PausePlan | None, *, decides: bool, answer_s: float = ANSWER_S
) -> float:
    """Return until when all ranks pause after the step, Unix s, or `NO_PAUSE`. The rank that `decides` writes its plan.

    A folder that cannot be used, and a decision that does not come in time, are no pause.
    """
    path = run_dir / FOLDER / f"step-{step}"
    try:
        if decides:
            path.parent.mkdir(parents=True, exist_ok=True)
            publish_once(path, f"{plan.until_unix_s if plan is not None else NO_PAUSE!r}\n".encode())
        end_s = time.monotonic() + answer_s
        while not path.exists():
            if time.monotonic() > end_s:
                return NO_PAUSE
            time.sleep(LOOK_S)
        return float(path.read_text())
    except (OSError, ValueError):
        return NO_PAUSE


def sleep_for(within_s: float) -> None:
    """Sleep for so many seconds by the monotonic clock."""
    end_s = time.monotonic() + within_s
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, MOST_SLEEP_S))


def sentence_of(plan: PausePlan, above_g_per_kwh: float) -> str:
    """Return a sentence on a pause that begins."""
    return (
        f"paused until {iso_utc(plan.until_unix_s)}, because the grid is above {above_g_per_kwh:g} g/kWh: the rest of "
        f"the run emits {plan.saved_kg:.3g} kgCO2e less so, after what idling costs"
    )


def _emitted_kg(plan: PauseSchedule, rest: RestOfRun) -> float:
    grams_per_joule: float = 1 / JOULES_PER_KWH
    training_g = rest.running_w * plan.trained_s * plan.training_g_per_kwh * grams_per_joule
    pausing_g = rest.idle_w * plan.paused_s * plan.paused_g_per_kwh * grams_per_joule
    emitted_kg: float = rest.pue * (training_g + pausing_g) / GRAMS_PER_KG
    return emitted_kg + rest.embodied_kg_per_s * plan.elapsed_s


def _clean_from(trace: Trace, now_unix_s: float, above_g_per_kwh: float) -> float | None:
    """Return the first moment from now on at which the trace is at or below the threshold."""
    for start, value in zip(trace.start_unix_s.tolist(), trace.g_per_kwh.tolist(), strict=True):
        if start > now_unix_s and value <= above_g_per_kwh:
            return float(start)
    return None
