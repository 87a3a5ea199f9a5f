"""Typed access to the fields of one published row: a missing or odd value is one line that names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from carbon_plugin.errors import SpecError

LARGEST = 1e15
"""No count or rate of a published row comes near; a larger number is a slip of units."""


class MissingFieldError(SpecError):
    """A field without a default is not stated."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not stated")


class Fields:
    """The fields of a row. A field that is absent, null or empty is not stated. `looked_at` are the names that were
    asked for, by these fields and by all that were made from them."""

    def __init__(self, values: Mapping[str, Any], looked_at: set[str] | None = None) -> None:
        self.looked_at: set[str] = set() if looked_at is None else looked_at
        self._values = {key: value for key, value in values.items() if value is not None and value != ""}

    def over(self, defaults: Mapping[str, Any]) -> Fields:
        """These fields with others for those that are not stated."""
        return Fields({**defaults, **self._values}, self.looked_at)

    def never_looked_at(self) -> tuple[str, ...]:
        """Stated fields that nothing asked for, in the order of the file."""
        return tuple(str(name) for name in self._values if name not in self.looked_at)

    def _has(self, name: str) -> bool:
        self.looked_at.add(name)
        return name in self._values

    def states(self, *names: str) -> bool:
        """Whether any of the fields is stated."""
        found = [self._has(name) for name in names]  # all of them are looked at
        return any(found)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer; raises `SpecError` naming field and value, or `MissingFieldError` without a default."""
        if not self._has(name) and default is not None:
            return default
        number = self.number(name)
        if not number.is_integer() or number < 1:
            raise SpecError(f"{name} is {self._values[name]!r}, expected a positive integer")
        return int(number)

    def optional_count(self, name: str) -> int | None:
        """A positive integer, None where it is not stated; 0 says that there are none and is None too."""
        return self.count(name) if self.states(name) and self._values[name] != 0 else None

    def number(self, name: str) -> float:
        """A positive number; errors as for `count`."""
        if not self._has(name):
            raise MissingFieldError(name)
        value = self._values[name]
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number < LARGEST:
            raise SpecError(f"{name} is {value!r}, expected a positive number")
        return number

    def text(self, name: str) -> str:
        """A phrase, empty where it is not stated. YAML's booleans read as yes and no."""
        value = self._values[name] if self._has(name) else ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list | dict):
            raise SpecError(f"{name} is {value!r}, expected text")
        return str(value)

    def needed_text(self, name: str) -> str:
        """A phrase that has no default."""
        if not self._has(name):
            raise MissingFieldError(name)
        return self.text(name)

    def flag(self, name: str) -> bool | None:
        """A yes or no, None where it is not stated."""
        if not self._has(name):
            return None
        word = self.text(name).lower()
        if word not in ("yes", "no", "true", "false", "1", "0"):
            raise SpecError(f"{name} is {self._values[name]!r}, expected true or false")
        return word in ("yes", "true", "1")

    def mapping(self, name: str) -> Fields:
        """A group of fields, empty where it is not stated."""
        return Fields(self.plain_mapping(name))

    def plain_mapping(self, name: str) -> Mapping[str, Any]:
        """A group of fields as it stands in the file, empty where it is not stated."""
        value = self._values[name] if self._has(name) else {}
        if not isinstance(value, Mapping):
            raise SpecError(f"{name} is {value!r}, expected a mapping")
        return value
