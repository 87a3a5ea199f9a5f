"""Model the energy of devices that a run had reserved while nothing recorded it: before its first record and between
attempts.

The devices are taken to be idle, because a job that has not begun to train loads software and data. The live totals,
the audit and the comparison with a scheduler's account all use the power that is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from carbon_plugin.ledger.held.account_inputs import UncertaintyScope, UsedEnergy
from carbon_plugin.ledger.held.holdings import Holding
from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.hardware.fabric import fabric_factor
from carbon_plugin.spec.hardware.profiles import default_node_for, find_accelerator, match_device_name
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.range import Range

UNOBSERVED_PHASE = "unobserved"
"""The phase of energy that is modelled for reserved time without records."""


class IdlePower(Struct, frozen=True):
    """Holds the power of an idle device, W, by rung: the device itself, and its part of the host and of the network.

    `profiles` names the hardware profiles that the numbers are from. `devices_per_node` share the host.
    """

    by_rung: dict[Rung, Range]
    devices_per_node: int
    profiles: str


class IdleTime(Struct, frozen=True, kw_only=True):
    """Holds the inputs from which the energy of reserved time without records is modelled.

    `before_s` are the device-seconds of that time by profile or driver name, as `ledger.held.holdings.held` returns
    them; the empty name stands for ranks without a device. `rungs` are those that the ledgers name, and `nodes` is the
    number of nodes of the job.
    """

    before_s: dict[str, float]
    rungs: list[Rung]
    nodes: int


class UnobservedEnergy(Struct, frozen=True, kw_only=True):
    """Holds the energy and device time of reserved devices while nothing recorded them.

    `used` is the modelled energy by scope, J. `modelled_s` is the device time that it stands for, and `unknown_s` that
    of devices whose idle power no profile knows, both in device-seconds. `profiles` names the profiles, and `time` is
    what it was modelled from.
    """

    used: dict[UncertaintyScope, UsedEnergy] = {}
    modelled_s: float = 0.0
    unknown_s: float = 0.0
    profiles: tuple[str, ...] = ()
    time: IdleTime | None = None

    def with_factors(self, factors: tuple[float, float] | None) -> UnobservedEnergy:
        """Return the same energy with intensity (g/kWh) and PUE for all of it; unchanged where they are None."""
        used = {scope: one.with_factors(factors) for scope, one in self.used.items()}
        return msgspec.structs.replace(self, used=used)


@lru_cache(maxsize=64)
def idle_power(profile: str, nodes: int, device_w: float | None = None) -> IdlePower | None:
    """Return the idle power of an accelerator by the name of its profile or of its driver, in a job of so many nodes;
    None for an unknown one.

    The central value is that of a device without an open context. The high end is that with one, because nobody knows
    when the job opened it. `device_w` takes the place of the device's own power.
    """
    accelerator = find_accelerator(profile) or match_device_name(profile)
    if accelerator is None:
        return None
    node = default_node_for(accelerator)
    device = accelerator.idle_power_w.range
    if accelerator.idle_context_power_w is not None:
        device = device.widened(accelerator.idle_context_power_w.range.high)
    if device_w is not None:
        device = Range(device_w, device_w, device_w)
    by_rung: dict[Rung, Range] = {"gpu": device, "host": host_power(node, device)}
    network = node.network.power_w_per_device.range
    if network.value > 0:
        by_rung["network"] = network.scaled(fabric_factor(node, nodes))
    return IdlePower(by_rung, node.accelerators, f"{accelerator.name} in {node.name}")


def host_power(node: Node, device_w: Range) -> Range:
    """Return P_host = base / devices + overhead fraction * P_device in W, the part of the host of one device."""
    base = node.host.base_power_w.range.scaled(1 / node.accelerators)
    return base.plus(node.host.overhead_fraction.range.times(device_w))


def unobserved_scope(rung: Rung) -> UncertaintyScope:
    """Return the uncertainty scope of the energy of a rung in reserved time without records."""
    return (rung, f"{rung}:unobserved")


def unobserved_energy(holdings: Sequence[Holding], before_s: Mapping[str, float]) -> UnobservedEnergy:
    """Return the energy of the reserved time of some files that no record covers. `before_s` is as in `IdleTime`."""
    return modelled_idle(idle_time(holdings, before_s))


def look_up_idle_power(manifest: Manifest) -> None:
    """Remember the idle power of the devices that a manifest names. The first look at a device reads its profile, which
    takes longer than a turn of a background thread."""
    profiles = {device.profile or device.name: 1.0 for device in manifest.devices if device.rung == "gpu"}
    modelled_idle(IdleTime(before_s=profiles, rungs=[], nodes=manifest.nodes))


def idle_time(holdings: Sequence[Holding], before_s: Mapping[str, float]) -> IdleTime:
    """Return the inputs from which the energy of some files' reserved time without records is modelled."""
    rungs = {device.rung for one in holdings for device in one.manifest.devices}
    nodes = max((one.manifest.nodes for one in holdings), default=1)
    return IdleTime(before_s=dict(before_s), rungs=sorted(rungs), nodes=nodes)


def modelled_idle(time: IdleTime, device_w: float | None = None) -> UnobservedEnergy:
    """Return the energy of reserved time without records.

    A rung is modelled only where the ledgers of the run name one, so that a rung that was never metered stays absent.
    The energy carries no factors. Its caller gives it the means of the windows, so that it changes no mean; those
    stated for the run stand for it where no window has any. `device_w` takes the place of the power of idle devices.
    """
    rungs, nodes = time.rungs, time.nodes
    used: dict[UncertaintyScope, UsedEnergy] = {}
    modelled_s = unknown_s = 0.0
    profiles = []
    for profile, seconds in sorted(time.before_s.items()):
        if seconds <= 0:
            continue
        power = idle_power(profile, nodes, device_w) if profile else None
        if power is None:
            unknown_s += seconds
            continue
        modelled_s += seconds
        profiles.append(power.profiles)
        for rung, watts in power.by_rung.items():
            if rung in rungs:
                scope = unobserved_scope(rung)
                energy = watts.scaled(seconds)
                one = UsedEnergy(energy=energy, without_factors_j=energy.value)
                used[scope] = used[scope].plus(one) if scope in used else one
    return UnobservedEnergy(used=used, modelled_s=modelled_s, unknown_s=unknown_s, profiles=tuple(profiles), time=time)
