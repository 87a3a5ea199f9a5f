"""Measure how far the clocks of nodes are apart from the steps that all nodes take together. This needs no messages and
no time server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from carbon_plugin.ledger.records import Span
from carbon_plugin.monitor.ledgers.file_totals import FileTotals, Place

SKEW_S = 5.0
"""Differences from this many seconds on are stated. Hosts run ahead of their GPUs by up to a second each, and stages of
a pipeline end a step at different moments within it, so the length of a step is added."""


def clock_offset_s(own: Iterable[Span], other: Span) -> float | None:
    """Return by how many seconds the clock behind `other` is ahead of the one behind `own`, or None if they have no
    step boundary in common.

    Within a span, all steps are taken to have the same length.
    """
    for span in own:
        step = min(span.last_step, other.last_step)
        if step >= max(span.first_step, other.first_step) - 1:
            return _end_of(other, step) - _end_of(span, step)
    return None


def _end_of(span: Span, step: int) -> float:
    return span.start_unix_s + (step - span.first_step + 1) * span.step_time_s


class SkewWatch:
    """Watches, on rank 0, the clocks of the nodes that write at the same time as this process.

    `offsets_s` holds the offset of each place, positive where its clock is ahead. It also applies to later and earlier
    attempts at the place.
    """

    def __init__(self) -> None:
        self.offsets_s: dict[Place, float] = {}
        self._last: dict[str, Span | None] = {}

    def look(self, own: FileTotals, files: Mapping[str, FileTotals]) -> dict[str, float]:
        """Return the offsets that have changed, s, by file name: 0 where clocks agree again.

        Only files that have grown since the last look count, because steps of an earlier attempt may have the same
        numbers, but nobody writes them any more. An offset that an earlier attempt noticed holds for its place until it
        is measured. Call this when all ledgers have been read to their ends.
        """
        for file in files.values():
            for name, ahead_s in file.clock_offsets_s.items():
                if name in files:
                    self.offsets_s.setdefault(files[name].place, ahead_s)
        news = {}
        for name, file in files.items():
            span, known = file.spans.last, name in self._last
            before = self._last.get(name)
            self._last[name] = span
            if file is own or span is None or not known or span == before:
                continue
            offset_s = clock_offset_s(reversed(own.spans.recent), span)
            tolerance_s = SKEW_S + span.step_time_s
            if offset_s is None or abs(offset_s - self.offsets_s.get(file.place, 0.0)) <= tolerance_s:
                continue
            news[name] = offset_s if abs(offset_s) > tolerance_s else 0.0
            self.offsets_s[file.place] = news[name]
        return news


def skew_message(offsets_s: Mapping[str, float]) -> str:
    """Return a sentence on the new offsets."""
    furthest_s = max(offsets_s.values(), key=abs)
    if furthest_s == 0:
        return "clocks of other nodes agree with that of rank 0 again"
    return (
        f"clocks of other nodes are up to {abs(furthest_s):.1f} s {'ahead of' if furthest_s > 0 else 'behind'} that of "
        "rank 0; energies and durations do not depend on it"
    )
