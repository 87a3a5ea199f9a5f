"""Know which steps that a script says are those that a hook has counted already."""

from __future__ import annotations


class StepPairs:
    """Pairs the steps that a script says, to hand over their tokens, with those that a hook sees of the optimizer.

    A step that is seen and then said, or said and then seen, is one step. A step that only one of both tells of counts
    too: one that is replayed as a CUDA graph calls no hook, and most scripts say no step.
    """

    def __init__(self) -> None:
        self._seen = self._said = False  # a step that only one of both has told of, so far

    def seen(self) -> bool:
        """Note a step that a hook has seen, and return whether it is to be counted."""
        if self._said:
            self._said = False
            return False
        self._seen = True
        return True

    def said(self) -> bool:
        """Note a step that the script says, and return whether it is to be counted."""
        if self._seen:
            self._seen = False
            return False
        self._said = True
        return True
