"""Find the power usage effectiveness of a site: the user's value, a cloud region's, a provider's fleet average, that
of a desktop computer, or the industry mean.
"""

from __future__ import annotations

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.stated import stated_pue_range
from carbon_plugin.footprint.factors.zones import cloud_region
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site

UNIT = "kWh facility/kWh IT"


def resolve_pue(site: Site, accelerator: Accelerator | None = None) -> Figure:
    """Return facility energy over IT energy of a site, with its p10-p90 range.

    In this order: the user's value (with the range that was stated, or a usual one); the published value of the cloud
    region; the provider's fleet average; that of a desktop computer, where the accelerator is a card for one; the
    industry mean. The last two are stated assumptions. The provider is known from the zone's prefix.
    """
    if site.pue is not None:
        return Figure.of(stated_pue_range(site.pue, site.pue_kind, site.pue_range), UNIT, "declared", site.pue_source)
    table = tables.pue_table()
    cloud = cloud_region(site.zone)
    if cloud is None and accelerator is not None and accelerator.consumer:
        return _figure(table, table.desktop, f"{accelerator.name} is a card for desktop computers")
    if cloud is None:
        return _figure(table, table.unknown, "the facility is not known")
    provider = table.providers.get(cloud[0])
    if provider is None:
        return _figure(table, table.unknown, f"no published value of {cloud[0]}")
    published = provider.of_region(cloud[1])
    if published is None:
        return _figure(table, provider.fleet, f"no published value of {cloud[0]}:{cloud[1]}")
    return _figure(table, published, None)


def _figure(table: tables.PueTable, estimate: tables.Estimate, reason: str | None) -> Figure:
    """Return an estimate as a figure. If it has no range of its own, its overhead varies by the table's spread between
    sites.
    """
    overhead = estimate.value - 1
    low = 1 + overhead * table.site_spread.low if estimate.low is None else estimate.low
    high = 1 + overhead * table.site_spread.high if estimate.high is None else estimate.high
    source = f"{estimate.source}; {reason}" if reason else estimate.source
    return Figure(estimate.value, low, high, UNIT, "assumed", source)
