"""Find the versions of the training's software, for the manifest of a ledger."""

from __future__ import annotations

import sys


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of these packages, as far as they are imported and state one."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    known = {name: str(version) for name, version in found.items() if version is not None}
    return {"python": sys.version.split()[0], **known}
