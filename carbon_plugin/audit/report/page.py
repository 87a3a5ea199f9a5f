"""Write the report as one page that needs nothing from outside: styles, scripts, drawings and data are in the file."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from carbon_plugin.audit.explain.trace import Explanation, explain_each
from carbon_plugin.audit.report import first_screen, grasp
from carbon_plugin.audit.report.addresses import linked
from carbon_plugin.audit.report.charts.all_charts import MAKERS, charts_of
from carbon_plugin.audit.report.charts.of_devices import outlier_table
from carbon_plugin.audit.report.tables import energy, evidence, forecast
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import missing, narrative, phrases
from carbon_plugin.audit.sentences.quality import data_quality
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import COLOURS
from carbon_plugin.show.plot import paint
from carbon_plugin.spec.amounts import plural

if TYPE_CHECKING:
    from markupsafe import Markup

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
    "coverage",
    "period",
    "series",
    "drivers",
    "waste",
)
"""The page shows the derivation of these fields of report.json."""
EXPLAINED_LINES = 24
CHART_NAMES = ("power", "doing", "intensity", "emissions", "gpus", "steps", "phases", "forecast", "drivers", "devices")


class Derivation(Struct, frozen=True, kw_only=True):
    """The first lines of a number's derivation, and the number of lines that follow."""

    shown: list[Explanation]
    more: int


def render_html(summary: AuditSummary) -> str:
    """Return the report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("carbon_plugin.audit.report", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "energy": wording.energy,
        "duration": wording.duration,
        "moment": wording.moment,
        "plural": plural,
        "linked": linked,
        "paint": paint,
        "script_json": script_json,
    }
    return environment.get_template("report.html.j2").render(_context(summary))


def script_json(value: Any) -> Markup:
    """Return a value as JSON for a script element. Nothing in it can end the element."""
    from markupsafe import Markup

    text = msgspec.json.encode(value).decode()
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _context(summary: AuditSummary) -> dict[str, Any]:
    total = summary.footprint.total_kg.value if summary.footprint else 0.0
    scripts = (_shipped("vendor/uPlot.iife.min.js"), _shipped("script.js"))
    assert len(CHART_NAMES) == len(MAKERS)
    found: dict[str, Any] = {
        "s": summary,
        "styles": _shipped("vendor/uPlot.min.css") + _shipped("style.css"),
        "scripts": scripts,
        "script_hashes": " ".join(map(_allowed, scripts)),
        "colours": COLOURS,
        "charts": dict.fromkeys(CHART_NAMES) | charts_of(summary),
        "how_of": _derivations(summary),
        "subtitle": narrative.subtitle(summary),
        "opening": narrative.opening(summary),
        "missing": missing.missing(summary),
        "notes": missing.notes(summary),
        "headline": first_screen.headline(summary),
        "tiles": first_screen.tiles(summary),
        "quality": data_quality(summary),
        "drive": grasp.as_a_drive(total),
        "energy_badge": phrases.energy_quality(summary.energy),
        "rungs": energy.rung_table(summary),
        "phases": energy.phase_table(summary),
        "carbon": energy.carbon_table(summary),
        "beside": energy.beside_table(summary),
        "prediction": forecast.prediction_table(summary),
        "forecast": forecast.forecast_table(summary),
        "causes": forecast.cause_table(summary),
        "elsewhere": grasp.elsewhere(summary),
        "outliers": outlier_table(summary),
        "attempts": evidence.attempt_table(summary),
        "devices": evidence.device_table(summary),
        "events": evidence.event_table(summary),
        "sources": evidence.source_table(summary),
        "assumptions": evidence.assumption_table(summary),
        "spec": evidence.spec_table(summary),
        "ledgers": evidence.ledger_table(summary),
        "versions": ", ".join(f"{name} {version}" for name, version in summary.run.versions.items()),
    }
    return found | {"sections": _sections(found)}


def _sections(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the anchors of the sections that the page has, with their titles."""
    sections = [("time", "Over time"), ("energy", "Energy"), ("expected", "Expected")]
    sections += [("carbon", "Carbon and its range")] if found["carbon"] else []
    sections += [("elsewhere", "Other grids")] if found["elsewhere"] else []
    return [*sections, ("machines", "GPUs"), ("sources", "Sources"), ("trust", "Verification"), ("method", "Method")]


def _derivations(summary: AuditSummary) -> dict[str, Derivation]:
    found = explain_each(summary, EXPLAINED)
    return {
        field: Derivation(shown=lines[:EXPLAINED_LINES], more=max(0, len(lines) - EXPLAINED_LINES))
        for field, lines in found.items()
    }


@cache
def _shipped(name: str) -> str:
    return (files("carbon_plugin.audit.report") / "web" / name).read_text(encoding="utf-8")


def _allowed(script: str) -> str:
    """Return the hash of a script in the form in which a Content-Security-Policy allows it, and no other, to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
