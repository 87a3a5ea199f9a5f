"""Read and write `run.json`, which holds the run id that all ranks, nodes and attempts of one run agree on without
communication.

The first process that publishes the file wins, and all others read it. It stays in the directory, so a run that is
preempted and started again in the same directory continues under its id.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import msgspec

from carbon_plugin.errors import LedgerError, StorageError
from carbon_plugin.ledger.once import publish_once
from carbon_plugin.ledger.records import LEDGER_VERSION, RunIdentity
from carbon_plugin.spec.parsing.boundary import parse_json
from carbon_plugin.spec.parsing.opening import open_ending

IDENTITY_FILE = "run.json"
_POLL_S = 0.05


def agree_run(
    run_dir: str | os.PathLike[str],
    *,
    name: str,
    run_id: str | None = None,
    programme: str | None = None,
    role: str | None = None,
    parent_run_id: str | None = None,
    wait_s: float = 10.0,
) -> RunIdentity:
    """Return the identity of the run in `run_dir`, which is created if absent.

    An identity that is there already wins over `name`, `programme`, `role` and `parent_run_id`. A `run_id` given here
    must be the one that is there. Without one, a new run gets a random id. `wait_s` bounds the wait for a file that
    another process is publishing on a file system without hard links. Raises `LedgerError`, and its subclass
    `StorageError` where a later try may succeed.
    """
    path = Path(run_dir) / IDENTITY_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            proposal = RunIdentity(
                version=LEDGER_VERSION,
                run_id=run_id or uuid.uuid4().hex,
                created_unix_s=time.time(),
                name=name,
                programme=programme,
                role=role,
                parent_run_id=parent_run_id,
            )
            publish_once(path, msgspec.json.format(msgspec.json.encode(proposal)) + b"\n")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    identity = _await_identity(path, wait_s)
    if run_id is not None and identity.run_id != run_id:
        raise LedgerError(f"{path}: holds run_id {identity.run_id}, but this job was given run_id {run_id}")
    return identity


def read_identity(run_dir: str | os.PathLike[str]) -> RunIdentity | None:
    """Return the identity of the run in `run_dir`, or None without a `run.json`. Raises `LedgerError` if that is
    unreadable."""
    path = Path(run_dir) / IDENTITY_FILE
    try:
        return _decode(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error


def _await_identity(path: Path, wait_s: float) -> RunIdentity:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return _decode(path)
        except (FileNotFoundError, LedgerError) as error:
            # Another rank has written half of it, or a network file system does not show it yet.
            if time.monotonic() >= deadline:
                raise StorageError(f"{path}: no run identity after {wait_s:g} s: {error}") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
        time.sleep(_POLL_S)


def _decode(path: Path) -> RunIdentity:
    with open_ending(path) as file:
        content = file.read()
    return parse_json(content, path, "not a run identity", LedgerError, RunIdentity)
