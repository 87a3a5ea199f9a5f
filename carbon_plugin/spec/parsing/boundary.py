"""Read files that somebody else has written, as text, JSON and plain values, or raise one sentence that names the
place.

Every reader of such a file uses this module, so that no byte, type, depth or number in it ends in a traceback or in an
impossible figure. The reader decides what a value means; `spec.parsing.document` reads YAML with its line numbers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.spec.parsing.opening import open_ending

LARGEST = 1e30
"""A number beyond any quantity of a run in any unit: all training so far took about 1e27 FLOPs."""
SMALLEST = 1e-30
"""A positive number below any quantity of a run in any unit. Products of smaller ones come out as 0, by which nothing
can be divided.
"""
DEEPEST = 100
"""The most levels of nesting that a document may have: neither a person nor a tool of ours has written more."""

LARGEST_BYTES = 2**29
"""The most bytes of a file that is read whole. What is longer, such as the output of `yes`, may have no end."""

EARLIEST_UNIX_S = 946_684_800.0
LATEST_UNIX_S = 4_102_444_800.0
"""The earliest and latest moment that a record can name: the years 2000 to 2099."""

UNREADABLE = (csv.Error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError, MemoryError)
"""The errors that parsers raise for bytes that they cannot take; `UnicodeDecodeError` is a `ValueError`."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_INNERMOST = re.compile(rb"\[\]|\{\}")
_OTHER_THAN_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SHOWN = 60

Error = type[CarbonPluginError]
Keys = tuple[str | int, ...]
"""The keys and list positions that lead from the root of a document to a value."""
T = TypeVar("T")


def dotted(keys: Keys) -> str:
    """Return keys as one dotted text: `layout.tp` for ("layout", "tp"), `dies[0].count` for ("dies", 0, "count")."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def read_bytes(path: Path, error: Error) -> bytes:
    """Return all bytes of a file or of a pipe. Raises `error` with the path and the reason where it cannot be read, or
    where it is larger than `LARGEST_BYTES`.
    """
    try:
        with open_ending(path, pipes=True) as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as trouble:  # a path may hold a NUL character
        raise error(f"{path}: cannot be read: {reason_of(trouble)}") from None
    if len(content) > LARGEST_BYTES:
        raise error(f"{path}: cannot be read: it is larger than {LARGEST_BYTES // 2**20} MiB")
    return content


def read_text(path: Path, error: Error) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises `error` as `read_bytes` does, and where a byte is not UTF-8, naming the first such byte.
    """
    return as_text(read_bytes(path, error), path, error)


def as_text(content: bytes, path: Path, error: Error) -> str:
    """Return the text of the content of a file as `read_text` does."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as trouble:
        raise error(f"{path}: cannot be read: {reason_of(trouble)}") from None


def reason_of(trouble: BaseException) -> str:
    """Return why something could not be read, in one line without path, error number or the bytes in question."""
    if isinstance(trouble, UnicodeDecodeError):
        return f"not UTF-8 ({trouble.reason} at byte {trouble.start})"
    if isinstance(trouble, OSError) and trouble.strerror:
        return str(trouble.strerror)
    if isinstance(trouble, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(trouble).split()) or type(trouble).__name__


@contextmanager
def in_one_sentence(origin: object, what: str, error: Error) -> Iterator[None]:
    """Turn whatever a parser raises inside into one line: `origin`, what was expected there, and the reason."""
    try:
        yield
    except CarbonPluginError:
        raise
    except UNREADABLE as trouble:
        raise error(f"{origin}: {what}: {reason_of(trouble)}") from None


def too_deep(data: bytes) -> bool:
    """Return whether JSON is nested deeper than `DEEPEST`, found without the recursion that a parser would need."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return False
    brackets = _STRING.sub(b"", data).translate(None, _OTHER_THAN_BRACKETS)
    for _ in range(DEEPEST):
        without_innermost = _INNERMOST.sub(b"", brackets)
        if len(without_innermost) == len(brackets):  # the parser reports brackets that do not close
            return brackets.count(b"[") + brackets.count(b"{") > DEEPEST
        brackets = without_innermost
    return bool(brackets)


@overload
def parse_json(data: bytes, origin: object, what: str, error: Error) -> Any: ...


