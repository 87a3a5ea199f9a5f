"""Find where each launch of a run took place, and how its factors convert to lifecycle or direct emissions of
its grid.
"""

from __future__ import annotations

from functools import lru_cache

from carbon_plugin.audit.run_carbon import turned_figure
from carbon_plugin.fleet.rows.hours import HourCollector
from carbon_plugin.footprint.values import EmissionScope, Factors, Intensity

UNSTATED = "not stated"
"""The value of a dimension that a run does not state."""

SCOPES: tuple[EmissionScope, ...] = ("lifecycle", "direct")
"""The emissions of a grid that an intensity may count."""


def factors_by_launch(collected: HourCollector) -> dict[int, Factors | None]:
    """Return the factors that each launch of a run states, with None for a launch that states none."""
    found: dict[int, Factors | None] = {}
    for file in sorted(collected.files, key=lambda one: (one.context.launch, one.manifest.node)):
        launch = file.context.launch
        found[launch] = found.get(launch) or file.factors
    return found


def place_of(factors: Factors | None) -> tuple[str, str]:
    """Return the zone of these factors and its name."""
    return (factors.intensity.zone, factors.intensity.zone_name) if factors else (UNSTATED, UNSTATED)


def scope_ratio(factors: Factors | None, scope: EmissionScope) -> float:
    """Return the grams in lifecycle or in direct emissions that one gram by the intensity of these factors stands for.

    The ratio is 1 where the intensity counts these emissions already, or cannot be converted.
    """
    intensity = factors.intensity if factors else None
    if intensity is None or intensity.figure.value <= 0 or (intensity.basis and intensity.basis.scope == scope):
        return 1.0
    g_per_kwh = turned(intensity, scope)
    return 1.0 if g_per_kwh is None else g_per_kwh / intensity.figure.value


@lru_cache(maxsize=1024)
def turned(intensity: Intensity, scope: EmissionScope) -> float | None:
    """Return a grid's intensity with lifecycle or direct emissions, g/kWh, or None where its own basis is unknown."""
    figure = turned_figure(intensity, scope)
    return None if figure is None else figure.value
