"""Write the report as one page that needs no other file: it contains styles, scripts, drawings and data."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.audit.explain.trace import Explanation, explain_each
from carbon_plugin.audit.report import first_screen, grasp, otherwise
from carbon_plugin.audit.report.charts.all_charts import MAKERS, charts_of
from carbon_plugin.audit.report.charts.of_devices import node_table, outlier_table
from carbon_plugin.audit.report.environment import environment, script_hashes, scripts, styles
from carbon_plugin.audit.report.tables import energy, evidence, forecast
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import missing, narrative, phrases
from carbon_plugin.audit.sentences.quality import data_quality
from carbon_plugin.show.drawing import COLOURS

EXPLAINED = (
    "footprint.total_kg",
    "footprint.operational_kg",
    "footprint.embodied_kg",
    "energy",
    "factors.intensity",
    "progress.tokens",
    "progress.steps",
    "steps.measured_step_time_s",
    "steps.predicted_step_time_s",
    "forecast.footprint.total_kg",
    "forecast.footprint.operational_kg",
    "coverage",
    "period",
    "series",
    "series.grid_by_hour_g_per_kwh",
    "drivers",
    "waste",
    "footprint.energy_j.facility",
    "footprint.market",
    "by_rung.gpu",
    "verification",
)
"""The page shows the derivation of these fields of report.json, and of the phases, causes and water that it has."""
EXPLAINED_LINES = 24


class Derivation(Struct, frozen=True, kw_only=True):
    """The first lines of a number's derivation, and the number of lines that follow."""

    shown: list[Explanation]
    more: int


def render_html(summary: AuditSummary) -> str:
    """Return the report as HTML."""
    return environment().get_template("report.html.j2").render(_context(summary))


def render_first_screen(summary: AuditSummary) -> str:
    """Return the first screen of the report as a page of its own without scripts, for instance for a notebook."""
    found = {"styles": styles(), **_first_screen(summary), "how_of": _derivations(summary)}
    return environment().get_template("notebook.html.j2").render(found)


def _context(summary: AuditSummary) -> dict[str, Any]:
    charts = charts_of(summary)
    found: dict[str, Any] = {
        **_first_screen(summary),
        "styles": styles(),
        "scripts": scripts(),
        "script_hashes": script_hashes(),
        "colours": COLOURS,
        "charts": dict.fromkeys(MAKERS) | charts,
        "how_of": _derivations(summary),
        "opening": narrative.opening(summary),
        "missing": missing.missing(summary),
        "notes": missing.notes(summary),
        "rungs": energy.rung_table(summary),
        "phases": energy.phase_table(summary),
        "carbon": energy.carbon_table(summary),
        "beside": energy.beside_table(summary),
        "prediction": forecast.prediction_table(summary),
        "forecast": forecast.forecast_table(summary),
        "causes": forecast.cause_table(summary),
        "elsewhere": otherwise.elsewhere(summary),
        "no_hours": None if "hours" in charts else otherwise.at_hours(summary),
        "outliers": outlier_table(summary),
        "nodes": node_table(summary),
        "attempts": evidence.attempt_table(summary),
        "devices": evidence.device_table(summary),
        "events": evidence.event_table(summary),
        "sources": evidence.source_table(summary),
        "assumptions": evidence.assumption_table(summary),
        "spec": evidence.spec_table(summary),
        "ledgers": evidence.ledger_table(summary),
        "phase_fields": _phases(summary),
        "cause_fields": _causes(summary),
        "beside_fields": ["footprint.market", *_water(summary)],
        "versions": ", ".join(f"{name} {version}" for name, version in summary.run.versions.items()),
    }
    return found | {"sections": _sections(found)}


def _first_screen(summary: AuditSummary) -> dict[str, Any]:
    return {
        "s": summary,
        "subtitle": narrative.subtitle(summary),
        "headline": first_screen.total_of(summary),
        "tiles": first_screen.tiles(summary),
        "quality": data_quality(summary),
        "drive": grasp.as_a_drive(summary.footprint.counted_kg.value) if summary.footprint else None,
        "energy_badge": phrases.energy_quality(summary.energy),
    }


def _sections(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the anchors of the sections that the page has, with their titles."""
    sections = [("time", "Over time"), ("energy", "Energy"), ("expected", "Expected")]
    sections += [("carbon", "Carbon and its range")] if found["carbon"] else []
    sections += [("elsewhere", "Elsewhere")] if found["elsewhere"] else []
    return [*sections, ("machines", "GPUs"), ("sources", "Sources"), ("trust", "Verification"), ("method", "Method")]


def _phases(summary: AuditSummary) -> list[str]:
    return [f"by_phase.{phase}" for phase in summary.by_phase]


def _causes(summary: AuditSummary) -> list[str]:
    return [f"forecast.parts.{at}" for at in range(len(summary.forecast.parts) if summary.forecast else 0)]


def _water(summary: AuditSummary) -> list[str]:
    return [f"footprint.water_l.{place}" for place in summary.footprint.water_l] if summary.footprint else []


def _derivations(summary: AuditSummary) -> dict[str, Derivation]:
    found = explain_each(summary, [*EXPLAINED, *_phases(summary), *_causes(summary), *_water(summary)])
    return {
        field: Derivation(shown=lines[:EXPLAINED_LINES], more=max(0, len(lines) - EXPLAINED_LINES))
        for field, lines in found.items()
    }
