"""Define what a device can physically draw, and decide with it whether a power or an energy is possible."""

from __future__ import annotations

from math import isfinite

from msgspec import Struct
from msgspec.structs import replace

LAG_S = 1.0
"""A reading may hold energy drawn up to this long before its stretch began: counters step, and sensors average."""

SPIKE = 1.5
"""The factor by which a power reading may exceed the mean that a device can sustain (our convention)."""

ANY_GPU_W = 3000.0
"""The power in W that no accelerator exceeds, for one whose limit is not known (our convention)."""


class Bounds(Struct, frozen=True, kw_only=True):
    """One instance holds what a device can draw.

    `ceiling_w` is the most that its mean power over a stretch can be; `idle_w` and `limit_w` are the low and the high
    end of what it draws in use, between which an estimate lies (`limit_w` None: not known). `source` says in a few
    words where they are from. `lag_s` is how old the value of a counter can be. `always_draws` is for a device that
    always draws power while it answers: a power of 0 W or a counter that stands still is then a fault of it.
    """

    ceiling_w: float
    limit_w: float | None
    source: str
    idle_w: float = 0.0
    lag_s: float = LAG_S
    always_draws: bool = False

    @property
    def most(self) -> str:
        """Return the ceiling in words, with its source."""
        return f"at most {self.ceiling_w:.0f} W ({self.source})"

    def scaled(self, share: float) -> Bounds:
        """Return the bounds of a part of the device, which has `share` of it."""
        return replace(
            self,
            ceiling_w=self.ceiling_w * share,
            limit_w=None if self.limit_w is None else self.limit_w * share,
            idle_w=self.idle_w * share,
            source=f"{share:.3f} of {self.source}",
        )


def possible_power(power_w: float, bounds: Bounds) -> bool:
    """Return whether a device can have drawn this power at a moment."""
    drawn = power_w > 0 if bounds.always_draws else power_w >= 0
    return isfinite(power_w) and drawn and power_w <= bounds.ceiling_w * SPIKE


def possible_energy(energy_j: float, elapsed_s: float, bounds: Bounds) -> bool:
    """Return whether a device can have drawn this energy in a stretch of `elapsed_s` seconds."""
    return isfinite(energy_j) and 0 <= energy_j <= bounds.ceiling_w * (max(0.0, elapsed_s) + bounds.lag_s)
