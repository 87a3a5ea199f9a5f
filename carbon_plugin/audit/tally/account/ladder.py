"""Build the boundary ladder of an audited run: the content of each rung, and whether it was measured, modelled or is
absent.

`footprint.boundary` sums over rungs. Here every rung stands for itself, including rungs of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from carbon_plugin.audit.findings.energy import BoundaryRung, Energy
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.metered import DeviceIdentity, Rung

_CONTAINS: dict[Rung, str] = {
    "gpu": "accelerators with their memory",
    "host": "CPU, memory, disks, fans, supplies of the nodes",
    "network": "switches and optics between the nodes",
}


def boundary_ladder(
    by_rung: Mapping[Rung, Energy], devices: Iterable[DeviceIdentity], factors: Factors | None
) -> list[BoundaryRung]:
    """Return every rung from the accelerators to the facility. The energy of the facility contains all others; apart
    from that no energy is in two rungs.
    """
    meters: dict[Rung, dict[str, None]] = {}
    for device in devices:
        meters.setdefault(device.rung, {})[device.meter] = None
    rungs = [_rung(rung, contains, by_rung.get(rung), meters.get(rung, ())) for rung, contains in _CONTAINS.items()]
    storage = "shared storage is in no profile and no meter"
    rungs.append(BoundaryRung(rung="storage", contains="shared storage", coverage="absent", energy_j=None, how=storage))
    return [*rungs, _facility(by_rung, meters.get("facility", ()), factors)]


def _rung(rung: Rung, contains: str, energy: Energy | None, meters: Iterable[str]) -> BoundaryRung:
    return BoundaryRung(
        rung=rung,
        contains=contains,
        coverage="absent" if energy is None else energy.meters.quality,
        energy_j=None if energy is None else energy.energy_j,
        how=", ".join(meters) or "no meter and no model",
    )


def _facility(by_rung: Mapping[Rung, Energy], meters: Iterable[str], factors: Factors | None) -> BoundaryRung:
    """Return the facility as it was metered, or else as the energy of the machines times PUE."""
    contains = "all of it, with cooling and power distribution"
    if "facility" in by_rung:
        return _rung("facility", contains, by_rung["facility"], meters)
    if factors is None:
        how = "no meter and no PUE"
        return BoundaryRung(rung="facility", contains=contains, coverage="absent", energy_j=None, how=how)
    machines_j = sum(energy.energy_j for energy in by_rung.values())
    return BoundaryRung(
        rung="facility",
        contains=contains,
        coverage="modelled",
        energy_j=machines_j * factors.pue.value,
        how=f"machines x PUE {factors.pue.value:g}",
    )
