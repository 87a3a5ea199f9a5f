"""Open the provider that a site asks for. Credentials, and an address other than the usual one, come from the
environment only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors.zones import Area, electricity_maps_zone, locate
from carbon_plugin.footprint.intensity import average_intensity
from carbon_plugin.footprint.live.provider import IntensityProvider
from carbon_plugin.spec.site import LiveSource, Site

TOKEN_VARIABLE = "ELECTRICITY_MAPS_TOKEN"
USER_VARIABLE, PASSWORD_VARIABLE = "WATTTIME_USER", "WATTTIME_PASSWORD"
# Variables that hold another address of a service, for instance of a mirror or of its next version.
URL_VARIABLES = {
    "electricity-maps": "ELECTRICITY_MAPS_URL",
    "neso": "NESO_CARBON_INTENSITY_URL",
    "watttime": "WATTTIME_URL",
}


def open_provider(source: LiveSource, site: Site, environ: Mapping[str, str]) -> IntensityProvider:
    """Return the provider of a live source. The provider is not asked yet.

    Raises `FootprintError` where a variable is missing, or the zone does not follow from the site's.
    """
    # Only a run with a live provider pays for the import of the HTTP client.
    from carbon_plugin.footprint.live import electricity_maps, neso, watttime

    area = locate(site.zone) if site.zone is not None else None
    url = environ.get(URL_VARIABLES[source.provider])
    match source.provider:
        case "electricity-maps":
            token = _variable(environ, TOKEN_VARIABLE, source)
            # A stale live value moves to the static one, so both must have the same scope.
            static = average_intensity(site).basis
            scope: Literal["lifecycle", "direct"] = static.scope if static is not None else "lifecycle"
            zone = source.zone or _electricity_maps(area, source)
            return electricity_maps.ElectricityMaps(zone, token, scope=scope, base_url=url or electricity_maps.BASE_URL)
        case "neso":
            if area is None or area.code != "GBR":
                raise FootprintError(f"live intensity of neso is of Great Britain, but the site's zone is {site.zone}")
            return neso.Neso(base_url=url or neso.BASE_URL)
        case "watttime":
            user, password = (_variable(environ, name, source) for name in (USER_VARIABLE, PASSWORD_VARIABLE))
            if source.zone is None:
                raise FootprintError("live intensity of watttime: give zone, its region, for instance CAISO_NORTH")
            return watttime.WattTime(source.zone, user, password, base_url=url or watttime.BASE_URL)


def _variable(environ: Mapping[str, str], name: str, source: LiveSource) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise FootprintError(f"live intensity of {source.provider}: the environment variable {name} is not set")
    return value


def _electricity_maps(area: Area | None, source: LiveSource) -> str:
    code = None if area is None else electricity_maps_zone(area)
    if code is None:
        raise FootprintError(
            f"live intensity of {source.provider}: give zone, its name of the area, such as US-CAL-CISO"
        )
    return code
