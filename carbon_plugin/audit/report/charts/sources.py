"""Say in a few words where the numbers of each chart come from, for a reader who hovers over it."""

from __future__ import annotations

from collections.abc import Callable

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import RUNG_NAMES


def source_of(name: str, summary: AuditSummary) -> str:
    """Return the source of the numbers of a chart in one line."""
    maker = _SOURCES.get(name)
    return maker(summary) if maker else _meters(summary)


def _grid(summary: AuditSummary) -> str:
    return f"{_meters(summary)}; {summary.factors.intensity.figure.source}" if summary.factors else _meters(summary)


def _steps(summary: AuditSummary) -> str:
    if summary.steps is None:
        return "the ledgers of the run"
    predicted = summary.steps.predicted_step_time_s
    return summary.steps.measured_step_time_s.source + (f"; predicted: {predicted.source}" if predicted else "")


def _forecast(summary: AuditSummary) -> str:
    if summary.forecast is None:
        return "the ledgers of the run"
    made = f"{wording.moment(summary.forecast.created_unix_s)} by carbon-plugin {summary.forecast.plugin_version}"
    return f"forecast of {made}; the ledgers of the run"


def _drivers(summary: AuditSummary) -> str:
    sampling = summary.sampling
    return f"{sampling.draws:,} draws with seed {sampling.seed}, one input at a time" if sampling else _meters(summary)


def _meters(summary: AuditSummary, gpus_only: bool = False) -> str:
    """Return the meters of each rung, and how they tell its energy."""
    found: dict[str, set[str]] = {}
    for device in summary.devices:
        identity = device.identity
        if identity.rung == "gpu" or not gpus_only:
            found.setdefault(RUNG_NAMES[identity.rung], set()).add(identity.meter)
    how = {RUNG_NAMES[rung]: phrases.meters_phrase(energy.meters) for rung, energy in summary.by_rung.items()}
    told = {name: f" ({how[name]})" if name in how else "" for name in found}
    return "; ".join(f"{name}: {', '.join(sorted(meters))}{told[name]}" for name, meters in found.items())


_SOURCES: dict[str, Callable[[AuditSummary], str]] = {
    "gpus": lambda summary: _meters(summary, gpus_only=True),
    "devices": lambda summary: _meters(summary, gpus_only=True),
    "intensity": _grid,
    "emissions": _grid,
    "hours": lambda summary: f"{_meters(summary)}; {summary.series.grid_by_hour_from}",
    "steps": _steps,
    "forecast": _forecast,
    "drivers": _drivers,
}
"""The function that tells the source of each chart; that of the others are the meters."""
