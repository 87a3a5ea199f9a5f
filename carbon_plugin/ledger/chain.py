"""Compute the checksum chain, and write and read lines of the form `<32 hex digits> <compact JSON>`, newline.

chain(0) = H(run id), chain(n) = H(chain(n-1) + JSON bytes of record n), with H = BLAKE2b of 16 bytes (RFC 7693). The
chain makes an edited, dropped or reordered line visible. It is no signature: whoever can rewrite the whole file can
also rewrite the chain. An anchor kept elsewhere shows that too (`ledger.verification.verify`).
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_BYTES = 16
HEX_DIGITS = 2 * DIGEST_BYTES
_SPACE = ord(" ")


def seed(run_id: str) -> bytes:
    """Return the chain before the first record of any file of this run."""
    return blake2b(run_id.encode(), digest_size=DIGEST_BYTES).digest()


def extend(chain: bytes, payload: bytes) -> bytes:
    """Return the chain after a record whose JSON is `payload`."""
    return blake2b(chain + payload, digest_size=DIGEST_BYTES).digest()


def join_line(chain: bytes, payload: bytes) -> bytes:
    """Return one line of a ledger file."""
    return b"%s %s\n" % (chain.hex().encode(), payload)


def split_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the chain and the JSON of a line without its newline, or None if it does not have the shape of a ledger
    line."""
    if len(line) <= HEX_DIGITS + 1 or line[HEX_DIGITS] != _SPACE:
        return None
    try:
        return unhexlify(line[:HEX_DIGITS]), line[HEX_DIGITS + 1 :]
    except ValueError:
        return None


def split_lines(lines: Sequence[bytes]) -> tuple[list[bytes], list[bytes]] | None:
    """Return the chains and the JSON of complete lines, or None if one of them does not have the shape of a ledger
    line."""
    payloads = [line[HEX_DIGITS + 1 : -1] for line in lines]
    if not all(payloads) or [line[HEX_DIGITS] for line in lines].count(_SPACE) < len(lines):
        return None
    try:
        return [unhexlify(line[:HEX_DIGITS]) for line in lines], payloads
    except ValueError:
        return None


def is_unbroken(before: bytes, chains: Sequence[bytes], payloads: Sequence[bytes]) -> bool:
    """Return whether each record follows from the one before it, and the first one from the chain `before`."""
    return (
        chains
        == [
            blake2b(former + payload, digest_size=DIGEST_BYTES).digest()  # `extend`, without the cost of a call
            for former, payload in zip([before, *chains[:-1]], payloads, strict=True)
        ]
    )
