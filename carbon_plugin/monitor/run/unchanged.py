"""Remember the last result of a pure function, for callers that ask repeatedly about the same objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Unchanged(Generic[Asked, Answer]):
    """Calls a pure function of some objects, unless they are the very objects of the call before.

    The objects must be frozen. They and the answer are kept until the next call. One thread calls an instance.
    """

    def __init__(self, function: Callable[[Iterable[Asked]], Answer]) -> None:
        self._function = function
        self._last: tuple[list[Asked], Answer] | None = None

    def __call__(self, objects: Iterable[Asked]) -> Answer:
        """Return what the function returns for these objects."""
        asked, last = list(objects), self._last
        if last is None or len(last[0]) != len(asked) or not all(map(is_, last[0], asked)):
            last = self._last = asked, self._function(asked)
        return last[1]
