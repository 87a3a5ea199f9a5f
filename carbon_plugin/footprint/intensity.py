"""Find the intensity of a site for a run: from its series of values over time, or else from its number or its zone."""

from __future__ import annotations

from datetime import date

from carbon_plugin.footprint.factors.grid import declared_intensity, resolve_intensity
from carbon_plugin.footprint.values import Intensity, RunPeriod
from carbon_plugin.spec.site import Site


def average_intensity(site: Site, *, today: date | None = None, period: RunPeriod | None = None) -> Intensity:
    """Return the average intensity for a run. Raises `FootprintError` for an unknown zone or an unusable series."""
    if site.intensity_series is None:
        return resolve_intensity(site, today=today)
    # Only a site with a series pays for the arrays.
    from carbon_plugin.footprint.series.over_run import series_intensity

    return series_intensity(site.intensity_series, site.zone, period)


def marginal_intensity(site: Site, *, period: RunPeriod | None = None) -> Intensity | None:
    """Return the marginal intensity where the site states one. It answers what-if questions, and is in no total."""
    if site.marginal_series is not None:
        from carbon_plugin.footprint.series.over_run import series_intensity

        return series_intensity(site.marginal_series, site.zone, period, "marginal")
    if site.marginal_g_per_kwh is None:
        return None
    return declared_intensity(site.marginal_g_per_kwh, zone=site.zone, source=site.marginal_source)
