"""Convert a moment between the text that users write (ISO 8601 with an offset) and Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime

from carbon_plugin.errors import SpecError


def unix_s(text: str, field: str) -> float:
    """Return the Unix seconds of a moment such as "2026-01-01T00:00Z".

    Raises `SpecError` naming the field where the text is no date or has no offset.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SpecError(f"{field} is {text!r}, expected ISO 8601 such as 2026-01-01T00:00Z") from None
    if moment.tzinfo is None:
        raise SpecError(f"{field} is {text!r} without an offset, expected for instance {text}Z or {text}+01:00")
    return moment.timestamp()


def iso_utc(moment_unix_s: float) -> str:
    """Return Unix seconds as a text to the minute, such as "2026-01-01T00:00Z"."""
    return datetime.fromtimestamp(moment_unix_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
