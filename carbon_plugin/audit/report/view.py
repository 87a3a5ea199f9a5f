"""Rows of the report's tables, made from the summary. Sentences are in `audit.report.narrative`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary, Coverage, Device, Energy, MeterQuality, Quality, StepComparison
from carbon_plugin.audit.tally.exact import ROUNDING
from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT, SILENT_EVENT
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import PHASE_NAMES, RUNG_NAMES, SCOPE_NAMES
from carbon_plugin.spec.amounts import plural
from carbon_plugin.spec.figure import Figure


class ProvenanceRow(Struct, frozen=True):
    """A number that other numbers rest on, and where it comes from."""

    name: str
    value: str
    range: str
    kind: str
    source: str


class BesideRow(Struct, frozen=True):
    """A figure that stands beside the total carbon."""

    name: str
    value: str
    range: str
    how: str


class CauseRow(Struct, frozen=True):
    """A cause of the forecast's error."""

    name: str
    off: str
    carbon: str
    explanation: str


class ForecastRow(Struct, frozen=True):
    """A quantity as it was forecast and as it was."""

    name: str
    planned: str
    range: str
    actual: str
    off: str


class EffectiveRow(Struct, frozen=True):
    """A field of the spec that ran."""

    field: str
    value: str
    source: str
    planned: str
    declared: str
    detected: str


def meters_phrase(meters: MeterQuality) -> str:
    """Shares of device time, for instance "measured 98 %, absent 2 %"."""
    shares = {"measured": meters.measured, "modelled": meters.modelled, "absent": meters.absent}
    return ", ".join(f"{name} {wording.percent(share)}" for name, share in shares.items() if share > 0) or "no time"


def energy_quality(energy: Energy) -> Quality:
    """How an energy is known, by joules and not by time."""
    if not energy.energy_j:
        return energy.meters.quality
    if energy.measured_j <= 0:
        return "modelled"
    return "measured" if energy.measured_j >= energy.energy_j and energy.meters.absent == 0 else "mixed"


def energy_how(energy: Energy) -> str:
    """How an energy is known, in words; where a part is estimated, with what was measured beside it."""
    if not energy.estimated_j:
        return energy_quality(energy)
    parts = {
        "measured": energy.measured_j,
        "estimated": energy.estimated_j,
        "modelled": energy.energy_j - energy.measured_j - energy.estimated_j,
    }
    told = {name: joules for name, joules in parts.items() if joules > ROUNDING * energy.energy_j}
    return ", ".join(f"{name} {wording.energy(joules)}" for name, joules in told.items())


def estimated_gpus(summary: AuditSummary) -> list[Device]:
    """GPUs of which a part of the energy, or all of it, is an estimate."""
    return [device for device in summary.devices if device.identity.rung == "gpu" and device.energy.estimated_j > 0]


def energy_span(summary: AuditSummary, energy: Energy, rung: str | None) -> str:
    """p10 to p90 of an energy at `rung` ("it" for all machines) or a phase of it: the rung's sampled range, in which
    meters err apart from one another. Without one, the sum of the meters' own, as if all erred alike."""
    sampled = summary.footprint.energy_j.get(rung) if summary.footprint and rung else None
    if sampled is None or not sampled.value:
        return wording.energy_range(energy.low_j, energy.high_j, energy.energy_j)
    share = energy.energy_j / sampled.value
    return wording.energy_range(sampled.low * share, sampled.high * share, energy.energy_j)


def measured_share(summary: AuditSummary) -> float:
    """Part of the IT energy that was measured."""
    return summary.energy.measured_j / summary.energy.energy_j if summary.energy.energy_j else 0.0


