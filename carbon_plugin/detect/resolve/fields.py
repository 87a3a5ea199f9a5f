"""List for each field the planned, declared and detected values, which of them counts, and why."""

from __future__ import annotations

from typing import Any

import msgspec

from carbon_plugin.detect.observed import Observed
from carbon_plugin.spec.site import Site, stated_fields

DEFAULT, PLANNED = "default", "planned"


class FieldTable:
    """The table holds the fields of the effective spec by dotted name.

    A detected value takes precedence over a declared one, and a declared one over the plan. `differences` has a
    sentence for every field of which two of the three say different things.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.differences: list[str] = []

    def choose(
        self,
        name: str,
        *,
        planned: Any = None,
        declared: Any = None,
        detected: Observed | None = None,
        default: Any = None,
    ) -> Any:
        """Return the value that counts, or None if nobody knows it. None as an argument means "not given"."""
        if detected is not None:
            value, source = detected.value, f"detected: {detected.source}"
        elif declared is not None:
            value, source = declared, "declared"
        elif planned is not None:
            value, source = planned, PLANNED
        else:
            value, source = default, DEFAULT if default is not None else "unknown"
        seen = None if detected is None else detected.value
        self.rows[name] = {
            "value": _plain(value),
            "source": source,
            "planned": _plain(planned),
            "declared": _plain(declared),
            "detected": _plain(seen),
        }
        told = {"planned": planned, "declared": declared, "detected": seen}
        known = {who: what for who, what in told.items() if what is not None}
        if len({msgspec.json.encode(_plain(what)) for what in known.values()}) > 1:
            said = ", ".join(f"{who} {_short(what)}" for who, what in known.items())
            self.differences.append(f"{name}: {said}; {source.partition(':')[0]} counts")
        return value

    def is_seen(self, name: str) -> bool:
        """Return whether a live object showed the field."""
        return name in self.rows and self.rows[name]["detected"] is not None

    def note(self, name: str, value: Any, source: str, *, between: tuple[Any, Any] | None = None) -> None:
        """Record a field that follows from others, with its range where it has one."""
        self.rows[name] = {
            "value": _plain(value),
            "source": source,
            "planned": None,
            "declared": None,
            "detected": None,
        }
        if between is not None:
            self.rows[name] |= {"low": between[0], "high": between[1]}


def _plain(value: Any) -> Any:
    plain = msgspec.to_builtins(value)
    return stated_fields(plain) if isinstance(value, Site) else plain


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(_plain(value))
