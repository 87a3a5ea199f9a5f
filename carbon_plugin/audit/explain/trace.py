"""Follow a number of a report to its sources (`carbon-plugin audit --explain`) by the rules of
`audit.explain.rules`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.audit.explain.reasons import Reason
from carbon_plugin.audit.explain.rules import RULES
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.show import wording

HEADLINES = (
    "footprint.total_kg",
    "footprint.operational_kg",
    "energy",
    "progress.tokens",
    "steps.measured_step_time_s",
    "steps.predicted_step_time_s",
    "forecast.footprint.total_kg",
)
"""These fields are explained when no field is named. Every other field can be asked for by name."""


class Explanation(Struct, frozen=True, kw_only=True):
    """The explanation of one number: how it is computed, its sources, and its depth below the number that was asked
    for.
    """

    field: str
    value: str
    how: str
    sources: list[str]
    follows_from: list[str]
    depth: int


def explain(summary: AuditSummary, field: str | None = None) -> list[Explanation]:
    """Return a number and everything that it follows from, down to meters, files and published factors. Each field
    comes once.

    `field` is a path in `report.json`, or the end of one ("operational_kg"). Without it the headlines are explained.
    Raises `ReportError` with the nearest names for a field that the report does not have.
    """
    document = document_of(summary)
    asked = [name for name in HEADLINES if _at(document, name) is not None] if field is None else []
    if field is not None:
        asked = [_resolve(summary, document, field)]
    seen: set[str] = set()
    return [item for name in asked for item in _follow(summary, document, name, 0, seen)]


def explain_each(summary: AuditSummary, fields: Sequence[str]) -> dict[str, list[Explanation]]:
    """Return the explanation of each field that has a value in the report, as `explain` gives it."""
    document = document_of(summary)
    return {
        field: list(_follow(summary, document, field, 0, set())) for field in fields if _at(document, field) is not None
    }


def document_of(summary: AuditSummary) -> dict[str, Any]:
    """Return the report as plain data, as `report.json` holds it."""
    document: dict[str, Any] = msgspec.to_builtins(summary)
    return document


def reason_of(summary: AuditSummary, field: str) -> Reason:
    """Apply the rule for a field and return its reason. Raises `ReportError` for a field without a rule."""
    path = field.split(".")
    for length in range(len(path), 0, -1):
        for pattern in _by_length().get(length, ()):
            if all(part in ("*", name) for part, name in zip(pattern.split("."), path, strict=False)):
                return RULES[pattern](summary, path)
    raise ReportError(f"explain: no rule says where {field} comes from")


def numbers(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every number in a document."""
    if isinstance(document, dict):
        for name, item in document.items():
            yield from numbers(item, (*path, str(name)))
    elif isinstance(document, list | tuple):
        for position, item in enumerate(document):
            yield from numbers(item, (*path, str(position)))
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield path


def unknowns(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value in a document that is null because it is not known or does not exist."""
    if isinstance(document, dict):
        for name, item in document.items():
            yield from unknowns(item, (*path, str(name)))
    elif document is None:
        yield path


@cache
def _by_length() -> dict[int, list[str]]:
    """Return the patterns by their number of names. Among patterns of one length, those without a star come first."""
    lengths: dict[int, list[str]] = {}
    for pattern in sorted(RULES, key=lambda pattern: pattern.count("*")):
        lengths.setdefault(pattern.count(".") + 1, []).append(pattern)
    return lengths


def _follow(
    summary: AuditSummary, document: dict[str, Any], field: str, depth: int, seen: set[str]
) -> Iterator[Explanation]:
    value = _at(document, field)
    if field in seen or value is None:
        return
    seen.add(field)
    reason = reason_of(summary, field)
    yield Explanation(
        field=field,
        value=_text(value),
        how=reason.how,
        sources=reason.sources,
        follows_from=reason.follows_from,
        depth=depth,
    )
    for name in reason.follows_from:
        yield from _follow(summary, document, name, depth + 1, seen)


def _at(document: Any, field: str) -> Any:
    """Return the part of a document at a dotted path, or None where there is none. Keys may contain dots themselves."""
    if not field:
        return document
    if isinstance(document, dict):
        for name, item in document.items():
            if field == name:
                return item
            if field.startswith(f"{name}."):
                found = _at(item, field[len(name) + 1 :])
                if found is not None:
                    return found
        return None
    if isinstance(document, list | tuple):
        name, _, rest = field.partition(".")
        inside = name.isdigit() and int(name) < len(document)
        return _at(document[int(name)], rest) if inside else None
    return None


def _resolve(summary: AuditSummary, document: dict[str, Any], field: str) -> str:
    """Return the full path of a field that was named by the end of its path.

    Raises `ReportError` where no field fits. For a field that is null, the error contains what its rule says about
    that.
    """
    if _at(document, field) is not None:
        return field
    paths = {".".join(path[:length]) for path in numbers(document) for length in range(1, len(path) + 1)}
    null = set(map(".".join, unknowns(document)))
    fitting = sorted(
        (path for path in paths | null if path == field or path.endswith(f".{field}")),
        key=lambda path: (path.count("."), path),
    )
    if fitting:
        shortest = [path for path in fitting if path.count(".") == fitting[0].count(".")]
        found = next((path for path in shortest if path.startswith("footprint.")), shortest[0])
        if found in null:
            raise ReportError(f"explain: {found} is null in this report; its rule: {reason_of(summary, found).how}")
        return found
    near = difflib.get_close_matches(field, [*paths, *(path.rpartition(".")[2] for path in paths)], n=3, cutoff=0.5)
    raise ReportError(
        f"explain: the report has no field {field!r}; nearest: {', '.join(dict.fromkeys(near)) or 'none'}"
    )


def _text(value: Any) -> str:
    """Return a part of the report in a few words, or an empty text for a part that holds many numbers."""
    if isinstance(value, dict):
        return _text_of_part(value)
    if isinstance(value, float):
        return wording.plain(value, 6)
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else ""


def _text_of_part(part: dict[str, Any]) -> str:
    for name in ("figure", "energy"):
        if isinstance(part.get(name), dict):
            return _text_of_part(part[name])
    if {"value", "low", "high", "unit"} <= part.keys():
        span = f"{wording.plain(part['low'])} to {wording.plain(part['high'])}"
        return f"{wording.plain(part['value'])} {part['unit']} ({span}), {part['kind']}".replace("  ", " ")
    # In joules as the figures above it, so that a reader can add the parts up.
    return f"{wording.plain(part['energy_j'])} J" if isinstance(part.get("energy_j"), float) else ""
