"""Compare names as users type them, and build the error that helps when one is unknown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from carbon_plugin.errors import SpecError

_CLOSE = 0.6
_MOST_SHOWN = 5
_LONGEST = 100
_SHORTEST_PART = 4
"""The number of letters from which on a name that contains what was typed counts as near."""

Aliases = Mapping[str, Iterable[str]]
NO_ALIASES: Aliases = {}


def normalized(name: str) -> str:
    """Return a name for comparison: in lower case without accents, with `-` for blanks and underscores."""
    if not name.isascii():  # almost every name and every profile is, and has no accents to look for
        name = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return "-".join(name.strip().lower().replace("_", " ").split())


def nearest(name: str, known: Iterable[str], aliases: Aliases = NO_ALIASES, *, close: float = _CLOSE) -> list[str]:
    """Return up to five known names, those with the fewest edits first.

    A name that contains what was typed counts as near, or begins it, as "llama-3-8b" begins "llama-3-8b-instruct". A
    name is as near as the nearest of its aliases. `close` is the share of the longer word that need not be edited, from
    which on two words are near.
    """
    if len(name) > _LONGEST:  # it is no typing error, and a comparison would take long
        return []
    typed = normalized(name)
    scores = {
        candidate: max(_similarity(typed, normalized(form), close) for form in (candidate, *aliases.get(candidate, ())))
        for candidate in known
    }
    near = sorted((c for c, score in scores.items() if score >= close), key=lambda c: (-scores[c], c))
    return near[:_MOST_SHOWN]


def edits(first: str, second: str) -> int:
    """Return how many edits turn one word into the other.

    An edit inserts, leaves out or replaces a letter, or swaps it with its neighbour.
    """
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        before, last, row = row, before, [i]
        for j, other in enumerate(second, start=1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                least = min(least, last[j - 2] + 1)
            row.append(least)
    return row[-1]


def _similarity(typed: str, candidate: str, close: float) -> float:
    """Return how near a candidate is to what was typed: the share of the longer word that need not be edited.

    A candidate that begins with what was typed scores 1 more. One that contains it elsewhere, or that begins what was
    typed, scores at least just enough to be offered (`close`).
    """
    score = 1 - edits(typed, candidate) / max(len(typed), len(candidate), 1)
    if typed and candidate.startswith(typed):
        return score + 1
    inside = (len(typed) >= _SHORTEST_PART and typed in candidate) or (
        len(candidate) >= _SHORTEST_PART and typed.startswith(candidate)
    )
    return max(score, close + score / 10) if inside else score


def unknown_name(kind: str, name: str, known: Iterable[str], aliases: Aliases = NO_ALIASES) -> SpecError:
    """Return the error for an unknown name, with its nearest names, or with every known name if none is near.

    `kind` is the noun that the user knows it by, for instance "accelerator".
    """
    known = sorted(set(known))
    if close := nearest(name, known, aliases):
        return SpecError(f"unknown {kind} {name!r}; nearest: {', '.join(close)}")
    return SpecError(f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}")
