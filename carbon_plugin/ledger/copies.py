"""Which ledgers are copies of others that were given a manifest of their own: those that begin with the same window.

No two writers measure the same at the same moment. A copy enters no sum, so that a step or a window counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from carbon_plugin.ledger.records import Window


def fingerprint_of(first: Window) -> str | None:
    """Digest of what the first window of a file has measured; None where it has measured nothing."""
    if not first.energies:
        return None
    read = [(energy.key, energy.energy_j) for energy in first.energies]
    return blake2b(msgspec.json.encode((first.start_unix_s, first.duration_s, read)), digest_size=16).hexdigest()


def copies_among(fingerprints: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Copies, with the file that each is a copy of: the first one with its fingerprint, in the order given."""
    first: dict[str, str] = {}
    found = {}
    for file, fingerprint in fingerprints:
        if fingerprint is not None:
            original = first.setdefault(fingerprint, file)
            if original != file:
                found[file] = original
    return found
