"""Decode a document into typed values: Structs, containers and plain values, with errors that a user can act on.

msgspec validates the leaves; the walk is ours, so that every error names place, field, value and what was expected.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from carbon_plugin.spec.parsing.boundary import LARGEST, SMALLEST, Keys, is_tiny, shown
from carbon_plugin.spec.parsing.document import Document
from carbon_plugin.spec.parsing.names import NO_ALIASES, Aliases, nearest
from carbon_plugin.spec.parsing.rates_of_links import is_counted, rate_bytes_per_s

RATE_MARK = "bytes_per_s"
"""The part of a name that every field with a rate in bytes/s has."""
SHARE_OF_ONE = "scaleout_bandwidth_bytes_per_s"
"""A field of one device for which people may count the NICs of a node instead: a count does not tell which of both is
meant.
"""
S = TypeVar("S", bound=msgspec.Struct)
AMOUNT = re.compile(r"(?P<number>[0-9][0-9_,]*(?:\.[0-9]+)?) ?(?P<unit>[a-zA-Z%/][a-zA-Z0-9%/ ]{0,20})")
MULTIPLES = {"k": 3, "m": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12, "tn": 12, "trillion": 12}
"""The powers of ten that people write as letters or words behind a number."""
LARGEST_INT = 10**15
"""The largest count that is accepted: a larger one is a mistake, and a float no longer holds it exactly."""


def decode(document: Document, kind: type[S], keys: Keys = (), other_names: Aliases = NO_ALIASES) -> S:
    """Return the value of `document` at `keys` as a Struct.

    A float without a fraction is taken as an int. `other_names` are names under which people know a field: the error
    for such a name offers the field. Raises `SpecError` (or the error type that the Struct itself raises)
    naming place, field, value and what was expected.
    """
    value = document.value
    for key in keys:
        value = value[key]
    return _Decoder(document, other_names).struct(value, kind, keys)


class _Decoder:
    """The decoder walks a type and a tree of values side by side."""

    def __init__(self, document: Document, other_names: Aliases) -> None:
        self.document = document
        self.other_names = other_names

    def value(self, value: Any, kind: Any, keys: Keys) -> Any:
        kind = _without_none(kind, value)
        if value is None and kind is not None and kind is not Any:
            raise self.document.error(keys, f"expected {describe(kind)}, got nothing")
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return value if isinstance(value, kind) else self.struct(value, kind, keys)
        container, inner = get_origin(kind), get_args(kind)
        if container is dict:
            items = self.expect(value, Mapping, kind, keys).items()
            return {key: self.value(item, inner[1], (*keys, key)) for key, item in items}
        if container in (list, tuple):
            items = enumerate(self.expect(value, (list, tuple), kind, keys))
            return container(self.value(item, inner[0], (*keys, index)) for index, item in items)
        if isinstance(value, str) and kind is float and _counts_bytes_per_s(keys):
            value = self.rate(value, keys)
        return self.leaf(value, kind, keys)

    def rate(self, text: str, keys: Keys) -> float:
        """Return the rate in bytes/s that a text states with its unit."""
        with self.document.located(keys, field=True):
            rate = rate_bytes_per_s(text)
        if SHARE_OF_ONE in keys and is_counted(text):
            raise self.document.error(keys, f"expected the share of one device, such as 400 Gb/s, got {shown(text)}")
        return rate

    def expect(self, value: Any, shape: Any, kind: Any, keys: Keys) -> Any:
        if not isinstance(value, shape):
            raise self.document.error(keys, f"expected {describe(kind)}, got {shown(value)}")
        return value

    def struct(self, value: Any, kind: type[S], keys: Keys) -> S:
        self.expect(value, Mapping, kind, keys)
        fields = _fields(kind)
        tag = kind.__struct_config__.tag_field
        for key in value:
            if key not in fields and key != tag:
                close = nearest(str(key), fields, self.other_names)
                hint = f"nearest: {', '.join(close)}" if close else f"known: {', '.join(fields)}"
                if value[key] is None and str(key).isdecimal():  # {pue: 1,35} is a field `35` without a value
                    hint = "a comma in braces begins a new field; write the number before it with a point, such as 1.35"
                raise self.document.error((*keys, key), f"unknown field; {hint}")
        for name, field in fields.items():
            if field.required and name not in value:
                raise self.document.error(keys, f"field {name} is missing, expected {describe(field.type)}")
        given = {
            fields[key].name: self.value(item, fields[key].type, (*keys, key))
            for key, item in value.items()
            if key in fields
        }
        with self.document.located(keys):
            return kind(**given)

    def leaf(self, value: Any, kind: Any, keys: Keys) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise self.document.error(keys, f"expected {describe(kind)}, got {value}")
        if isinstance(value, float) and abs(value) > LARGEST:
            raise self.document.error(keys, f"expected {describe(kind)} up to {LARGEST:g}, got {value:g}")
        if isinstance(value, float) and value.is_integer() and _takes_int(kind):
            value = int(value)
        if kind is int and isinstance(value, int) and abs(value) > LARGEST_INT:
            raise self.document.error(keys, f"expected int up to {LARGEST_INT:.0e}, got {shown(value)}")
        try:
            found = msgspec.convert(value, kind)
        except msgspec.ValidationError:
            quoted = f'; write it in quotes: "{value}"' if kind is str and _is_number(value) else ""
            bare = _without_unit(value, kind)
            raise self.document.error(keys, f"expected {describe(kind)}, got {shown(value)}{quoted}{bare}") from None
        if isinstance(found, float) and is_tiny(found):
            raise self.document.error(keys, f"expected 0 or at least {SMALLEST:g} in size, got {found:g}")
        return found


def _without_unit(value: Any, kind: Any) -> str:
    """Return how a number is written that came with a multiple or a unit ("20B", "600 W"), empty for any other value.

    The unit of a field is in its name or its documentation, so that a number stands alone.
    """
    amount = AMOUNT.fullmatch(value.strip()) if kind in (int, float) and isinstance(value, str) else None
    if amount is None:
        return ""
    number, unit = amount["number"].replace(",", "").replace("_", ""), amount["unit"]
    if (power := MULTIPLES.get(unit.lower())) is not None:
        binary = f", or {float(number) * 1024:.0f}" if unit.lower() == "k" else ""
        return f"; write {number}e{power}{binary}"
    return f"; write the number without {unit!r}, in the unit of the field (docs/spec.md)"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _counts_bytes_per_s(keys: Keys) -> bool:
    """Return whether a field, or the sourced value that it holds, is a rate in bytes/s by its name."""
    return any(RATE_MARK in str(key) for key in keys[-2:])


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _without_none(kind: Any, value: Any) -> Any:
    """Return the member of an optional type that a value is meant for."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    if value is None and len(members) < len(get_args(kind)):
        return None
    return members[0] if len(members) == 1 else kind


def _takes_int(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, int) for choice in get_args(kind))
    return kind is int


def describe(kind: Any) -> str:
    """Return what a value should be, in words for an error message."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(member) for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(str(choice) for choice in get_args(kind))}"
    plain: dict[Any, str] = {int: "int", float: "number", str: "text", bool: "true or false", Any: "a value"}
    if kind in plain:
        return plain[kind]
    return "a list" if get_origin(kind) in (list, tuple) else "a mapping"
