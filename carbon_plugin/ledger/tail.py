"""Follow ledgers that other processes are still writing. Each poll returns what is new. This is not for judging a
finished run."""

from __future__ import annotations

import os
from pathlib import Path

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import decode_opening, decode_record, decoder_for
from carbon_plugin.ledger.files import is_own_name
from carbon_plugin.ledger.possible import RecordGate
from carbon_plugin.ledger.records import LEDGER_VERSION, Record
from carbon_plugin.spec.parsing.opening import open_ending
from carbon_plugin.threads.turns import give_way


class LedgerTail:
    """Reads the records of one file that are new since the last poll. It keeps no file open, because a job may have
    thousands of nodes.

    A line without its newline is left for a later poll. `intact` turns False for good when a line does not follow from
    the one before it, cannot be decoded or holds impossible figures. A copy of another file gives no record. `head` is
    the chain at the last complete line. `max_bytes` bounds what one poll reads, unless a single line is longer.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 1 << 20) -> None:
        self.path = Path(path)
        self.intact = True
        self._max_bytes = max_bytes
        self._offset = 0
        self._chain = b""
        self._copied = False
        self._gate = RecordGate()
        self._decoder = decoder_for(LEDGER_VERSION, str(self.path))

    @property
    def head(self) -> str:
        """Return the chain at the last complete line, 32 hex digits, or an empty string before the first."""
        return self._chain.hex()

    def poll(self) -> list[Record]:
        """Return the records that were completed since the last poll. Raises `LedgerError` if the file cannot be
        read."""
        try:
            block = self._read_block()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        self._offset += len(block)
        records = []
        for line in block.split(b"\n")[:-1]:
            give_way()
            record = self._decode(line)
            if record is not None:
                records.append(record)
        return records

    def _read_block(self) -> bytes:
        """Return complete lines from the offset on, ending in a newline, or nothing."""
        with open_ending(self.path, buffering=0) as file:
            size = self._max_bytes
            while True:
                block = os.pread(file.fileno(), size, self._offset)
                end = block.rfind(b"\n") + 1
                if end or len(block) < size:
                    return block[:end]
                size *= 2

    def _decode(self, line: bytes) -> Record | None:
        parts = chain.split_line(line)
        if parts is None:
            self.intact = False
            return None
        stated, payload = parts
        if not self._chain:
            opening = decode_opening(payload)
            if opening is None:
                self.intact = False
            else:
                self._decoder = decoder_for(opening.version, str(self.path))
                self._chain = chain.seed(opening.run_id)
                self._copied = not is_own_name(
                    self.path.name, stated=opening.file, node=opening.node, attempt=opening.attempt
                )
        if self._chain and chain.extend(self._chain, payload) != stated:
            self.intact = False
        self._chain = stated
        try:
            record = decode_record(payload, self._decoder)
        except LedgerError:
            self.intact = False
            return None
        verdict = self._gate.judge(record)
        if verdict is not None:
            self.intact = False
        return None if self._copied or (verdict and verdict.impossible) else record
