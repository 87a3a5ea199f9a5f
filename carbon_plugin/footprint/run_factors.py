"""Collect all carbon factors of a run in one value, with an assumption for each factor that nobody stated."""

from __future__ import annotations

from datetime import date

from carbon_plugin.footprint.embodied.devices import (
    building_kg,
    embodied_factors,
    fleet_utilisation,
    lifetime,
    lifetime_warning,
)
from carbon_plugin.footprint.factors.grid import UNIT, direct_warning, low_warning, stale_warning, stand_in_warning
from carbon_plugin.footprint.factors.pue import resolve_pue
from carbon_plugin.footprint.factors.stated import range_words
from carbon_plugin.footprint.factors.water import resolve_water
from carbon_plugin.footprint.factors.zones import find
from carbon_plugin.footprint.intensity import average_intensity, marginal_intensity
from carbon_plugin.footprint.values import Factors, Intensity, RunPeriod
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.site import Site


def resolve_factors(
    site: Site, cluster: Cluster | None, *, today: date | None = None, period: RunPeriod | None = None
) -> Factors:
    """Return the factors in force at a site on a cluster. Without a cluster there is no embodied factor.

    `today` decides how old a vintage is (default: the system's date). `period` is when the run takes place, for the
    hours of an intensity series. Raises `FootprintError` for an unknown zone or a series that cannot be used.
    """
    intensity = average_intensity(site, today=today, period=period)
    pue = resolve_pue(site, cluster.accelerator if cluster is not None else None)
    life, utilisation = lifetime(site), fleet_utilisation(site)
    embodied = embodied_factors(cluster) if cluster is not None else {}
    building = building_kg(cluster) if cluster is not None and site.building else None
    water = resolve_water(site, find(site.zone))
    warnings = (
        stale_warning(intensity, today=today),
        low_warning(intensity),
        direct_warning(intensity),
        stand_in_warning(site, intensity),
        lifetime_warning(site),
    )
    optional = {"site.fleet_utilisation": utilisation, "site.building": building}
    return Factors(
        intensity=intensity,
        pue=pue,
        lifetime_years=life,
        embodied_kg=embodied,
        fleet_utilisation=utilisation,
        building_kg=building,
        marginal=marginal_intensity(site, period=period),
        instruments=site.instruments,
        residual=_residual(site),
        water_l_per_kwh=water,
        warnings=tuple(filter(None, warnings)),
        assumptions=(
            *_of_intensity(intensity),
            *_live(site),
            *_of("site.pue", pue),
            *_of_stated(site, pue),
            *_cooling(cluster),
            *_of("site.lifetime_years", life),
            *(assumption for name, figure in optional.items() if figure for assumption in _of(name, figure)),
            *(assumption for scope, figure in embodied.items() for assumption in _of(f"embodied.{scope}", figure)),
            *(assumption for place, figure in water.items() for assumption in _of(f"water.{place}", figure)),
        ),
    )


def _residual(site: Site) -> Figure | None:
    rate = site.residual_g_per_kwh
    return None if rate is None else Figure(rate, rate, rate, UNIT, "declared", "residual mix stated by the user")


def _of(field: str, figure: Figure) -> tuple[Assumption, ...]:
    """Return the assumption for a figure that was neither declared nor measured."""
    if figure.kind in ("declared", "measured"):
        return ()
    value = f"{number(figure.value, 4)} ({number(figure.low)} to {number(figure.high)}) {figure.unit}"
    return (Assumption(field=field, value=value, source=figure.source),)


def _of_stated(site: Site, pue: Figure) -> tuple[Assumption, ...]:
    """Return the assumption for the range of a stated PUE, of which one without overhead has none. The one for a
    stated intensity is among the intensity's notes.
    """
    if site.pue is None or pue.low == pue.high:
        return ()
    value = f"{number(pue.low, 4)} to {number(pue.high, 4)} around the stated {number(pue.value, 4)}"
    return (Assumption(field="site.pue_range", value=value, source=range_words(site.pue_kind, site.pue_range)),)


def _cooling(cluster: Cluster | None) -> tuple[Assumption, ...]:
    """Return a note on whether the power of the node's fans belongs to the IT energy. With liquid cooling they are
    outside of the node.
    """
    if cluster is None:
        return ()
    node = cluster.node
    side = "in the node, so part of IT energy" if node.cooling == "air" else "in the facility, so part of the PUE"
    return (
        Assumption(field="node.cooling", value=node.cooling, source=f"{node.name}: power of moving heat is {side}"),
    )


def _live(site: Site) -> tuple[Assumption, ...]:
    if site.live is None:
        return ()
    reason = "asked during the run; the static intensity counts in forecasts, before the first value and after the last"
    return (Assumption(field="site.live", value=site.live.provider, source=reason),)


def _of_intensity(intensity: Intensity) -> tuple[Assumption, ...]:
    figure = intensity.figure
    notes = tuple(Assumption(field="site.zone", value=intensity.zone, source=note) for note in intensity.notes)
    return (*_of("site.intensity_g_per_kwh", figure), *notes)
