"""Make texts from outside (names of runs, devices and files) safe to print: no control character reaches a terminal."""

from __future__ import annotations

import re
from typing import Any

_COLOUR = r"\x1b\[[0-9;]{0,20}m"
"""What tables of ours are coloured with; harmless in anybody's text."""
_CONTROL = re.compile(
    f"({_COLOUR})|([\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff])"
)
_BREAK = re.compile(r"[\t\n\r\x0b\x0c\x85\u2028\u2029]+")
_LONGEST = 1500
_LONGEST_OF_OTHERS = 240


def printable(text: str) -> str:
    r"""Return the text with control characters as escapes such as \x07; line breaks, tabs and colours stay."""
    return _CONTROL.sub(lambda found: found[1] or found[2].encode("unicode_escape").decode(), text)


def in_unicode(value: Any) -> Any:
    r"""Return plain data whose texts UTF-8 can hold: a byte of a path in another encoding, which Python keeps as half a
    character, is an escape such as \udce4."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {in_unicode(key): in_unicode(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [in_unicode(held) for held in value]
    return value


def as_json(value: Any) -> bytes:
    """Return a value as compact JSON, in which texts that UTF-8 cannot hold have escapes (`in_unicode`). Raises what
    msgspec raises for a value that JSON has no form for."""
    import msgspec

    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(in_unicode(msgspec.to_builtins(value)))


def one_line(text: str) -> str:
    """Return the text in one line that is short enough for an error."""
    line = printable(_BREAK.sub(" ", text))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def brief(error: BaseException) -> str:
    """Return the type and the first sentence of an exception that somebody else's code raised. Torch appends pages to
    some."""
    line = one_line(f"{type(error).__name__}: {error}".partition("\n")[0])
    if len(line) <= _LONGEST_OF_OTHERS:
        return line
    sentence = line[:_LONGEST_OF_OTHERS].rpartition(". ")[0]
    return f"{sentence}." if sentence else f"{line[:_LONGEST_OF_OTHERS]} ..."
