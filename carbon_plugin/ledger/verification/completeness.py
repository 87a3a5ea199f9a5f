"""Find what is missing from a run directory: the end of a ledger, a whole ledger, or all ledgers of a node.

Honest runs lack things too: a process is killed, a node's disk is lost, a run goes on. Nobody can tell that from a
ledger that was cut or removed. What is missing is therefore named, and the run is called incomplete and not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carbon_plugin.ledger.files import attempt_number, writer_name
from carbon_plugin.ledger.verification.file_check import PassedLedger

TOGETHER_S = 15.0
"""Nodes of one launch begin and end their ledgers within this many seconds."""
LATE_S = 120.0
"""A window that ended this many seconds before somebody read the end of its file was in it, on any file system."""
_MOST_NAMED = 20


def missing_of(ledgers: Sequence[PassedLedger], known_ends: Mapping[str, frozenset[str]]) -> list[str]:
    """Return sentences for what is missing, the worst first.

    `known_ends` are chains by file that something outside of the file vouches for: an anchor, or another ledger.
    """
    found = [*_nodes(ledgers), *_attempts(ledgers), *_additions(ledgers), *_ends(ledgers, known_ends)]
    more = len(found) - _MOST_NAMED
    return found[:_MOST_NAMED] + ([f"{more} more ends, files or nodes"] if more > 0 else [])


def _nodes(ledgers: Sequence[PassedLedger]) -> list[str]:
    """Return sentences for nodes that the ledgers count and that have no ledger, in the whole run and beside each
    ledger of node 0.
    """
    offsets_s = {file: offset_s for ledger in ledgers for file, offset_s in ledger.offsets_s.items()}

    def extent(ledger: PassedLedger) -> tuple[float, float]:
        offset_s = offsets_s.get(ledger.check.file, 0.0)
        return ledger.extent[0] - offset_s - TOGETHER_S, ledger.extent[1] - offset_s + TOGETHER_S

    named = [ledger for ledger in ledgers if ledger.check.node is not None]
    seen = {ledger.check.node for ledger in named}
    absent = set(range(max((ledger.nodes for ledger in named), default=0))) - seen
    found = [f"node {_listed(absent)}: no ledger, of {max(ledger.nodes for ledger in named)} nodes"] if absent else []
    for leader in (ledger for ledger in named if ledger.check.node == 0):
        begin_s, end_s = extent(leader)
        beside = {one.check.node for one in named if extent(one)[0] <= end_s and extent(one)[1] >= begin_s}
        gone = set(range(leader.nodes)) - beside - absent
        if gone:
            found.append(f"node {_listed(gone)}: no ledger beside {leader.check.file}")
    return found


def _attempts(ledgers: Sequence[PassedLedger]) -> list[str]:
    """Return a sentence for each writer whose attempts have a gap. They are numbered from 0 on, so a missing number had
    a file."""
    numbers: dict[str, set[int]] = {}
    for ledger in ledgers:
        numbers.setdefault(writer_name(ledger.check.file), set()).add(attempt_number(ledger.check.file))
    return [
        f"{writer}.attempt-{_listed(gaps)}.jsonl: no such file, but one of a later attempt"
        for writer, there in numbers.items()
        if (gaps := set(range(max(there))) - there)
    ]


def _additions(ledgers: Sequence[PassedLedger]) -> list[str]:
    """Return a sentence for each file with lines that state a time before another ledger of the same host recorded the
    file's end, and that were written after that.
    """
    by_file = {ledger.check.file: ledger for ledger in ledgers}
    found = []
    for ledger in ledgers:
        for file, seen in ledger.witnessed.items():
            other = by_file.get(file)
            if other is None or other.place != ledger.place:
                continue
            for witness in seen:
                mark = other.marks.get(witness.chain) if witness.complete else None
                late_s = witness.at_unix_s - LATE_S
                if mark is not None and mark.next_unix_s is not None and mark.next_unix_s < late_s:
                    found.append(
                        f"{file}: the lines after {mark.line} came after {ledger.check.file} had seen its end, and "
                        f"speak of the time before"
                    )
    return list(dict.fromkeys(found))


def _ends(ledgers: Sequence[PassedLedger], known_ends: Mapping[str, frozenset[str]]) -> list[str]:
    return [
        f"{ledger.check.file}: no closing record: killed, cut off, on a full disk, or still running"
        for ledger in ledgers
        if ledger.check.closed is None and ledger.check.head not in known_ends.get(ledger.check.file, frozenset())
    ]


def _listed(numbers: set[int]) -> str:
    """Return numbers in words: "3", "1, 2 and 5", "0, 1, 2, 3 and 17 more"."""
    ordered = sorted(numbers)
    if len(ordered) > 5:
        return f"{', '.join(map(str, ordered[:4]))} and {len(ordered) - 4} more"
    return " and ".join(filter(None, (", ".join(map(str, ordered[:-1])), str(ordered[-1]))))
