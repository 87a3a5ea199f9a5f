"""Documents as nobody would write them, by seed: damaged bytes, and values of any other type or size in any place."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from carbon_plugin.errors import CarbonPluginError

LARGEST = 1e30
"""Beyond any figure of a run in any of its units: FLOPs of all training so far are about 1e27."""

WORDS = (
    "", " ", "²", "nan", "NaN", "inf", "-inf", "-1", "0", "1e308", "-1e308", "1e400", "9" * 400, "9" * 5000, "0x10",
    "99999999999999999999", "1" + "0" * 20, "true", "null", "[]", "{}", '""', '"8"', "'", '"', "|", ",", ":", "\x00",
    "\x07", "\x1b[2J", "\u2028", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2026-13-45", "NO", "~", "!!x",
    "x" * 140_000, "é", "٣", "\ufeff", "1_000", "1,5", "-0.0", "1e-320",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 10**15, 10**18, 10**19, 10**40, 10**400, -(10**20), 0.5, -0.0, 1e-320, 1e20, 1e100,
    1e308, -1e308, "", "8", "²", "nan", "\x07\x00", "x" * 300, "9999-12-31T23:59:59Z", "2026-01-01", [], {}, [None],
    [[]], {"": ""}, {"value": -1}, [1, "a", None], "not a\nline",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return the text with one to three changes of bytes, lines or words."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice((_bytes, _bytes, _lines, _words, _words, _words))(content, rng)
    return content


def _bytes(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.randrange(1, 40)
    junk = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 6)))
    some = rng.choice((b"\xff", b"\xff\xfe", b"\x00", b"\xc3\x28", b"\x07", b"\r", b"\x85", b"\xed\xa0\x80", junk))
    return rng.choice(
        (
            content[:at] + some + content[at:],
            content[:at] + some + content[at + len(some) :],
            content[:at] + content[at + length :],
            content[: at + length] + content[at:],
            content[:at],
        )
    )


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return b"\n".join(lines)


def _words(content: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"[A-Za-z0-9_.+-]+", content))
    if not found:
        return content
    word = rng.choice(found)
    return content[: word.start()] + rng.choice(WORDS).encode() + content[word.end() :]


def misshapen(document: Any, rng: random.Random) -> Any:
    """Return a copy of plain data in which one to three values have another type or size, are gone, or are nested
    deeply.
    """
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return document
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0 and isinstance(holder, dict | list):
            del holder[key]
        elif kind == 1:
            depth = rng.choice((3, 90, 150, 2000))
            nested: Any = holder[key]
            for _ in range(depth):
                nested = [nested] if rng.random() < 0.5 else {"a": nested}
            holder[key] = nested
            if depth > 100:
                return document
        elif kind == 2:
            other, name = rng.choice(places)
            with suppress(KeyError, IndexError):
                holder[key] = json.loads(_json(other[name]))
        elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            with suppress(OverflowError):
                holder[key] = holder[key] * rng.choice((-1, 1e3, 1e9, 1e-9, 1e30))
        elif kind == 4 and isinstance(holder, dict):
            holder[str(rng.choice(WORDS))[:200]] = copy.deepcopy(rng.choice(VALUES))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return document


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > 60:
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner, depth + 1)


def as_json(document: Any, rng: random.Random) -> bytes:
    """Return misshapen data as JSON, in some cases with damaged bytes too."""
    content = _json(misshapen(document, rng)).encode("utf-8", "surrogatepass")
    return damaged(content, rng) if rng.random() < 0.2 else content


def _json(value: Any) -> str:
    """Write JSON without recursion, because Python's own writer fails on data that is nested deeply."""
    parts: list[str] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Text):
            parts.append(item)
        elif isinstance(item, dict):
            inner: list[Any] = [_Text("{")]
            for number, (key, one) in enumerate(item.items()):
                inner += [_Text(("," if number else "") + json.dumps(str(key)) + ":"), one]
            todo += reversed([*inner, _Text("}")])
        elif isinstance(item, list):
            inner = [_Text("[")]
            for number, one in enumerate(item):
                inner += [_Text("," if number else ""), one]
            todo += reversed([*inner, _Text("]")])
        elif isinstance(item, int) and not isinstance(item, bool) and abs(item) >= 10**300:
            parts.append("1" + "0" * 400)
        else:
            parts.append(json.dumps(item))
    return "".join(parts)


class _Text(str):
    """A piece of JSON that is written already."""


def outcome(read: Callable[[], Any], *, largest: float = LARGEST) -> Any:
    """Return what a reader makes of a document: a value whose numbers are finite and possible, or the one line of our
    error.

    Anything else fails the test: another exception, an error of several lines, or a figure that cannot be.
    """
    try:
        found = read()
    except CarbonPluginError as error:
        sentence = str(error)
        assert sentence, "an error without words"
        assert "\n" not in sentence, f"an error of several lines: {sentence!r}"
        assert len(sentence) < 2000, f"an error of {len(sentence)} characters: {sentence[:300]!r}"
        return error
    for place, number in numbers_in(msgspec.to_builtins(found)):
        assert math.isfinite(number), f"{place} is {number}"
        assert abs(number) <= largest, f"{place} is {number:g}"
    return found


def numbers_in(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in plain data with its place."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{place}.{str(key)[:40]}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from numbers_in(inner, f"{place}[{index}]")
