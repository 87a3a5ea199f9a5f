"""Take embodied carbon from hardware profiles, and the lifetime over which it is amortised.

A profile states the kg of its device with its source; `embodied/bottom_up.py` models a device that nobody published.
"""

from __future__ import annotations

from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.factors.tables import Estimate
from carbon_plugin.footprint.values import Factors, Reservation
from carbon_plugin.spec.hardware.cluster import Cluster, Node
from carbon_plugin.spec.hardware.fabric import fabric_factor
from carbon_plugin.spec.numbers.figure import Figure, Sourced
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, SECONDS_PER_HOUR
from carbon_plugin.spec.site import Site

UNIT = "kgCO2e"

USUAL_YEARS = (1.0, 15.0)
"""Lifetimes outside of it are asked about: operators state 4 to 6 years for servers, and few keep one beyond 15."""


def embodied_factors(cluster: Cluster) -> dict[str, Figure]:
    """Return the cradle-to-gate kgCO2e of one unit of each embodied scope of a cluster.

    "device": one accelerator with its share of the baseboard; "host": one node without accelerators; "network":
    the share of switches and optics of one accelerator.
    """
    accelerator, node = cluster.accelerator, cluster.node
    return {
        "device": _figure(accelerator.embodied_kg, accelerator.name, accelerator.sources),
        "host": _figure(node.host.embodied_kg, f"{node.name} host", node.sources),
        "network": _figure(node.network.embodied_kg_per_device, f"{node.name} network share", node.sources),
    }


def lifetime(site: Site) -> Figure:
    """Return the calendar life of the hardware in years: the user's value, or the shipped assumption with its range."""
    if site.lifetime_years is not None:
        years = site.lifetime_years
        return Figure(years, years, years, "year", "declared", "stated by the user")
    return _estimate(tables.embodied_table().lifetime_years, "year")


def lifetime_warning(site: Site) -> str | None:
    """Return a sentence for the user if the stated lifetime is unusual, else None."""
    years = site.lifetime_years
    if years is None or USUAL_YEARS[0] <= years <= USUAL_YEARS[1]:
        return None
    return f"lifetime_years is {years:g}: operators keep servers for 3 to 8 years; check that the unit is years"


def fleet_utilisation(site: Site) -> Figure | None:
    """Return the share of the calendar life in which the fleet is in use if the site amortises over that, else None."""
    if site.amortisation == "reserved_time":
        return None
    if site.fleet_utilisation is not None:
        share = site.fleet_utilisation
        return Figure(share, share, share, "1", "declared", "stated by the user")
    return _estimate(tables.embodied_table().fleet_utilisation, "1")


def building_kg(cluster: Cluster) -> Figure:
    """Return the kgCO2e of the building per device and year. A device is charged its share of the rated power of node
    and network.
    """
    estimate = tables.embodied_table().building_kg_per_kw_year
    kilowatts = rated_power_w(cluster) / 1e3
    per_kw = _estimate(estimate, "kgCO2e/(kW year)")
    figure = per_kw.scaled(kilowatts, "kgCO2e/(device year)")
    source = f"building of {kilowatts:.3g} kW of IT capacity a device: {estimate.source}"
    return Figure.of(figure.range, figure.unit, figure.kind, source)


def rated_power_w(cluster: Cluster) -> float:
    """Return the IT capacity that a device occupies, W: its share of the rating of its node, and of the network."""
    node = cluster.node
    node_w = node_rating_w(node, cluster.accelerator.tdp_w.value)
    return node_w / node.accelerators + fabric_factor(node, cluster.nodes) * node.network.power_w_per_device.value


def node_rating_w(node: Node, device_tdp_w: float) -> float:
    """Return the rated power of a node, W, or else the most that it can draw with devices of this power limit."""
    if node.host.rated_power_w is not None:
        return node.host.rated_power_w.value
    devices_w = node.accelerators * device_tdp_w
    return node.host.base_power_w.value + (1 + node.host.overhead_fraction.value) * devices_w


def per_device_hour_g(factors: Factors, devices_per_node: int) -> Figure:
    """Return the embodied gCO2e of one reserved device-hour with its share of host and network, for display.

    `devices_per_node` share the host. Raises `FootprintError` where `factors` lacks an embodied scope.
    """
    reservations = [
        Reservation(scope="device", units=1, time_s=SECONDS_PER_HOUR),
        Reservation(scope="host", units=1 / devices_per_node, time_s=SECONDS_PER_HOUR),
        Reservation(scope="network", units=1, time_s=SECONDS_PER_HOUR),
    ]
    embodied_kg = account([], reservations, factors).embodied_kg
    assert embodied_kg is not None  # three parts of it are reserved
    return embodied_kg.scaled(GRAMS_PER_KG, "gCO2e/device-hour")


def _estimate(row: Estimate, unit: str) -> Figure:
    return Figure.of(row.range, unit, "assumed", row.source)


def _figure(value: Sourced, name: str, sources: dict[str, str]) -> Figure:
    """Return a profile value as a figure. Its source names the part, and the text that the profile gives for its
    source.
    """
    figure = value.figure(UNIT)
    source = f"{name}: {sources.get(value.source, value.source)} ({value.confidence})"
    return Figure.of(figure.range, figure.unit, figure.kind, source)
