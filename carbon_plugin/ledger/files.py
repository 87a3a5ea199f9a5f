"""Tell which files of a run directory are ledgers, and read and make their names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from carbon_plugin.errors import LedgerError

_NAME = re.compile(r"node-(0|[1-9][0-9]{0,8})(?:\.rank-(0|[1-9][0-9]{0,8}))?\.attempt-(0|[1-9][0-9]{0,8})\.jsonl")


def ledger_name(node: int, attempt: int, rank: int | None = None) -> str:
    """Return the file name of a ledger. `rank` is given where ranks of one node each meter their own GPU."""
    part = "" if rank is None else f".rank-{rank}"
    return f"node-{node}{part}.attempt-{attempt}.jsonl"


def writer_name(file_name: str) -> str:
    """Return the part of a ledger's name that writers which follow each other share: all but the attempt."""
    return file_name.partition(".attempt-")[0]


def attempt_number(file_name: str) -> int:
    """Return the number of the attempt in the name of a ledger, or 0 for any other name."""
    match = _NAME.fullmatch(file_name)
    return int(match[3]) if match else 0


def node_of(file_name: str) -> int | None:
    """Return the number of the node that wrote a ledger, or None for another file."""
    found = _NAME.fullmatch(file_name)
    return int(found[1]) if found else None


def rank_of(file_name: str) -> int | None:
    """Return the rank that wrote a ledger of its own, or None for a node's ledger and for another file."""
    found = _NAME.fullmatch(file_name)
    return int(found[2]) if found and found[2] else None


def is_own_name(file_name: str, *, stated: str, node: int, attempt: int) -> bool:
    """Return whether a file has the name that its writer gave it.

    That is the `stated` name of its manifest. For older manifests, which state none, it is one with its node and
    attempt.
    """
    if stated:
        return file_name == stated
    found = _NAME.fullmatch(file_name)
    return found is None or (int(found[1]), int(found[3])) == (node, attempt)


def ledger_files(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the ledger files of a run by node, rank and attempt. The list is empty if there is none yet.

    Raises `LedgerError` if the directory cannot be listed.
    """
    return [Path(run_dir, name) for name in ledger_names(run_dir)]


def ledger_names(run_dir: str | os.PathLike[str]) -> list[str]:
    """Return the names of the files of `ledger_files`, in the same order. Raises `LedgerError` likewise."""
    try:
        found = [match for name in os.listdir(run_dir) if (match := _NAME.fullmatch(name))]
    except FileNotFoundError:
        raise LedgerError(f"{os.fspath(run_dir)}: no such run directory") from None
    except OSError as error:
        raise LedgerError(f"{os.fspath(run_dir)}: cannot be listed: {error.strerror or error}") from error
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 0), int(match[3])))
    return [match[0] for match in found]
