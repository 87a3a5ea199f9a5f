"""Make sub-packages callable: `carbon_plugin.audit` is a package, and `carbon_plugin.audit(run_dir)` makes an audit.

Python binds a sub-package to its name in the package above as soon as anything in it is imported, so that a function
of that name would be there only until then. A package that can be called is both at any time.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that passes calls on to the function of the same name in `carbon_plugin.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; see `help` of the package for its arguments."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        """Return how to import the package by its name, so that it can be passed to processes of a pool as a
        function.
        """
        return import_module, (self.__name__,)

    @property
    def _function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(import_module("carbon_plugin.api"), self.__name__.rpartition(".")[2])
        return function

    @property
    def __signature__(self) -> inspect.Signature:
        """Return the signature of the function, for `inspect.signature` and editors."""
        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """Return the documentation of the function, with its call, for `help`."""
        name = self._function.__name__
        return f"carbon_plugin.{name}{self.__signature__}\n\n{inspect.getdoc(self._function)}"


def make_callable(name: str) -> None:
    """Make a sub-package callable as the function of its name. Its `__init__.py` calls this.

    Args:
        name: Full name of the sub-package, its `__name__`.
    """
    sys.modules[name].__class__ = CallablePackage
