"""Wrap methods of live objects, so that their calls tell of steps and phases until `remove`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class Methods:
    """Holds the methods that it has wrapped. It wraps them on the given objects only.

    A copy or a pickle of such an object has the original method, because the wrapper reduces to it.
    """

    def __init__(self) -> None:
        self._put: list[_Method] = []

    def after(self, owner: Any, name: str, then: Callable[[Any], None]) -> None:
        """Call `then(result)` after each call of a method that returns."""

        def call(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = method(*args, **kwargs)
            then(result)
            return result

        self.instead(owner, name, call)

    def within(self, owner: Any, name: str, block: Callable[[], AbstractContextManager[Any]]) -> None:
        """Run each call of a method within a new context manager that `block` returns."""

        def call(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with block():
                return method(*args, **kwargs)

        self.instead(owner, name, call)

    def instead(self, owner: Any, name: str, call: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
        """Call `call(method, args, kwargs)` instead of a method.

        Do nothing if this release of the framework has no such method, because then nobody calls it. An object that
        takes no attributes raises its own error here.
        """
        method = getattr(owner, name, None)
        if method is None:
            return
        put = _Method(owner, name, method, call)
        setattr(owner, name, put)
        self._put.append(put)

    def remove(self) -> None:
        """Give the objects their methods back. A second call does nothing."""
        for put in reversed(self._put):
            put.remove()
        self._put.clear()


class _Method:
    """Wraps one method. Its attributes are those of the method that it wraps."""

    def __init__(self, owner: Any, name: str, method: Any, call: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
        self._owner, self._name, self.__wrapped__, self._call = owner, name, method, call
        self._before = vars(owner).get(name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self.__wrapped__, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "__wrapped__" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (self._owner, self._name)

    def remove(self) -> None:
        if vars(self._owner).get(self._name) is not self:
            return  # another wrapper holds ours, which goes on passing calls through
        if self._before is self:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)
