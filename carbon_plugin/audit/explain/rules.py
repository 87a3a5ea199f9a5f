"""Hold the table of rules that say where each number of a report comes from: its fields, its computation and its
sources.

A rule applies to a field and everything below it (the low of a figure, the meters of an energy). Fields are dotted
paths in `report.json`; `*` stands for one name or position.
"""

from __future__ import annotations

from carbon_plugin.audit.explain import reasons
from carbon_plugin.audit.explain.reasons import Reason, Rule, from_ledgers, ledgers, sampled, stated

_PERIOD = "clocks of the nodes, from the manifest to the last record of each file"

RULES: dict[str, Rule] = {
    "footprint.total_kg": reasons.total,
    "footprint.operational_kg": reasons.operational,
    "footprint.embodied_kg": reasons.embodied,
    "footprint.embodied_parts_kg.*": reasons.embodied_part,
    "footprint.energy_j.*": reasons.rung_energy,
    "footprint.interval_95.*": lambda summary, path: Reason(
        f"2.5th and 97.5th percentile: {sampled(summary)}", [], [f"footprint.{path[2]}"]
    ),
    "footprint.means.*": lambda summary, path: Reason(
        "mean of the distribution whose median and ends are given", [], [f"footprint.{path[2]}"]
    ),
    "footprint.market": lambda summary, path: Reason(
        "facility energy at the rates of contracts, the rest at the residual mix",
        [line.source for line in summary.footprint.market.lines]
        if summary.footprint and summary.footprint.market
        else [],
        ["footprint.energy_j.facility"],
    ),
    "footprint.water_l.*": lambda summary, path: Reason(
        f"liters {path[2]}: energy x liters a kWh", [], [f"factors.water_l_per_kwh.{path[2]}"]
    ),
    "factors.intensity": reasons.intensity,
    "factors.embodied_kg.*": reasons.embodied_factor,
    "factors.*": reasons.factor,
    "energy": reasons.it_energy,
    "by_rung.*": reasons.energy_of_rung,
    "by_phase.*": reasons.energy_of_phase,
    "unobserved.*": reasons.unobserved,
    "devices.*": reasons.device,
    "reserved": reasons.reserved,
    "months.*": lambda summary, path: Reason(
        "sum of the windows that start in the month, and its reserved time, of which the part without records is idle",
        ledgers(summary),
        ["energy", "factors.pue", "factors.intensity"] if summary.factors else ["energy"],
    ),
    "steps": reasons.step_time,
    "forecast.footprint": reasons.forecast,
    "forecast.parts.*": reasons.forecast_part,
    "forecast.embodied_kg": lambda summary, path: Reason(
        "actual minus forecast embodied carbon", [], ["footprint.embodied_kg", "forecast.footprint"]
    ),
    "forecast": reasons.forecast,
    "run.effective": reasons.effective,
    "run": from_ledgers("identity of the run: run.json and the manifests"),
    "progress": from_ledgers("steps and tokens of the windows, of the node that saw most of each attempt"),
    "period": from_ledgers(_PERIOD),
    "coverage": from_ledgers("nodes and GPUs that the manifests promise, beside those whose ledgers are here"),
    "coverage.clock_offsets_s": from_ledgers(
        "steps that all nodes end together, and the time since the boot of each host, by their clocks"
    ),
    "waste": from_ledgers("windows of steps that an earlier attempt had reached already, and of later start-ups"),
    "drivers": lambda summary, path: Reason(
        "total with one input at its p10 or p90, all others central", [], ["footprint.total_kg"]
    ),
    "series": from_ledgers("windows and spans in equal bins of time, each shared out over the bins that it covers"),
    "series.grid_by_hour_g_per_kwh": lambda summary, path: Reason(
        f"intensity of each hour of the day, UTC: {summary.series.grid_by_hour_from}",
        [summary.factors.intensity.attribution] if summary.factors else [],
        ["factors.intensity"] if summary.factors else [],
    ),
    "events": from_ledgers("events as the monitor recorded them"),
    "event_counts": from_ledgers("number of events of a kind"),
    "verification": from_ledgers("every line checked against the chain before it"),
    "work": reasons.work,
    "ladder": lambda summary, path: Reason(
        "meters and models of each rung; the facility is metered, or machines x PUE", [], ["energy"]
    ),
    "reconciliation": lambda summary, path: Reason(
        "the scheduler's account less what the ledgers observed, modelled as idle devices",
        [summary.reconciliation.source] if summary.reconciliation else [],
        ["reserved.device_s"],
    ),
    "sampling": stated("the accounting samples with these; the same give the same ranges"),
    "version": stated("version of the report's format"),
    "created_unix_s": stated("when this audit was made"),
}
"""For each field the most specific rule counts, which is the longest that matches."""
