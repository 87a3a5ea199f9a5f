"""Put the one list of a monitor's arguments into the help of everything that takes them."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, TypeVar

from carbon_plugin.monitor.settings.arguments import MonitorArguments

_LINE = "    **arguments: Those of `MonitorArguments`."

T = TypeVar("T")


def with_arguments(target: T) -> T:
    """Put the arguments of `MonitorArguments` into the docstring of a function or a class that takes them.

    Args:
        target: What is decorated. The `Args:` block of its docstring ends with `**arguments: Those of
            MonitorArguments.`, with the name in backquotes; that line is replaced.

    Returns:
        The same object.
    """
    documented: Any = target
    if documented.__doc__ is not None:  # with `python -OO` nothing has a docstring
        block = inspect.cleandoc(MonitorArguments.__doc__ or "").partition("Args:\n")[2]
        before, line, after = inspect.cleandoc(documented.__doc__).partition(_LINE)
        if not line:
            raise ValueError(f"the docstring of {documented.__name__} has no line {_LINE.strip()!r}")
        documented.__doc__ = before + textwrap.indent(textwrap.dedent(block), "    ").rstrip() + after
    return target
