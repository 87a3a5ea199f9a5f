"""Print the embodied carbon of an accelerator, its node and network part by part (`profiles show --embodied`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.embodied.bill import Bill, device_bill, host_bill, network_bill
from carbon_plugin.footprint.embodied.devices import building_kg, per_device_hour_g
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.hardware.profiles import ANY_ACCELERATOR, Profile, default_node_for, load_accelerator
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Site


class Bills(Struct, frozen=True, kw_only=True):
    """Holds the parts of one device, its node and network, and the embodied carbon of an hour of the device.

    `building_kg_per_year` is the building's share for a device and year. It is charged only if a site asks for it.
    """

    bills: tuple[Bill, ...]
    amortisation: str
    lifetime_years: Figure
    per_device_hour_g: Figure
    building_kg_per_year: Figure


def bills_of(found: Sequence[Profile], directories: Sequence[Path]) -> Bills:
    """Return the bills of the profiles of a name. Raises `SpecError` for a node that takes any accelerator."""
    cluster = _cluster(found, directories)
    factors = _factors(cluster)
    return Bills(
        bills=(
            device_bill(cluster.accelerator),
            host_bill(cluster.node, cluster.accelerator.tdp_w.value),
            network_bill(cluster.node),
        ),
        amortisation=factors.amortisation,
        lifetime_years=factors.lifetime_years,
        per_device_hour_g=per_device_hour_g(factors, cluster.node.accelerators),
        building_kg_per_year=building_kg(cluster),
    )


def print_bills(bills: Bills, console: Console | None = None) -> None:
    """Print every part with its range and source."""
    out = console or Console()
    for bill in bills.bills:
        table = Table(
            title=f"{escape(bill.name)}, {bill.unit}",
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 1),
        )
        table.add_column("part")
        for heading in ("low", "kgCO2e", "high"):
            table.add_column(heading, justify="right")
        table.add_column("source", overflow="fold")
        for part in bill.parts:
            name = f"{part.name}, {escape(part.quantity)}" if part.quantity else part.name
            table.add_row(name, *_kilograms(part.kg), escape(part.source))
        total = bill.total
        table.add_row("total", *_kilograms(total.range), escape(total.source), style="bold")
        out.print(table)
        out.print()
    hour, building, life = bills.per_device_hour_g, bills.building_kg_per_year, bills.lifetime_years
    out.print(
        f"charged by {bills.amortisation}, {life.low:g} to {life.high:g} years: {hour.value:.3g} gCO2e a device-hour "
        f"({hour.low:.3g} to {hour.high:.3g})"
    )
    out.print(
        f"building, where the site asks for it: {building.value:.3g} kgCO2e a device and year "
        f"({building.low:.3g} to {building.high:.3g}); {escape(building.source)}"
    )


def _cluster(found: Sequence[Profile], directories: Sequence[Path]) -> Cluster:
    accelerator = next((profile for profile in found if isinstance(profile, Accelerator)), None)
    node = next((profile for profile in found if not isinstance(profile, Accelerator)), None)
    if accelerator is None:
        assert node is not None  # one of the two was found
        if node.accelerator == ANY_ACCELERATOR:
            raise SpecError(f"{node.name} takes any accelerator; ask for the bill of an accelerator instead")
        accelerator = load_accelerator(node.accelerator, profile_dirs=directories)
    if node is None or node.accelerator not in (ANY_ACCELERATOR, accelerator.name):
        node = default_node_for(accelerator, profile_dirs=directories)
    return Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=node.accelerators)


def _factors(cluster: Cluster) -> Factors:
    # Embodied carbon is the same everywhere. The site only states the lifetime and the rule for the building.
    return resolve_factors(Site(zone="WORLD"), cluster)


def _kilograms(mass: Range) -> tuple[str, ...]:
    return tuple(f"{kg:,.1f}" for kg in (mass.low, mass.value, mass.high))
