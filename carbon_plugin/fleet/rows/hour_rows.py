"""Turn the hourly sums of one run into columns of a store: whole numbers that add up to the totals of the
run's audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carbon_plugin.audit.findings.energy import Energy
from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.fleet.rows.hours import COLUMNS, HOUR_S, HourCollector
from carbon_plugin.fleet.rows.run_carbon import RunMicrograms
from carbon_plugin.fleet.rows.run_places import SCOPES, factors_by_launch, place_of, scope_ratio
from carbon_plugin.fleet.store.schema import MJ_PER_J, MS_PER_S, month_number
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.numbers.range_array import Floats

WASTE = ("redone", "restart", "idle")
"""The kinds of waste that an hour tells apart. That of failed runs is all of their energy."""

Columns = dict[str, list[Any]]


def hour_columns(
    run: int,
    collected: HourCollector,
    energy: Energy,
    reserved: Reserved,
    factors: Factors | None,
    carbon: RunMicrograms | None,
) -> Columns:
    """Return the columns of the hourly table. They add up to the totals of the audit, to the last unit.

    A run of which no `energy` is known has none, so that it is in no sum, as in a programme.
    """
    slots = list(collected.hours)
    if not slots or not energy.is_known:
        return {}
    table = np.array(list(collected.hours.values())).T
    summed = dict(zip(COLUMNS, table, strict=True))
    totals = dict(zip(COLUMNS, table.sum(axis=1).tolist(), strict=True))
    facility_j, weighted = summed["facility"], summed["weighted"]
    if factors is not None and totals["without"]:  # windows that state no factors have those of the run
        without_j = summed["without"] * factors.pue.value
        facility_j = facility_j + without_j
        weighted = weighted + without_j * factors.intensity.figure.value
    facility_mj = carbon.facility_mj if carbon else round(MJ_PER_J * float(facility_j.sum()))
    divided = {
        "energy_mj": (round(MJ_PER_J * energy.energy_j), summed["energy"]),
        "measured_mj": (round(MJ_PER_J * energy.measured_j), summed["measured"]),
        "low_mj": (round(MJ_PER_J * energy.low_j), summed["low"]),
        "high_mj": (round(MJ_PER_J * energy.high_j), summed["high"]),
        "facility_mj": (facility_mj, facility_j),
        "device_ms": (round(MS_PER_S * reserved.device_s), summed["device_s"]),
        **{f"{kind}_mj": (round(MJ_PER_J * totals[kind]), summed[kind]) for kind in (*WASTE, "unobserved")},
        "central_ug": (carbon.central_ug if carbon else 0, weighted),
        "market_ug": ((carbon.market_ug or 0) if carbon else 0, facility_j),
        "embodied_ug": (carbon.embodied_ug if carbon else 0, summed["device_s"]),
    }
    wasted = sum(summed[f"{kind}_weighted"] for kind in WASTE)
    stated = factors_by_launch(collected)
    for scope in SCOPES:
        total_ug = carbon.located_ug.get(scope, 0) if carbon else 0
        # Launches in several regions may count other emissions each, so that each is brought to the same ones first.
        ratios = {launch: scope_ratio(one or factors, scope) for launch, one in stated.items()}
        ratio = np.array([ratios[launch] for launch, _, _ in slots])
        emitted, lost = weighted * ratio, wasted * ratio
        whole = float(emitted.sum())
        divided[f"{scope}_ug"] = total_ug, emitted
        divided[f"wasted_{scope}_ug"] = round(total_ug * float(lost.sum()) / whole) if whole > 0 else 0, lost
    hours = [hour for _, _, hour in slots]
    months = {hour: month_number(hour * HOUR_S) for hour in dict.fromkeys(hours)}
    places = {launch: place_of(one or factors) for launch, one in stated.items()}
    names: Columns = {
        "run": [run] * len(slots),
        "attempt": [launch for launch, _, _ in slots],
        "rung": [rung for _, rung, _ in slots],
        "hour": hours,
        "month": [months[hour] for hour in hours],
        "region": [places[launch][0] for launch, _, _ in slots],
        "region_name": [places[launch][1] for launch, _, _ in slots],
    }
    wholes, weights = zip(*divided.values(), strict=True)
    return names | dict(zip(divided, apportioned(wholes, np.array(weights)), strict=True))


def apportioned(totals: Sequence[int], weights: Floats) -> list[list[int]]:
    """Divide whole numbers by weights of shape (totals, parts) into whole parts that add up exactly.

    Each running sum is rounded, so that no part is off by more than 1. Where all weights are 0, the first part gets
    everything.
    """
    running = np.cumsum(weights, axis=1)
    whole = running[:, -1:]
    ends = np.array(totals, dtype=np.int64)[:, None]
    edges = np.where(whole > 0, np.rint(running * (ends / np.where(whole > 0, whole, 1.0))), ends).astype(np.int64)
    edges[:, -1:] = ends
    edges[:, 1:] -= edges[:, :-1].copy()
    parts: list[list[int]] = edges.tolist()
    return parts