def gaps(summary: AuditSummary) -> list[str]:
    """What the totals of a run do not rest on a measurement for, however well its ledgers can be believed: a verdict
    must not be given without it."""
    coverage, found = summary.coverage, []
    estimated = estimated_gpus(summary)
    if estimated:
        some = "" if all(device.energy.measured_j <= 0 for device in estimated) else "partly "
        found.append(f"energy of {len(estimated)} of {gpus_phrase(coverage)} is {some}an estimate")
    unread = sum(device.identity.rung == "gpu" and device.energy.meters.absent > 0 for device in summary.devices)
    if unread:
        found.append(f"{unread} of {gpus_phrase(coverage)} could not be read all the time")
    if NOT_SEEN_EVENT in summary.event_counts:
        found.append("no GPU of the plan was seen on a machine of the run")
    if SILENT_EVENT in summary.event_counts:
        found.append("GPUs of a driver that did not answer may be in no total")
    return found


def steps_basis(steps: StepComparison) -> str:
    """What the error of a measured step time comes from."""
    if steps.basis == "spans":
        return "queue lag at the boundaries"
    if steps.basis == "short spans":
        return f"only {plural(steps.steps, 'step')} in a row"
    return f"{plural(steps.steps, 'step')} in windows that do not end at step boundaries"


def phases(summary: AuditSummary) -> list[tuple[str, Energy]]:
    """Phases by energy, the largest first."""
    rows = [(PHASE_NAMES.get(phase, phase), energy) for phase, energy in summary.by_phase.items()]
    return sorted(rows, key=lambda row: -row[1].energy_j)


def gpus_phrase(coverage: Coverage) -> str:
    """How many GPUs, or MIG slices of GPUs, there should be."""
    if not coverage.gpu_slices:
        return plural(coverage.gpus, "GPU")
    if coverage.gpu_slices == coverage.gpus_seen:
        return plural(coverage.gpus, "MIG slice")
    return f"{coverage.gpus:,} GPUs and MIG slices"


def rung_notes(summary: AuditSummary) -> dict[str, str]:
    """How many devices of which kind each rung has."""
    notes = {}
    for rung in ("gpu", "host", "network"):
        names: dict[str, int] = {}
        for device in summary.devices:
            if device.identity.rung == rung:
                names[device.identity.name] = names.get(device.identity.name, 0) + 1
        notes[rung] = ", ".join(f"{count:,} × {name}" for name, count in list(names.items())[:3])
    return notes


def unknown_embodied(summary: AuditSummary) -> list[str]:
    """Reserved hardware, in words, that no profile gives embodied carbon for: it is unknown and not zero."""
    if summary.factors is None:
        return []
    return [SCOPE_NAMES[scope] for scope in ("device", "host") if scope not in summary.factors.embodied_kg]


def embodied_how(summary: AuditSummary) -> dict[str, str]:
    """How the embodied carbon of each scope comes about."""
    footprint, factors = summary.footprint, summary.factors
    if footprint is None or factors is None:
        return {}
    times = {"host": summary.reserved.host_s}
    how = {}
    for scope in footprint.embodied_parts_kg:
        hours = wording.device_hours(times.get(scope, summary.reserved.device_s))
        if scope in factors.embodied_kg:
            each = wording.carbon(factors.embodied_kg[scope].value)
            how[scope] = f"{each} each, {hours} reserved: {factors.amortisation}"
        else:
            how[scope] = f"{hours} of reserved device time, a year of which is charged its share"
    return how


def beside_rows(summary: AuditSummary) -> list[BesideRow]:
    """Figures that stand beside the total and are no part of it: by contract, wider, in water."""
    footprint = summary.footprint
    if footprint is None:
        return []
    rows = _unobserved_rows(summary)
    if footprint.market is not None:
        figure = footprint.market.operational_kg
        how = "; ".join(
            f"{line.kind} {wording.plain(line.energy_kwh)} kWh: {line.source}" for line in footprint.market.lines
        )
        rows.append(
            BesideRow("operation, market-based", wording.carbon(figure.value), wording.carbon_range(figure), how)
        )
    wide = footprint.interval_95.get("total_kg")
    if wide is not None:
        total = footprint.total_kg
        figure = Figure(total.value, *wide, total.unit, total.kind, total.source)
        span = wording.carbon_range(figure)
        rows.append(BesideRow("total, 95 % interval", wording.carbon(total.value), span, "2.5th to 97.5th percentile"))
    for place, water in footprint.water_l.items():
        span = f"{wording.number(water.low)} to {wording.number(water.high)} L"
        rows.append(BesideRow(f"water, {place}", f"{wording.number(water.value)} L", span, water.source))
    return rows


