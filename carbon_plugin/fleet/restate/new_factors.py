"""Find the factors that a restatement applies to recorded runs: those of this release, or those of a file.

A factor that cannot be applied again is named with its reason, so that nobody takes an unchanged total for a checked
one.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.errors import FleetError, FootprintError
from carbon_plugin.footprint.embodied.devices import building_kg, embodied_factors, fleet_utilisation, lifetime
from carbon_plugin.footprint.factors.pue import resolve_pue
from carbon_plugin.footprint.intensity import average_intensity
from carbon_plugin.footprint.values import Factors, Intensity
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, find_accelerator
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.parsing.document import read_document
from carbon_plugin.spec.site import LEAST_YEARS, MOST_G_PER_KWH, MOST_PUE, MOST_YEARS, Site

CURRENT = "current"
"""Asks for the factors that this release ships."""
STATED = "stated by the user"
REFUSED = {
    "gwp": (
        "global warming potentials alone: ledgers hold CO2e and not single gases, so that they change with an intensity"
        "; state that of each region by the new potentials (regions: {ZONE: {g_per_kwh: ..., source: ...}})"
    ),
    "marginal_g_per_kwh": (
        "marginal intensity: it says what another decision would change and is in no total; "
        "carbon-plugin whatif compares hours and places by it"
    ),
}
"""What no store can apply again, by the name that a file might give it, with the reason and the next step."""
MOST_KG = 1e6
MOST_IDLE_W = 1e4


class RegionFactors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New factors of a region: intensity and residual mix in g/kWh, and PUE. A factor that stays as it is is None."""

    g_per_kwh: float | None = None
    pue: float | None = None
    residual_g_per_kwh: float | None = None
    source: str = STATED


class HardwareFactors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New factors of an accelerator: the embodied kgCO2e of one device, of its whole host and of its share of the
    network, and the power of an idle device in W. A factor that stays as it is is None.
    """

    device_kg: float | None = None
    host_kg: float | None = None
    network_kg: float | None = None
    idle_w: float | None = None
    source: str = STATED


class FactorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of new factors. The lifetime, in years, and the share of it in which the fleet is in use apply to all
    runs.
    """

    regions: dict[str, RegionFactors] = {}
    hardware: dict[str, HardwareFactors] = {}
    lifetime_years: float | None = None
    fleet_utilisation: float | None = None
    source: str = STATED


class NewFactors(Struct, frozen=True, kw_only=True):
    """The factors of a run after the change. `idle_w` is the power of an idle device, or None where its profile gives
    it.

    With `stated` they come from a file, and each keeps the relative range of the old factor. `kept` names the factors
    that stay as they were recorded, each with the reason.
    """

    factors: Factors
    idle_w: float | None
    stated: bool
    kept: tuple[str, ...]


def read_factors(path: Path, regions: Collection[str], hardware: Collection[str]) -> FactorFile:
    """Return the new factors of a YAML file. `regions` and `hardware` are those of the store.

    Raises `FleetError` for a file of another shape, a region or hardware that no run has, and an impossible value.
    """
    document = read_document(path).value
    _refuse(path, document)
    try:
        found = msgspec.convert(document, type=FactorFile, strict=False)
    except msgspec.ValidationError as error:
        raise FleetError(
            f"{path}: expected regions (each with g_per_kwh, pue, residual_g_per_kwh, source), hardware (each with "
            f"device_kg, host_kg, network_kg, idle_w, source), lifetime_years or fleet_utilisation: {error}"
        ) from None
    for what, named, known in (("in", found.regions, regions), ("on", found.hardware, hardware)):
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise FleetError(f"{path}: no run is {what} {', '.join(unknown)}; the store has {', '.join(sorted(known))}")
    for region, one in found.regions.items():
        _check(path, f"{region}.g_per_kwh", one.g_per_kwh, 0.0, MOST_G_PER_KWH)
        _check(path, f"{region}.residual_g_per_kwh", one.residual_g_per_kwh, 0.0, MOST_G_PER_KWH)
        _check(path, f"{region}.pue", one.pue, 1.0, MOST_PUE)
    for name, device in found.hardware.items():
        for field in ("device_kg", "host_kg", "network_kg"):
            _check(path, f"{name}.{field}", getattr(device, field), 0.0, MOST_KG)
        _check(path, f"{name}.idle_w", device.idle_w, 0.0, MOST_IDLE_W)
    _check(path, "lifetime_years", found.lifetime_years, LEAST_YEARS, MOST_YEARS)
    _check(path, "fleet_utilisation", found.fleet_utilisation, 0.01, 1.0)
    return found


def _refuse(path: Path, document: Any) -> None:
    """Raise `FleetError` with the next step for a factor that cannot be applied again in any store."""
    if not isinstance(document, dict):
        return
    regions = document.get("regions")
    parts = [document, *(regions.values() if isinstance(regions, dict) else ())]
    for name, words in REFUSED.items():
        if any(isinstance(part, dict) and name in part for part in parts):
            raise FleetError(f"{path}: {name} cannot be applied: {words}")


