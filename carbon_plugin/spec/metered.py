"""Define a metered device and how its energy is known, in the words that meters, ledger and audit share."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

EnergyKind = Literal["counter", "power_integrated", "modelled", "absent"]
Rung = Literal["gpu", "host", "network", "facility"]


class Accuracy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Holds what is known about the accuracy of a meter, as facts beside the ranges that follow from them.

    `proportional` is the relative half-range (p10-p90) that its energies carry; `sampled_share` the part of the time
    that its sensor looks at (None: all of it, or unknown); `age_s` how old the value behind a reading can be. An age
    moves energy between neighbouring windows and adds none, so it is in no range. `source` says who found it.
    """

    proportional: float
    source: str
    sampled_share: float | None = None
    age_s: float | None = None


class DeviceIdentity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One device whose energy is metered. It counts once a run.

    `key` is the GPU's UUID, or "<boot_id>/<part>" for a part of a host. `rung` is the rung of the boundary that
    its energy belongs to; `scope` what its reading covers ("gpu", "module", "package", "dram", "host", "node",
    "node less GPUs", "facility"); `meter` names how it is read and `energy_kind` how good that is. `ranks` are those
    that run on it; a reserved GPU that nobody claimed has none. `profile` is the hardware profile that it was matched
    to. `accuracy` is what is known of its meter, None for what is modelled. `share` is a MIG slice's part of its GPU,
    by compute slices, None for a whole device.
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
    accuracy: Accuracy | None = None
    share: float | None = None

    @property
    def units(self) -> float:
        """Return how many whole devices this is (a MIG slice is less than 1), which its embodied carbon is multiplied
        by.
        """
        return 1.0 if self.share is None else self.share