def _unobserved_rows(summary: AuditSummary) -> list[BesideRow]:
    """Device time that the scheduler allocated and no ledger observed, and its modelled carbon."""
    account = summary.reconciliation
    if account is None:
        return []
    hours = wording.device_hours(account.unobserved_device_s)
    of = f"{wording.device_hours(account.allocated_device_s)} allocated ({account.source})"
    observed = wording.device_hours(account.observed_device_s)
    within = account.observed_device_s <= account.allocated_device_s
    seen = f"{observed} of {of} were observed" if within else f"{of}, and {observed} were observed"
    if account.footprint is None or account.power_w is None:
        return [BesideRow("allocated, not observed", hours, "", f"{seen}; {account.not_modelled_reason}")]
    total, watts = account.footprint.total_kg, wording.power(account.power_w.value)
    how = f"{seen}; the other {hours} modelled as idle at {watts} a device, up to the mean power of the run"
    return [BesideRow("allocated, not observed", wording.carbon(total.value), wording.carbon_range(total), how)]


def grid_g_per_kwh(summary: AuditSummary) -> float:
    """Intensity over the run, gCO2e/kWh, as its windows had it."""
    if summary.footprint is None or summary.factors is None:
        return 0.0
    facility_j = summary.footprint.energy_j["facility"].value
    if not facility_j:
        return summary.factors.intensity.figure.value
    return summary.footprint.operational_kg.value / facility_j * 3.6e9


def provenance(summary: AuditSummary) -> list[ProvenanceRow]:
    """Every factor and meter that the totals rest on."""
    rows = []
    meters: dict[tuple[str, str], list[Energy]] = {}
    for device in summary.devices:
        meters.setdefault((device.identity.rung, device.identity.meter), []).append(device.energy)
    for (rung, meter), energies in meters.items():
        energy_j = sum(energy.energy_j for energy in energies)
        low_j, high_j = (sum(getattr(energy, edge) for energy in energies) for edge in ("low_j", "high_j"))
        kinds = {energy_quality(energy) for energy in energies}
        kind = kinds.pop() if len(kinds) == 1 else "mixed"
        name = f"energy, {RUNG_NAMES[rung]}"
        source = f"{meter}, {plural(len(energies), 'device')}"
        rows.append(
            ProvenanceRow(name, wording.energy(energy_j), wording.energy_range(low_j, high_j, energy_j), kind, source)
        )
    if summary.steps is not None:
        rows.append(_figure_row("step time, measured", summary.steps.measured_step_time_s, "s"))
        if summary.steps.predicted_step_time_s is not None:
            rows.append(_figure_row("step time, predicted", summary.steps.predicted_step_time_s, "s"))
    factors = summary.factors
    if factors is not None:
        intensity = factors.intensity
        rows.append(_figure_row(f"grid intensity, {intensity.zone_name}", intensity.figure, "g/kWh"))
        rows.append(_figure_row("PUE", factors.pue, ""))
        rows.append(_figure_row("lifetime", factors.lifetime_years, "years"))
        for scope, figure in factors.embodied_kg.items():
            rows.append(_figure_row(f"embodied, {SCOPE_NAMES.get(scope, scope)}", figure, "kgCO2e each"))
    return rows


