"""Provide typed access to the fields of one published row. A missing or odd value raises one line that names
the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from carbon_plugin.errors import SpecError

LARGEST = 1e15
"""No count or rate of a published row comes near this number. A larger one is a mistake in the unit."""


class MissingFieldError(SpecError):
    """Raised where a field without a default is not stated."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not stated")


class Fields:
    """Holds the fields of a row. A field that is absent, null or empty is not stated.

    `looked_at` are the names that were asked for, by these fields and by all that were made from them.
    """

    def __init__(self, values: Mapping[str, Any], looked_at: set[str] | None = None) -> None:
        self.looked_at: set[str] = set() if looked_at is None else looked_at
        self._values = {key: value for key, value in values.items() if value is not None and value != ""}

    def over(self, defaults: Mapping[str, Any]) -> Fields:
        """Return these fields, with the fields of `defaults` in place of those that are not stated."""
        return Fields({**defaults, **self._values}, self.looked_at)

    def names(self) -> tuple[str, ...]:
        """Return the names of the stated fields, in the order of the file."""
        return tuple(map(str, self._values))

    def never_looked_at(self) -> tuple[str, ...]:
        """Return the stated fields that nothing asked for, in the order of the file."""
        return tuple(str(name) for name in self._values if name not in self.looked_at)

    def _has(self, name: str) -> bool:
        self.looked_at.add(name)
        return name in self._values

    def states(self, *names: str) -> bool:
        """Return whether any of the fields is stated."""
        found = [self._has(name) for name in names]  # all of them are looked at
        return any(found)

    def count(self, name: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises `SpecError` naming field and value, and `MissingFieldError` where it is not stated and has no default.
        """
        if not self._has(name) and default is not None:
            return default
        number = self.number(name)
        if not number.is_integer() or number < 1:
            raise SpecError(f"{name} is {self._values[name]!r}, expected a positive integer")
        return int(number)

    def optional_count(self, name: str) -> int | None:
        """Return a positive integer, or None where it is not stated.

        A stated 0 says that there are none, and gives None too.
        """
        return self.count(name) if self.states(name) and self._values[name] != 0 else None

    def number_or_zero(self, name: str, default: float) -> float:
        """Return a positive number, 0 where that is what is stated, or the default where nothing is.

        Raises `SpecError` naming field and value.
        """
        if not self._has(name):
            return default
        return 0.0 if self._values[name] == 0 and self._values[name] is not False else self.number(name)

    def number(self, name: str) -> float:
        """Return a positive number. Raises the same errors as `count`."""
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
        """Return a phrase, empty where it is not stated. YAML's booleans read as yes and no.

        Raises `SpecError` for a list or a mapping.
        """
        value = self._values[name] if self._has(name) else ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list | dict):
            raise SpecError(f"{name} is {value!r}, expected text")
        return str(value)

    def needed_text(self, name: str) -> str:
        """Return a phrase that has no default. Raises `MissingFieldError` where it is not stated."""
        if not self._has(name):
            raise MissingFieldError(name)
        return self.text(name)

    def flag(self, name: str) -> bool | None:
        """Return a yes or no, or None where it is not stated. Raises `SpecError` for another word."""
        if not self._has(name):
            return None
        word = self.text(name).lower()
        if word not in ("yes", "no", "true", "false", "1", "0"):
            raise SpecError(f"{name} is {self._values[name]!r}, expected true or false")
        return word in ("yes", "true", "1")

    def mapping(self, name: str) -> Fields:
        """Return a group of fields, empty where it is not stated. Raises `SpecError` where it is not a mapping."""
        return Fields(self.plain_mapping(name))

    def plain_mapping(self, name: str) -> Mapping[str, Any]:
        """Return a group of fields as the file has it, empty where it is not stated.

        Raises `SpecError` where it is not a mapping.
        """
        value = self._values[name] if self._has(name) else {}
        if not isinstance(value, Mapping):
            raise SpecError(f"{name} is {value!r}, expected a mapping")
        return value
