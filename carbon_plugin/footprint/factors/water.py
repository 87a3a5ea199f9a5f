"""Find the water use of a kWh: evaporation on site (WUE, for a kWh of IT energy), and in generating the electricity.

The user's value comes first, then the average of the provider's fleet or of the country. Unpublished values stay
absent.
"""

from __future__ import annotations

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.zones import Area, cloud_region
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site

ON_SITE, OFF_SITE = "on-site", "off-site"
UNIT = "L/kWh"


def resolve_water(site: Site, area: Area | None) -> dict[str, Figure]:
    """Return the liters of water a kWh by place, as far as they are known: "on-site" for a kWh of IT energy, "off-site"
    for a kWh of facility energy.

    `area` is that of the site's zone, or None where the user gave an intensity without a zone.
    """
    table = tables.water_table()
    cloud = cloud_region(site.zone)
    generation = None if area is None else table.off_site.get(area.country or "")
    found = {
        ON_SITE: _choose(site.wue_l_per_kwh, _on_site(table, cloud), table.site_spread),
        OFF_SITE: _choose(site.water_l_per_kwh, generation, table.site_spread),
    }
    return {place: figure for place, figure in found.items() if figure is not None}


def _on_site(table: tables.WaterTable, cloud: tuple[str, str] | None) -> tables.Estimate | None:
    """Return the published value of a cloud region or else of its provider's fleet, or None without both."""
    if cloud is None or cloud[0] not in table.on_site:
        return None
    provider, region = table.on_site[cloud[0]], cloud[1]
    return provider.of_region(region) or provider.fleet


def _choose(stated: float | None, published: tables.Estimate | None, spread: tables.FactorSpread) -> Figure | None:
    if stated is not None:
        return Figure(stated, stated, stated, UNIT, "declared", "stated by the user")
    if published is None:
        return None
    value = published.value
    return Figure(value, value * spread.low, value * spread.high, UNIT, "assumed", published.source)
