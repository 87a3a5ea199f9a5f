"""Define numbers that carry their range, their kind and their source.

`Figure` is a number at an edge (a table, a report, a JSON document): a central value, a p10-p90 range, a
unit and a source. `Sourced` is a number in a hardware profile, whose unit is in its field name. Neither is for
arithmetic: `Range` has that of single numbers, and `footprint.propagation` samples sums and products of many.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.range import Range

Kind = Literal["measured", "modelled", "assumed", "declared"]
Confidence = Literal["measured", "read", "read2", "memory", "derived", "fitted", "assumed"]
CONFIDENCE_MEANS: dict[Confidence, str] = {
    "measured": "on a device, by us or by you",
    "read": "in a primary text",
    "read2": "in a text that quotes the primary one",
    "memory": "remembered and not checked",
    "derived": "by arithmetic on numbers that were read",
    "fitted": "by calibration on measured rows",
    "assumed": "by convention",
}
"""How a value of a profile is known, for a reader."""


class Figure(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds a number with its range and provenance.

    `low` and `high` are the 10th and 90th percentile. `kind` says whether the number was measured, follows
    from a model, was assumed, or was declared by the user. `source` is one readable phrase.
    """

    value: float
    low: float
    high: float
    unit: str
    kind: Kind
    source: str

    @classmethod
    def of(cls, numbers: Range, unit: str, kind: Kind, source: str) -> Figure:
        """Return a range as a figure with unit, kind and source."""
        return cls(numbers.value, numbers.low, numbers.high, unit, kind, source)

    @property
    def range(self) -> Range:
        """Return the number with its range, without unit, kind and source."""
        return Range(self.value, self.low, self.high)

    def scaled(self, factor: float, unit: str | None = None) -> Figure:
        """Return the same figure times a positive constant, for unit conversion at an edge."""
        return Figure(
            self.value * factor, self.low * factor, self.high * factor, unit or self.unit, self.kind, self.source
        )


class Sourced(Struct, frozen=True, forbid_unknown_fields=True):
    """One instance holds a value of a profile with its source; the unit is in the name of the field that holds it.

    `source` is a key of the profile's `sources`. `CONFIDENCE_MEANS` says what each `confidence` stands for.
    """

    value: float
    source: str
    confidence: Confidence
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        low, high = self.value if self.low is None else self.low, self.value if self.high is None else self.high
        if not low <= self.value <= high:
            raise SpecError(f"low {low:g}, value {self.value:g}, high {high:g}: expected low <= value <= high")

    @property
    def range(self) -> Range:
        """Return the number with its range, which is the value itself where none is stated."""
        return Range.of(self.value, self.low, self.high)

    def figure(self, unit: str) -> Figure:
        """Return this value as a `Figure`. Without a range of its own the range is the value itself."""
        kind: Kind = "measured" if self.confidence == "measured" else "assumed"
        if self.confidence == "fitted":
            kind = "modelled"
        return Figure.of(self.range, unit, kind, f"{self.source} ({self.confidence})")


class Assumption(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds a value that was used because nobody stated one: the field, the value, and the reason."""

    field: str
    value: str
    source: str