def _check(path: Path, field: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise FleetError(f"{path}: {field} is {value:g}, expected {least:g} to {most:g}")


def stated_factors(old: Factors, hardware: str, file: FactorFile) -> NewFactors:
    """Return the factors of a run, with those that a file states in place of the old ones."""
    region = file.regions.get(old.intensity.zone, RegionFactors())
    device = file.hardware.get(hardware, HardwareFactors())
    intensity = old.intensity
    if region.g_per_kwh is not None:
        intensity = replace(intensity, figure=_moved(intensity.figure, region.g_per_kwh, region.source), parts=())
    embodied = dict(old.embodied_kg)
    for scope, kilograms in (("device", device.device_kg), ("host", device.host_kg), ("network", device.network_kg)):
        if kilograms is not None and scope in embodied:
            embodied[scope] = _moved(embodied[scope], kilograms, device.source)
    residual, kept = old.residual, []
    if region.residual_g_per_kwh is not None:
        rate = region.residual_g_per_kwh
        residual = Figure(rate, rate, rate, intensity.figure.unit, "declared", region.source)
    used = old.fleet_utilisation
    if file.fleet_utilisation is not None and used is None:
        kept.append("fleet utilisation: the run charges reserved time over the whole calendar life")
    elif file.fleet_utilisation is not None and used is not None:
        used = _moved(used, file.fleet_utilisation, file.source)
    life = old.lifetime_years
    if file.lifetime_years is not None:
        life = _moved(life, file.lifetime_years, file.source)
    pue = old.pue if region.pue is None else _moved(old.pue, region.pue, region.source)
    factors = replace(
        old,
        intensity=intensity,
        pue=pue,
        lifetime_years=life,
        embodied_kg=embodied,
        fleet_utilisation=used,
        residual=residual,
    )
    return NewFactors(factors=factors, idle_w=device.idle_w, stated=True, kept=tuple(kept))


def _moved(figure: Figure, value: float, source: str) -> Figure:
    """Return a figure with another value and the same relative range."""
    ratio = value / figure.value if figure.value else 1.0
    low, high = min(value, figure.low * ratio), max(value, figure.high * ratio)
    return Figure(value, low, high, figure.unit, "declared", source)


def shipped_factors(old: Factors, hardware: str, *, static: bool) -> NewFactors:
    """Return the factors of this release for a run that recorded `old`. Factors that the user stated stay.

    `static` says that the intensity of a table was in force over the whole run.
    """
    kept: list[str] = []
    zone = old.intensity.asked or old.intensity.zone
    accelerator = find_accelerator(hardware)
    cluster = None
    if accelerator is not None:
        node = default_node_for(accelerator)
        cluster = Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=node.accelerators)
    pue = old.pue
    if pue.kind == "declared":
        kept.append("PUE: it is the user's")
    elif _is_known(zone):
        pue = resolve_pue(Site(zone=zone), accelerator)
    life = old.lifetime_years
    if life.kind == "declared":
        kept.append("lifetime: it is the user's")
    else:
        life = lifetime(Site(zone="FRA"))  # the shipped lifetime is the same everywhere
    used = old.fleet_utilisation
    if used is not None and used.kind != "declared":
        used = fleet_utilisation(Site(zone="FRA", amortisation="active_share"))
    if old.instruments or old.residual is not None:
        kept.append("contracts and residual mix: they are the user's")
    building = old.building_kg
    if building is not None and cluster is not None:
        building = building_kg(cluster)
    factors = replace(
        old,
        intensity=_shipped_intensity(old.intensity, zone, static, kept),
        pue=pue,
        lifetime_years=life,
        embodied_kg=_shipped_embodied(old, cluster, hardware, kept),
        fleet_utilisation=used,
        building_kg=building,
    )
    return NewFactors(factors=factors, idle_w=None, stated=False, kept=tuple(kept))


def _is_known(zone: str) -> bool:
    try:
        average_intensity(Site(zone=zone))
    except (FootprintError, ValueError):
        return False
    return True


def _shipped_intensity(old: Intensity, zone: str, static: bool, kept: list[str]) -> Intensity:
    if old.figure.kind == "declared":
        kept.append(f"intensity of {old.zone}: it is the user's")
    elif not static or old.granularity != "annual":
        kept.append(f"intensity of {old.zone}: a live service or a series was in force, and no table holds it")
    elif not _is_known(zone):
        kept.append(f"intensity of {old.zone}: no zone of that name is shipped")
    else:
        return average_intensity(Site(zone=zone))
    return old


def _shipped_embodied(old: Factors, cluster: Cluster | None, hardware: str, kept: list[str]) -> dict[str, Figure]:
    """Return the embodied factors of this release, where the device and node that the run recorded have any."""
    if cluster is None:
        if old.embodied_kg:
            kept.append(f"embodied carbon of {hardware}: no profile of that name is shipped")
        return old.embodied_kg
    shipped = embodied_factors(cluster)
    found = {}
    for scope, figure in old.embodied_kg.items():
        part, _, _ = figure.source.partition(": ")
        now = shipped.get(scope)
        if now is not None and now.source.partition(": ")[0] == part:
            found[scope] = now
        else:
            found[scope] = figure
            kept.append(f"embodied carbon of {part or scope}: the shipped profiles pair {hardware} with another one")
    return found
