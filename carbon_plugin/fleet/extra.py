"""Import the packages that only a fleet needs, or say what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from carbon_plugin.errors import FleetError


def needed(module: str, what: str, extra: str = "fleet") -> Any:
    """Import a module that only a fleet needs, and return it. `what` is the subject of the error, such as "a report of
    a fleet".

    Raises `FleetError` naming the package and the extra that contains it where the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise FleetError(f"{what} needs {package}: pip install 'carbon-plugin[{extra}]'") from None