@overload
def parse_json(data: bytes, origin: object, what: str, error: Error, kind: type[T]) -> T: ...


def parse_json(data: bytes, origin: object, what: str, error: Error, kind: Any = Any) -> Any:
    """Return JSON as a value of type `kind` and check all its numbers; without `kind` they are not checked.

    Raises `error` with the text "origin: what: reason" where the bytes are not such JSON.
    """
    if too_deep(data):
        raise error(f"{origin}: {what}: it is nested deeper than {DEEPEST} levels")
    with in_one_sentence(origin, what, error):
        found = msgspec.json.decode(data, type=kind)
    if kind is not Any:
        check_numbers(found, origin, error)
    return found


def check_numbers(value: Any, origin: object, error: Error) -> None:
    """Raise `error` naming the first number in a value that is not finite or is larger than `LARGEST`."""
    todo: list[tuple[Keys, Any]] = [((), msgspec.to_builtins(value))]
    while todo:
        keys, one = todo.pop()
        if isinstance(one, dict):
            todo += [((*keys, str(key)), inner) for key, inner in one.items()]
        elif isinstance(one, list | tuple):
            todo += [((*keys, index), inner) for index, inner in enumerate(one)]
        elif isinstance(one, int | float) and not abs(one) <= LARGEST:
            raise error(f"{origin}: {dotted(keys)} is {shown(one)}, expected a number up to {LARGEST:g}")


@dataclass(frozen=True, slots=True)
class Place:
    """One place holds a value in a document of plain data, with the file and path that errors name, such as
    `items[3].kind`.

    Where the document has nothing, the place holds None. Each method says what it expects and raises `error` for
    anything else.
    """

    value: Any
    origin: str
    error: Error
    keys: Keys = ()

    def field(self, *names: str) -> Place:
        """Return the place of a field of a mapping; several names lead through mappings inside it."""
        found = self
        for name in names:
            fields = found.mapping()
            found = Place(fields.get(name), found.origin, found.error, (*found.keys, name))
        return found

    def mapping(self) -> dict[str, Any]:
        """Return the mapping at this place, empty where there is nothing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.wrong("a mapping")
        return self.value

    def items(self) -> list[Place]:
        """Return the places of the items of a list, none where there is nothing."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Place(item, self.origin, self.error, (*self.keys, n)) for n, item in enumerate(self.value)]

    def text(self) -> str | None:
        """Return the text at this place, or None where there is nothing or an empty text."""
        if self.value is None or isinstance(self.value, str):
            return self.value or None
        raise self.wrong("text")

    def count(self, most: int) -> int:
        """Return a whole number from 0 to `most`, which may also be written as text; 0 where there is nothing."""
        if self.value is None:
            return 0
        number = whole_number(self.value) if isinstance(self.value, str) else self.value
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
            raise self.wrong(f"a whole number up to {most:,}")
        return number

    def moment_s(self) -> float | None:
        """Return the Unix seconds of an ISO 8601 moment, or None where there is nothing. Without an offset it is taken
        as UTC.
        """
        text = self.text()
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
            unix_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise self.wrong("a moment such as 2026-01-01T00:00:00Z") from None
        if not EARLIEST_UNIX_S <= unix_s <= LATEST_UNIX_S:
            raise self.wrong("a moment in the years 2000 to 2099")
        return unix_s

    def wrong(self, expected: str) -> CarbonPluginError:
        """Return the error that says what was expected in place of this value."""
        where = f"{self.origin}: {dotted(self.keys)}" if self.keys else self.origin
        return self.error(f"{where} is {shown(self.value)}, expected {expected}")


def shown(value: Any) -> str:
    """Return a value as an error shows it: short and in one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write an integer of several thousand digits
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def whole_number(text: str) -> int | None:
    """Return the number that at most 18 ASCII digits write, or None for anything else, such as "²" or a sign."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def finite_number(text: object) -> float | None:
    """Return the number that a text or a number states, or None where it is not finite, is above `LARGEST`, is below
    `SMALLEST` and not 0, or is no number.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST and not is_tiny(number) else None


def is_tiny(number: float) -> bool:
    """Return whether a number is not 0 and nearer to it than any quantity of a run is."""
    return 0 < abs(number) < SMALLEST
