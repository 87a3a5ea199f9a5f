"""Temporary forward pre-hooks that cost the job nothing: not in a copy of the model, and not under a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Hook:
    """Calls `see(module, args)`; in a copy of its module, or in another process, it does nothing.

    Where a compiler traces it, it only notes that: the note is the one thing that reaches the compiled code.
    """

    def __init__(self, see: Callable[..., None] | None) -> None:
        self.traced = False
        self._see = see

    def __call__(self, *args: Any) -> None:
        import torch

        if torch.compiler.is_compiling():
            self.traced = True
        elif self._see is not None:
            self._see(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[None]]:
        return Hook, (None,)

    def rest(self) -> None:
        """See nothing any more."""
        self._see = None


class Hooks:
    """The hooks of one watcher, put on modules and taken away together."""

    def __init__(self) -> None:
        self._set: list[tuple[Hook, Any]] = []

    def __len__(self) -> int:
        return len(self._set)

    @property
    def traced(self) -> bool:
        """Whether a function that is compiled around the model called one of them."""
        return any(hook.traced for hook, _ in self._set)

    def put(self, module: nn.Module, see: Callable[..., None], *, with_kwargs: bool = False) -> None:
        """Call `see` before each call of a module."""
        hook = Hook(see)
        self._set.append((hook, module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)))

    def remove(self) -> None:
        """Take all of them away. Safe to call twice.

        One that is part of compiled code stays, at rest: the code is compiled again when the number of hooks changes,
        which can take minutes.
        """
        for hook, handle in self._set:
            hook.rest()
            if not hook.traced:
                handle.remove()
