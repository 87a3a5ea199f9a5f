"""Say once that a script declares other tokens of a step than its trainer or its batches show."""

from __future__ import annotations

from carbon_plugin.detect.resolve.effective import Effective
from carbon_plugin.monitor.clock import Mark
from carbon_plugin.spec.numbers.amounts import percent, plural

MARGIN = 0.05
"""A declared number may be a rounded one, or leave out what a mask hides. Beyond this share it is another number."""
FEWEST_STEPS = 100
"""Batches differ in length, so that the mean of fewer steps says little while the training goes on."""


class DeclaredTokens:
    """Compares the declared tokens of a step with those that were counted, which do not count then."""

    def __init__(self) -> None:
        self._said = False

    def look(self, mark: Mark, effective: Effective, *, last: bool = False) -> str | None:
        """Return the warning, once, or None. The `last` look of a training compares however few steps there were."""
        steps = mark.steps - mark.uncounted
        if self._said or steps < (1 if last else FEWEST_STEPS):
            return None
        counted = effective.counted_beside(told=mark.tokens, untold_steps=mark.uncounted, steps=mark.steps)
        declared = effective.tokens_per_step
        if counted is None or not declared or abs(declared - counted) <= MARGIN * max(declared, counted):
            return None
        self._said = True
        off = f"{percent(abs(counted / declared - 1), 0)} {'less' if declared > counted else 'more'}"
        return (
            f"tokens_per_step is declared as {declared:,}, and {counted:,.0f} were counted ({off}, mean of "
            f"{plural(steps, 'step')}); declared counts: correct it, or leave it out so that the tokens of each step "
            "are counted"
        )
