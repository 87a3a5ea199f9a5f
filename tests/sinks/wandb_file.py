"""Read the records of a run that W&B has written without a server."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def records_of(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file of W&B, which is a log of LevelDB: after a header of seven bytes, blocks of 32 KiB
    with fragments of (crc, length, kind).
    """
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last fragment of one
            yield whole
            whole = b""
