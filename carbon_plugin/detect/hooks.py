"""Temporary hooks that stay with the module they were put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """Calls `see`; in a copy of its module, or in another process, it does nothing."""

    def __init__(self, see: Callable[..., None] | None) -> None:
        self._see = see

    def __call__(self, *args: Any) -> None:
        if self._see is not None:
            self._see(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[None]]:
        return Hook, (None,)
