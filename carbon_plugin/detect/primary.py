"""Choose whose steps are the steps of a run where nobody said which of a program's optimizers that is."""

from __future__ import annotations

import weakref
from typing import Any

TAKE_OVER = 100
"""An optimizer that steps this often while the chosen one does not step at all is chosen in its place. A GAN whose
critic steps a few times an iteration stays far below it."""


class Primary:
    """Chooses the optimizer that steps first, so that one iteration is one step of the run.

    It stays chosen while it steps, however many others step in between: the second optimizer of a GAN, one optimizer a
    parameter, or the wrapper that steps after the optimizer inside it. Another one is chosen where the chosen one is
    gone, or has not stepped during `TAKE_OVER` steps of the other. DeepSpeed steps one optimizer once a group of
    parameters, so that an optimizer with other first parameters counts as another one.
    """

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None
        self._owner: Any = lambda: None
        self._waiting: dict[tuple[int, int], int] = {}

    def counts(self, optimizer: Any) -> bool:
        """Return whether the step that this optimizer has just done is a step of the run."""
        key = (id(optimizer), _first_parameter(optimizer))
        if key == self._key:
            self._waiting.clear()
            return True
        waited = self._waiting.get(key, 0) + 1
        if waited < TAKE_OVER and self._owner() is not None:
            self._waiting[key] = waited
            return False
        self._key, self._owner = key, weakref.ref(optimizer)
        self._waiting.clear()
        return True


def _first_parameter(optimizer: Any) -> int:
    return next((id(parameter) for group in optimizer.param_groups for parameter in group["params"]), 0)
