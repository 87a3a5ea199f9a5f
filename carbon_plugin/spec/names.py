"""Names as users type them, and the error that helps when one is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from carbon_plugin.errors import SpecError

_CLOSE = 0.5
_MOST_SHOWN = 5

Aliases = Mapping[str, Iterable[str]]
NO_ALIASES: Aliases = {}


def normalized(name: str) -> str:
    """A name for comparison: lower case, with `-` for blanks and underscores."""
    return "-".join(name.strip().lower().replace("_", " ").split())


def nearest(name: str, known: Iterable[str], aliases: Aliases = NO_ALIASES) -> list[str]:
    """Up to five known names, the most similar first; one that begins with what was typed counts as similar.

    A name is as near as the nearest of its aliases.
    """
    typed = normalized(name)
    scores = {
        candidate: max(_similarity(typed, normalized(form)) for form in (candidate, *aliases.get(candidate, ())))
        for candidate in known
    }
    close = sorted((c for c, score in scores.items() if score >= _CLOSE), key=lambda c: (-scores[c], c))
    return close[:_MOST_SHOWN]


def _similarity(typed: str, candidate: str) -> float:
    score = SequenceMatcher(None, typed, candidate, autojunk=False).ratio()
    return score + 1 if typed and candidate.startswith(typed) else score


def unknown_name(kind: str, name: str, known: Iterable[str], aliases: Aliases = NO_ALIASES) -> SpecError:
    """The error for a name that is not known: its nearest names, or every known one if none is near.

    `kind` is the noun that the user knows it by, for instance "accelerator".
    """
    known = sorted(known)
    if close := nearest(name, known, aliases):
        return SpecError(f"unknown {kind} {name!r}; nearest: {', '.join(close)}")
    return SpecError(f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}")