def forecast_rows(summary: AuditSummary) -> list[ForecastRow]:
    """Forecast beside actual."""
    forecast = summary.forecast
    if forecast is None:
        return []
    rows = []
    if summary.steps is not None:
        actual_s = summary.steps.measured_step_time_s.value
        rows.append(_time_row("step time", forecast.step_time_s, actual_s))
    rows.append(
        ForecastRow(
            "steps",
            f"{forecast.total_steps:,}",
            "",
            f"{summary.progress.steps:,}",
            wording.off_by(summary.progress.steps / forecast.total_steps),
        )
    )
    rows.append(_time_row("time running", forecast.run_time_s, summary.period.active_s))
    hours = summary.reserved.device_s / 3600
    rows.append(
        ForecastRow(
            "device-hours",
            f"{wording.number(forecast.device_hours.value)} h",
            f"{wording.number(forecast.device_hours.low)} to {wording.number(forecast.device_hours.high)} h",
            f"{wording.number(hours)} h",
            _off(hours, forecast.device_hours.value),
        )
    )
    planned = forecast.footprint
    rows.append(_energy_row("energy of the machines", planned.energy_j["it"], summary.energy.energy_j))
    if summary.footprint is not None:
        for name, before, after in (
            ("operational carbon", planned.operational_kg, summary.footprint.operational_kg),
            ("embodied carbon", planned.embodied_kg, summary.footprint.embodied_kg),
            ("total carbon", planned.total_kg, summary.footprint.total_kg),
        ):
            actual = wording.carbon(after.value)
            planned_text, span = wording.carbon(before.value), wording.carbon_range(before)
            rows.append(ForecastRow(name, planned_text, span, actual, _off(after.value, before.value)))
    return rows


def cause_rows(summary: AuditSummary) -> list[CauseRow]:
    """Why the forecast was off; the last row is the whole difference. Empty where it cannot be split."""
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None or footprint is None or not forecast.parts or forecast.embodied_kg is None:
        return []
    total_kg = footprint.total_kg.value
    rows = [
        CauseRow(
            part.cause,
            wording.off_by(part.factor),
            wording.signed_carbon(part.carbon_kg, of_kg=total_kg),
            part.explanation,
        )
        for part in forecast.parts
    ]
    hours, planned_hours = summary.reserved.device_s / 3600, forecast.device_hours.value
    reserved = f"devices were reserved for {wording.number(hours)} h, planned {wording.number(planned_hours)} h"
    rows.append(CauseRow("embodied", "", wording.signed_carbon(forecast.embodied_kg, of_kg=total_kg), reserved))
    difference_kg = total_kg - forecast.footprint.total_kg.value
    rows.append(CauseRow("all", "", wording.signed_carbon(difference_kg, of_kg=total_kg), ""))
    return rows


def effective_rows(summary: AuditSummary) -> list[EffectiveRow]:
    """The effective spec, one row a field."""

    def text(entry: Mapping[str, Any], name: str) -> str:
        value = entry.get(name)
        return "" if value is None else str(value)

    rows = []
    for field, entry in summary.run.effective.items():
        known = entry if isinstance(entry, Mapping) else {"value": entry}
        rows.append(
            EffectiveRow(field, *(text(known, name) for name in ("value", "source", "planned", "declared", "detected")))
        )
    return rows


def _figure_row(name: str, figure: Figure, unit: str) -> ProvenanceRow:
    suffix = f" {unit}" if unit else ""
    span = "" if figure.low == figure.high else f"{wording.plain(figure.low)} to {wording.plain(figure.high)}"
    return ProvenanceRow(name, wording.plain(figure.value) + suffix, span, figure.kind, figure.source)


def _time_row(name: str, planned: Figure, actual_s: float) -> ForecastRow:
    texts = (wording.duration(planned.value), wording.duration_range(planned), wording.duration(actual_s))
    return ForecastRow(name, *texts, _off(actual_s, planned.value))


def _energy_row(name: str, planned: Figure, actual_j: float) -> ForecastRow:
    span = wording.energy_range(planned.low, planned.high, planned.value)
    return ForecastRow(
        name, wording.energy(planned.value), span, wording.energy(actual_j), _off(actual_j, planned.value)
    )


def _off(actual: float, planned: float) -> str:
    return wording.off_by(actual / planned) if planned > 0 else "–"
