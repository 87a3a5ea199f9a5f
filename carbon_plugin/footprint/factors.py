"""All carbon factors of a run in one value, with an assumption for each that nobody stated."""

from __future__ import annotations

from datetime import date

from carbon_plugin.footprint.account import Factors, Intensity
from carbon_plugin.footprint.embodied import embodied_factors, lifetime
from carbon_plugin.footprint.grid import resolve_intensity
from carbon_plugin.footprint.pue import resolve_pue
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.hardware import Cluster
from carbon_plugin.spec.site import Site


def resolve_factors(site: Site, cluster: Cluster | None, *, today: date | None = None) -> Factors:
    """Factors in force at a site on a cluster; without a cluster there is no embodied factor.

    `today` decides how old a vintage is (default: the system's date). Raises `FootprintError` for an unknown zone.
    """
    intensity = resolve_intensity(site, today=today)
    pue = resolve_pue(site)
    life = lifetime(site)
    embodied = embodied_factors(cluster) if cluster is not None else {}
    return Factors(
        intensity=intensity,
        pue=pue,
        lifetime_years=life,
        embodied_kg=embodied,
        assumptions=(
            *_of_intensity(intensity),
            *_of("site.pue", pue),
            *_of("site.lifetime_years", life),
            *(assumption for scope, figure in embodied.items() for assumption in _of(f"embodied.{scope}", figure)),
        ),
    )


def _of(field: str, figure: Figure) -> tuple[Assumption, ...]:
    """The assumption behind a figure that was neither declared nor measured."""
    if figure.kind in ("declared", "measured"):
        return ()
    value = f"{figure.value:g} ({figure.low:g} to {figure.high:g}) {figure.unit}"
    return (Assumption(field=field, value=value, source=figure.source),)


def _of_intensity(intensity: Intensity) -> tuple[Assumption, ...]:
    figure = intensity.figure
    notes = tuple(Assumption(field="site.zone", value=intensity.zone, source=note) for note in intensity.notes)
    return (*_of("site.intensity_g_per_kwh", figure), *notes)
