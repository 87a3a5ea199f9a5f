"""Name phases: those that the tables know, and a training's own ones, such as "rollout" or "generation"."""

from __future__ import annotations

from carbon_plugin.ledger.records import KNOWN_PHASES, OTHER_PHASE

MAX_OWN = 16
"""The limit is needed because a name with a step number in it would be a new phase at each step."""
MAX_LENGTH = 40


class PhaseNames:
    """Holds the names of one training's phases. Any name is a phase; after sixteen own names, further ones are
    "other"."""

    def __init__(self) -> None:
        self._named: dict[object, str] = {name: name for name in KNOWN_PHASES}
        self._own: set[str] = set()

    def named(self, phase: str) -> str:
        """Return the name under which the ledger records the phase."""
        known = self._named.get(phase)
        if known is not None:
            return known
        name = "".join(letter if letter.isprintable() else " " for letter in str(phase)).strip()[:MAX_LENGTH]
        if not name or (name not in self._own and len(self._own) >= MAX_OWN):
            return OTHER_PHASE
        self._own.add(name)
        self._named[phase] = name
        return name
