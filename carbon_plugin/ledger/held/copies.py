"""Find ledgers that are copies of others with another manifest. They begin with the same window.

No two writers measure the same values at the same moment. A copy enters no sum, so that a step or a window counts once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import Window


def fingerprint_of(first: Window) -> str | None:
    """Return a digest of the measured values of a file's first window, or None where it has measured nothing."""
    if not first.energies:
        return None
    # In any order: it is how a writer lists its devices, and nothing that was measured.
    read = sorted((energy.key, -1.0 if energy.energy_j is None else energy.energy_j) for energy in first.energies)
    return blake2b(msgspec.json.encode((first.start_unix_s, first.duration_s, read)), digest_size=16).hexdigest()


def copies_among(fingerprints: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Return the copies, each with its original: the first file with the same fingerprint, in the order given."""
    first: dict[str, str] = {}
    found = {}
    for file, fingerprint in fingerprints:
        if fingerprint is not None:
            original = first.setdefault(fingerprint, file)
            if original != file:
                found[file] = original
    return found


def first_fingerprint(path: Path) -> str | None:
    """Return the digest of the first window of a file, or None where there is none. Raises `LedgerError` for a file
    that cannot be read.
    """
    first = next((record for record in LedgerStream(path) if isinstance(record, Window)), None)
    return None if first is None else fingerprint_of(first)


def original_files(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the ledgers of a run directory, without copies of others. Raises `LedgerError` for a directory that cannot
    be listed, and for a file that cannot be read.
    """
    paths = ledger_files(run_dir)
    copies = copies_among((path.name, first_fingerprint(path)) for path in paths)
    return [path for path in paths if path.name not in copies]
