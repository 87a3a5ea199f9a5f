"""Say in words how far the ledgers can be believed: in one line for a terminal, and in the same words for a page."""

from __future__ import annotations

from carbon_plugin.audit.result import Verification
from carbon_plugin.ledger.verification.verify import VerificationState
from carbon_plugin.spec.numbers.amounts import plural

_WORDS: dict[VerificationState, str] = {
    "contradicted": "NOT VERIFIED",
    "incomplete": "INCOMPLETE",
    "unsealed": "unsealed",
    "partly sealed": "partly sealed",
    "verified": "verified",
}


def verdict_word(verification: Verification) -> str:
    """Return the state of the ledgers in words. They are in capitals where something is wrong or missing."""
    return _WORDS[verification.state]


def verdict_reason(verification: Verification) -> str:
    """Return a phrase that says why the ledgers are in that state: the first problem, or what the anchors confirm."""
    if verification.state == "contradicted":
        return _first_of(verification.problems)
    if verification.state == "incomplete":
        return _first_of(verification.missing)
    if verification.state == "unsealed":
        return "complete and consistent, but no anchor vouches for all of them (--anchor HEX)"
    matched = f"{plural(len(verification.anchors), 'anchor')} matched"
    if verification.state == "partly sealed":
        windows = sum(check.windows for check in verification.files)
        after = windows - sum(check.sealed_windows for check in verification.files)
        return f"{matched}; {after:,} of {plural(windows, 'window')} came after them"
    return matched


def verdict_line(verification: Verification) -> str:
    """Return the state, the number of files and the reason in one line."""
    files = plural(len(verification.files), "file")
    return f"ledger: {verdict_word(verification)}, {files}: {verdict_reason(verification)}"


def _first_of(sentences: list[str]) -> str:
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")
