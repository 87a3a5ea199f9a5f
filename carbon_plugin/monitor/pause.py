"""Pause one training: plan the pause on rank 0, and agree on it with the other ranks.

`monitor.acting.pausing` decides whether a pause saves carbon and how ranks agree. This module applies both to a
training that is being measured.
"""

from __future__ import annotations

import logging
import time

from carbon_plugin.monitor.acting.pausing import NO_PAUSE, PausePlan, failure_of, pause_of, sentence_of
from carbon_plugin.monitor.measurement import Measurement

logger = logging.getLogger(__name__)

UNKNOWN = (
    "no pause, because it is not known, or not yet, what the rest of the run would emit with one: its length "
    "(total_steps=), its carbon (site=), its measured power, or the idle power and the manufacture of its hardware"
)


def planned_pause(
    measurement: Measurement, forecast: str, *, above_g_per_kwh: float, most_s: float
) -> PausePlan | None:
    """Return the pause that saves carbon. Only rank 0 knows it; other ranks return None."""
    rest, agreement = measurement.work.rest, measurement.work.pause
    if measurement.place.rank != 0:
        return None
    if rest is None:
        if agreement is not None and not agreement.unknown_was_told:
            agreement.unknown_was_told = True
            measurement.work.note("pause_failed", UNKNOWN)
            logger.warning("carbon_plugin: %s", UNKNOWN)
        return None
    return pause_of(forecast, rest, now_unix_s=time.time(), above_g_per_kwh=above_g_per_kwh, most_s=most_s)


def agreed_pause_s(measurement: Measurement, plan: PausePlan | None, *, step: int, above_g_per_kwh: float) -> float:
    """Return how long all ranks pause after this step, s, or 0 without a pause. `plan` is that of rank 0.

    Rank 0 writes into the ledger, and tells the user, whether its plan was agreed on.
    """
    agreement = measurement.work.pause
    if agreement is None:
        return 0.0
    until_s, now_s = agreement.agree(step, plan), time.time()
    if plan is not None:
        agreed = until_s != NO_PAUSE
        sentence = sentence_of(plan, above_g_per_kwh) if agreed else failure_of(agreement.missing)
        measurement.work.note("paused" if agreed else "pause_failed", sentence)
        logger.warning("carbon_plugin: %s", sentence)
    return max(0.0, until_s - now_s)
