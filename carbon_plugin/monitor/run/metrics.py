"""Compute the numbers for the trainer's logger. docs/monitor.md has the table of keys."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from carbon_plugin.footprint.values import CarbonTotals
from carbon_plugin.monitor.run.projection import Outlook
from carbon_plugin.monitor.run.totals import RunTotals
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_HOUR

PREFIX = "carbon/"
TOTALS = tuple(PREFIX + name for name in ("energy_kwh", "operational_kg", "embodied_kg", "total_kg"))
"""What the run has used so far. A logged total never goes back."""


def never_back(metrics: Mapping[str, float], shown: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics with totals that are at least those that were shown before.

    A total is counted anew from all ledgers each time. It may become smaller when the ledger of another process arrives
    late and shows that both have metered a GPU for a while. The figure then stays until the total has passed it.
    """
    return {name: max(value, shown.get(name, value)) if name in TOTALS else value for name, value in metrics.items()}


def metrics_of(
    totals: RunTotals,
    outlook: Outlook,
    *,
    step_time_s: float | None,
    predicted_step_time_s: float | None,
    by_measured_rates: bool | None = None,
) -> dict[str, float]:
    """Return the metrics as a flat dict. An unknown value has no key, so that no zero looks real.

    `by_measured_rates` says whether what remains in `outlook` follows from what this run has measured, or is None where
    nothing remains.
    """
    used = totals.used  # summed once, over all device models of all nodes
    estimated_j = used.remaining_estimate_j
    values: dict[str, float | None] = {
        "energy_kwh": used.energy.value / JOULES_PER_KWH,
        "estimated_energy_kwh": estimated_j / JOULES_PER_KWH if estimated_j else None,
        "measured_share": used.measured_share,
        "power_w": totals.power_w,
        "step_time_s": step_time_s,
        "predicted_step_time_s": predicted_step_time_s,
        "coverage_gpus": totals.gpus_measured / totals.gpus if totals.gpus else None,
    }
    if step_time_s is not None and predicted_step_time_s:
        values["step_time_ratio"] = step_time_s / predicted_step_time_s
    if outlook.spent is not None:
        values |= structs.asdict(outlook.spent)
    if outlook.energy_j is not None:
        projected_kwh = outlook.energy_j.scaled(1 / JOULES_PER_KWH)
        values |= {
            "projected_by_rates": None if by_measured_rates is None else float(by_measured_rates),
            "projected_energy_kwh": projected_kwh.value,
            "projected_energy_kwh_low": projected_kwh.low,
            "projected_energy_kwh_high": projected_kwh.high,
        }
    if outlook.whole is not None:
        values |= _projected(outlook.whole)
    values["remaining_h"] = None if outlook.remaining_s is None else outlook.remaining_s / SECONDS_PER_HOUR
    return {PREFIX + name: value for name, value in values.items() if value is not None}


def _projected(whole: CarbonTotals) -> dict[str, float | None]:
    """Return the carbon of the whole run, kg, with a total only where its embodied part is known."""
    values: dict[str, float | None] = {}
    for name, carbon in (
        ("operational_kg", whole.operational_kg),
        ("embodied_kg", whole.embodied_kg),
        ("total_kg", whole.total_kg),
    ):
        if carbon is not None:
            key = f"projected_{name}"
            values |= {key: carbon.value, f"{key}_low": carbon.low, f"{key}_high": carbon.high}
    return values
