"""Encode records as JSON bytes and decode them, by ledger version. Every version that was ever released stays
readable."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.records import LEDGER_VERSION, Record
from carbon_plugin.printable import as_json
from carbon_plugin.spec.parsing.boundary import DEEPEST, UNREADABLE, reason_of, too_deep

_decoders: dict[int, msgspec.json.Decoder[Record]] = {1: msgspec.json.Decoder(Record)}


class RecordError(LedgerError):
    """A record holds a value that no reader could decode. The file itself is sound."""


class Opening(msgspec.Struct, frozen=True, tag="manifest"):
    """Holds the fields of a file's first record that must be known before the others can be decoded."""

    version: int
    run_id: str
    node: int
    attempt: int
    started_unix_s: float
    file: str = ""


_WINDOW = b'{"type":"window"'
_opening_decoder = msgspec.json.Decoder(Opening)


def encode_record(record: Record) -> bytes:
    r"""Return a record as compact JSON. Raises `RecordError` for one that no reader could decode (a NaN, a wrong type).

    What is no Unicode, such as a byte of a path in another encoding, is written as an escape: \udce4.
    """
    try:
        payload = as_json(record)
        # Structs are not checked where they are made, and JSON has no NaN: a record that cannot be read back must
        # fail here, where the caller can still say so, and not in an audit months later.
        _decoders[LEDGER_VERSION].decode(payload)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"ledger: a {type(record).__name__} cannot be recorded: {error}") from error
    return payload


def decode_opening(payload: bytes) -> Opening | None:
    """Return the opening of a file from its first record, or None if that is not a manifest."""
    try:
        return None if too_deep(payload) else _opening_decoder.decode(payload)
    except UNREADABLE:
        return None


def decode_record(payload: bytes, decoder: msgspec.json.Decoder[Record]) -> Record:
    """Return a record from its JSON. Raises `LedgerError` with the reason for one that cannot be read."""
    # Most records are windows. Their fields are not nested, and the decoder skips any other fields.
    if not payload.startswith(_WINDOW) and too_deep(payload):
        raise LedgerError(f"is nested deeper than {DEEPEST} levels")
    try:
        return decoder.decode(payload)
    except UNREADABLE as error:
        raise LedgerError(f"cannot be decoded: {reason_of(error)}") from None


def decode_records(payloads: Sequence[bytes], decoder: msgspec.json.Decoder[Record]) -> list[Record] | None:
    """Return the records of several payloads, or None where `decode_record` would raise for one of them."""
    if any(map(too_deep, [payload for payload in payloads if not payload.startswith(_WINDOW)])):
        return None
    try:
        return [decoder.decode(payload) for payload in payloads]
    except UNREADABLE:
        return None


def decoder_for(version: int, origin: object) -> msgspec.json.Decoder[Record]:
    """Return the decoder of a ledger version. Raises `LedgerError` naming `origin` for a version that is not known
    here."""
    try:
        return _decoders[version]
    except KeyError:
        raise LedgerError(
            f"{origin}: ledger version {version}, but this carbon-plugin reads versions "
            f"{min(_decoders)} to {max(_decoders)}; upgrade it"
        ) from None
