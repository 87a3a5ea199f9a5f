"""A metered device and how its energy is known: the words that meters, ledger and audit share."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

EnergyKind = Literal["counter", "power_integrated", "modelled", "absent"]
Rung = Literal["gpu", "host", "network", "facility"]


class DeviceIdentity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing whose energy is metered, counted once a run.

    `key` is the GPU's UUID, or "<boot_id>/<part>" for a part of a host. `rung` is the rung of the boundary that
    its energy belongs to; `scope` what its reading covers ("gpu", "module", "package", "dram", "host");
    `meter` names how it is read and `energy_kind` how good that is. `ranks` are the ranks that run on it; a
    reserved GPU that nobody claimed has none. `profile` is the hardware profile that it was matched to.
    """

    key: str
    name: str
    rung: Rung
    scope: str
    meter: str
    energy_kind: EnergyKind
    ranks: list[int] = []
    profile: str | None = None
    note: str | None = None
