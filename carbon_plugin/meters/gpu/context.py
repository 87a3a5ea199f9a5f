"""Record what limited a GPU while it was measured (power limit, clock and throttle reasons), to explain the numbers.

It is recorded only when it changes: at the first look, with another power limit, and for a reason that was not seen
before. A ledger therefore holds a handful of these records a GPU, however long the run is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from carbon_plugin.threads.turns import give_way

_REASONS: dict[int, str] = {
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "temperature (software)",
    0x040: "temperature (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability voltage",
}
"""The bits of the NVML clock event reasons. Bit 0 means that the GPU is idle, which holds nothing back."""


class GpuContext(Struct, frozen=True, kw_only=True):
    """One instance holds the state of a GPU at one moment. A field is None where the driver does not tell it.

    `held_back_by` are words for what lowers its clocks.
    """

    power_limit_w: float | None
    default_power_limit_w: float | None
    sm_clock_mhz: int | None
    held_back_by: tuple[str, ...]
    temperature_c: float | None = None


class ContextChange(Struct, frozen=True):
    """One instance holds a change of a GPU's state for the ledger: a sentence, and the same as data."""

    message: str
    data: dict[str, Any]


def reasons_of(bits: int) -> tuple[str, ...]:
    """Return the names of the clock event reasons in a mask."""
    return tuple(name for bit, name in _REASONS.items() if bits & bit)


class ContextWatch:
    """One instance remembers the states of each GPU that were reported."""

    def __init__(self) -> None:
        self._limits: dict[str, float | None] = {}
        self._reasons: dict[str, set[str]] = {}

    def news(self, contexts: Mapping[str, GpuContext]) -> list[ContextChange]:
        """Return the changes that are not recorded yet. The contexts are given by device key."""
        found = []
        for key, context in contexts.items():
            give_way()
            if self._is_news(key, context):
                found.append(_change(key, context))
        return found

    def _is_news(self, key: str, context: GpuContext) -> bool:
        seen = self._reasons.setdefault(key, set())
        same_limit = key in self._limits and self._limits[key] == context.power_limit_w
        if same_limit and seen.issuperset(context.held_back_by):
            return False
        self._limits[key] = context.power_limit_w
        seen.update(context.held_back_by)
        return True


def _change(key: str, context: GpuContext) -> ContextChange:
    parts = []
    if context.power_limit_w is not None:
        default_w = context.default_power_limit_w
        lowered = default_w is not None and context.power_limit_w < default_w
        parts.append(f"power limit {context.power_limit_w:.0f} W" + (f" of {default_w:.0f} W" if lowered else ""))
    if context.sm_clock_mhz is not None:
        parts.append(f"SM clock {context.sm_clock_mhz} MHz")
    parts.append(f"held back by {', '.join(context.held_back_by)}" if context.held_back_by else "not held back")
    data = {
        "key": key,
        "power_limit_w": context.power_limit_w,
        "default_power_limit_w": context.default_power_limit_w,
        "sm_clock_mhz": context.sm_clock_mhz,
        "held_back_by": list(context.held_back_by),
    }
    return ContextChange(f"{key}: {', '.join(parts)}", data)
