"""Tell the versions of the software that trains, for the manifest of a ledger."""

from __future__ import annotations

import sys


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of these packages, as far as they are imported and tell one."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    known = {name: str(version) for name, version in found.items() if version is not None}
    return {"python": sys.version.split()[0], **known}
