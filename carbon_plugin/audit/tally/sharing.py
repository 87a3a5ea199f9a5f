"""Documents that the manifests of thousands of files repeat, kept once: restarts of many nodes make many files."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from carbon_plugin.ledger.records import Manifest

_REPEATED = ("devices", "effective", "factors", "versions", "forecast", "prediction", "assumptions", "spec")


class SharedDocuments:
    """The first of all equal documents. They are not to be changed."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}

    def manifest(self, manifest: Manifest) -> Manifest:
        """The same manifest, which shares with others what it has in common with them."""
        return msgspec.structs.replace(manifest, **{name: self._first(getattr(manifest, name)) for name in _REPEATED})

    def _first(self, document: Any) -> Any:
        return self._known.setdefault(blake2b(msgspec.json.encode(document), digest_size=16).digest(), document)
