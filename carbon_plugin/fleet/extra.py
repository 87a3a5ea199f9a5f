"""Import the packages that only a fleet needs, or say what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from carbon_plugin.errors import FleetError


def needed(module: str, what: str, extra: str = "fleet") -> Any:
    """Return the module that `what` needs, a subject such as "a report of a fleet".

    Raises `FleetError` that names the extra with the package where it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise FleetError(f"{what} needs {package}: pip install 'carbon-plugin[{extra}]'") from None
