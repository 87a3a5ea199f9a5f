"""Decide which part of a window another ledger file has already metered for the same device, so that each joule counts
once.
"""

from __future__ import annotations

from msgspec import Struct

# Two nodes' clocks, or the end of one attempt and the start of the next, may disagree by this much without two
# processes having read the same counter.
TOLERANCE_S = 1.0


class Overlap(Struct, frozen=True, kw_only=True):
    """Says that two files metered the device `key` at once for `duration_s`. The energy of `file` in that time is left
    out.
    """

    key: str
    file: str
    counted_in: str
    duration_s: float


class _Extent(Struct):
    start_s: float
    end_s: float
    file: str


class DeviceClaims:
    """Keeps which file metered a device at which time. Files are added in the order of their start, and the first one
    keeps its time.

    Memory grows with devices and files, not with windows. Times are Unix seconds.
    """

    def __init__(self) -> None:
        self._past: dict[str, list[_Extent]] = {}
        self._current: dict[str, _Extent] = {}
        self._lost_s: dict[tuple[str, str], float] = {}
        self._file = ""
        self.overlaps: list[Overlap] = []

    def begin(self, file: str) -> None:
        """Begin a file. Files that follow it lose the time that it claims."""
        self._file = file

    def claim(self, key: str, start_s: float, end_s: float) -> bool:
        """Claim a stretch of time of a device. Return whether an earlier file has metered part of it.

        If so, `share` says which part of each window remains."""
        extent = self._current.get(key)
        if extent is None:
            extent = self._current[key] = _Extent(start_s, end_s, self._file)
        extent.start_s, extent.end_s = min(extent.start_s, start_s), max(extent.end_s, end_s)
        return any(past.end_s > start_s and past.start_s < end_s for past in self._past.get(key, ()))

    def claimed_until_s(self, key: str) -> float:
        """Return the last moment at which an earlier file has metered a device of this one, Unix s, or -inf if none
        has.
        """
        return max((past.end_s for past in self._past.get(key, ())), default=float("-inf"))

    def share(self, key: str, start_s: float, duration_s: float) -> float:
        """Return the part of a claimed window of a device, 0 to 1, that no earlier file has metered."""
        end_s = start_s + duration_s
        lost_s = 0.0
        for past in self._past.get(key, ()):
            shared_s = min(end_s, past.end_s) - max(start_s, past.start_s)
            if shared_s > 0 and past.end_s - self._current[key].start_s > TOLERANCE_S:
                lost_s += shared_s
                pair = (key, past.file)
                self._lost_s[pair] = self._lost_s.get(pair, 0.0) + shared_s
        return 1.0 - min(1.0, lost_s / duration_s) if lost_s else 1.0

    def end(self) -> None:
        """Finish the file that `begin` started."""
        for (key, counted_in), duration_s in self._lost_s.items():
            self.overlaps.append(Overlap(key=key, file=self._file, counted_in=counted_in, duration_s=duration_s))
        for key, extent in self._current.items():
            past = self._past.setdefault(key, [])
            past.extend(_outside(extent, past))
        self._current, self._lost_s = {}, {}


def _outside(extent: _Extent, others: list[_Extent]) -> list[_Extent]:
    """Return the pieces of an extent that lie in none of the others, which are disjoint."""
    pieces = []
    start_s = extent.start_s
    for other in sorted(others, key=lambda other: other.start_s):
        if other.start_s > start_s:
            pieces.append(_Extent(start_s, min(other.start_s, extent.end_s), extent.file))
        start_s = max(start_s, other.end_s)
        if start_s >= extent.end_s:
            break
    if start_s < extent.end_s:
        pieces.append(_Extent(start_s, extent.end_s, extent.file))
    return [piece for piece in pieces if piece.end_s > piece.start_s]
