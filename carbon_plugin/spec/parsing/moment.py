"""Convert a moment between the text that users write (ISO 8601 with an offset) and Unix seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from carbon_plugin.errors import SpecError

_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(Z|[+-]\d\d:\d\d)?")


def unix_s(text: str, field: str) -> float:
    """Return the Unix seconds of a moment such as "2026-01-01T00:00Z". A day alone ("2026-01-01Z") is its midnight.

    Raises `SpecError` naming the field where the text is no date or has no offset.
    """
    day = _DAY.fullmatch(text)  # Python would take the plus of 2026-01-01+01:00 for the letter between day and time
    try:
        moment = datetime.fromisoformat(f"{day[1]}T00:00{day[2] or ''}" if day else text)
    except ValueError:
        raise SpecError(f"{field} is {text!r}, expected ISO 8601 such as 2026-01-01T00:00Z") from None
    if moment.tzinfo is None:
        whole = moment.isoformat(timespec="auto" if moment.second else "minutes")
        raise SpecError(f"{field} is {text!r} without an offset, expected for instance {whole}Z or {whole}+01:00")
    return moment.timestamp()


def iso_utc(moment_unix_s: float) -> str:
    """Return Unix seconds as a text to the minute, such as "2026-01-01T00:00Z"."""
    return datetime.fromtimestamp(moment_unix_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
