"""Agree with all ranks on the run directory and on the identity of the run in it, as soon as the directory allows
that."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import LedgerError, StorageError
from carbon_plugin.ledger.identity import IDENTITY_FILE, agree_run
from carbon_plugin.ledger.records import LEDGER_VERSION, RunIdentity
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.settings.settings import Settings

RUN_ID_VARIABLE = "CARBON_PLUGIN_RUN_ID"


class RunPlace:
    """Holds the directory and the identity of a run.

    While the directory can be neither read nor written, `identity` is a provisional one, the same on all ranks that
    were given this directory. Raises `LedgerError` if the directory holds a run with another id than the one that was
    given.
    """

    def __init__(self, run_dir: Path, settings: Settings, environ: Mapping[str, str]) -> None:
        self.run_dir = run_dir
        self._identity_file = os.path.join(run_dir, IDENTITY_FILE)
        self._settings = settings
        self._run_id = settings.options.run_id or environ.get(RUN_ID_VARIABLE) or None
        self._agreed = False
        self.identity = RunIdentity(
            version=LEDGER_VERSION,
            run_id=self._run_id or hashlib.blake2b(os.fsencode(run_dir.absolute()), digest_size=16).hexdigest(),
            created_unix_s=0.0,
            name=settings.name,
        )
        with contextlib.suppress(StorageError):  # whoever opens a ledger here gets this error
            self._agree(wait_s=10.0)

    @property
    def id_is_stated(self) -> bool:
        """Return whether the user or the environment named the run, so that all nodes know its id without
        communication.
        """
        return self._run_id is not None

    def open_writer(self, node: int, rank: int | None) -> LedgerWriter:
        """Return a writer of a new ledger of a node, or of one rank of it. Raises `LedgerError`."""
        if not self._agreed:
            self._agree(wait_s=0.0)
        return LedgerWriter(self.run_dir, run_id=self.identity.run_id, node=node, rank=rank)

    def keep(self) -> None:
        """Write the identity again if somebody has removed it. If that is not possible, the next call tries again."""
        if self._agreed and not os.path.exists(self._identity_file):
            with contextlib.suppress(LedgerError):
                self._agree(wait_s=0.0)

    def _agree(self, wait_s: float) -> None:
        settings = self._settings
        self.identity = agree_run(
            self.run_dir,
            name=settings.name,
            run_id=self.identity.run_id if self._agreed else self._run_id,
            programme=settings.programme,
            role=settings.role,
            parent_run_id=settings.options.parent_run_id,
            wait_s=wait_s,
        )
        self._agreed = True
