"""Compare the records of one ledger file with each other: windows that follow one another, factors, and totals.

`file_check` runs this over a file, and also checks its chain.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.ledger.columns import WindowColumns
from carbon_plugin.ledger.held.copies import fingerprint_of
from carbon_plugin.ledger.held.launches import offsets_in
from carbon_plugin.ledger.reader import Batch
from carbon_plugin.ledger.records import HEADS_EVENT, RESUMED_EVENT, Close, Event, Manifest, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.verification.heads import heads_in, is_complete
from carbon_plugin.spec.numbers.range_array import Floats

# Start times come from the wall clock, which NTP slews by up to 500 ppm, and durations from a monotonic clock.
_CLOCK_TOLERANCE_S = 0.05
_CLOCK_TOLERANCE_SHARE = 1e-3
_MAX_FINDINGS = 20


class WitnessedChain(Struct, frozen=True):
    """Names a chain of another file that a file has written down: in which line, when, and whether it was that file's
    end.
    """

    chain: str
    line: int
    at_unix_s: float
    complete: bool


def end_of(record: Window | Close) -> float:
    """Return the earliest moment at which a record was written, Unix s by the clock of its node."""
    return record.at_unix_s if isinstance(record, Close) else record.start_unix_s + record.duration_s


class RecordCheck:
    """Compares the records of one file with each other."""

    def __init__(self) -> None:
        self.first: Manifest | None = None
        self.closed: Close | None = None
        self.witnessed: dict[str, list[WitnessedChain]] = {}
        self.offsets_s: dict[str, float] = {}
        self.fingerprint: str | None = None
        self.end_unix_s = 0.0
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sums = RunningSums()
        self._factors: tuple[float | None, float | None] = (None, None)
        self._last: Window | None = None
        self._resumed = False

    def feed(self, record: Record, line: int) -> None:
        if self.closed is not None:
            self._problem(f"line {line} comes after the closing record")
        if isinstance(record, Window):
            self._feed_window(record, line)
        elif isinstance(record, Manifest):
            self._feed_manifest(record, line)
        elif isinstance(record, Close):
            self._feed_close(record, line)
        elif isinstance(record, Event):
            self._feed_event(record, line)

    def takes(self, batch: Batch) -> bool:
        """Return whether all records of a batch were taken at once, because `feed` would find nothing to say about its
        windows. Else nothing has changed.
        """
        windows = batch.columns
        if windows is None or self.closed is not None or not self._finds_nothing(windows):
            return False
        found = [record for record in batch.records if isinstance(record, Window)]
        if self._last is None:
            self.fingerprint = fingerprint_of(found[0])
        self._last = found[-1]
        self.end_unix_s = max(self.end_unix_s, float(windows.ends_unix_s.max()))
        self.sums.add_all(windows)
        if batch.others:
            for record, line in zip(batch.records, batch.lines, strict=True):
                if not isinstance(record, Window):
                    self.feed(record, line)
        return True

    def _finds_nothing(self, windows: WindowColumns) -> bool:
        """Return whether windows follow each other and the one before them, and state the factors of their manifest."""
        last = self._last
        expected = 0 if last is None else last.index + 1
        if (windows.indices != np.arange(expected, expected + len(windows))).any():
            return False
        starts_s, ends_s, durations_s = windows.start_unix_s[1:], windows.ends_unix_s[:-1], windows.duration_s[:-1]
        if last is not None:
            starts_s = windows.start_unix_s
            ends_s = np.concatenate(([last.start_unix_s + last.duration_s], ends_s))
            durations_s = np.concatenate(([last.duration_s], durations_s))
            if windows.last_steps[0] < last.last_step:
                return False
        gaps_s = np.abs(starts_s - ends_s)
        if (gaps_s > _CLOCK_TOLERANCE_S + _CLOCK_TOLERANCE_SHARE * durations_s).any():
            return False
        if (windows.last_steps[1:] < windows.last_steps[:-1]).any():
            return False
        pue, intensity = self._factors
        if intensity is not None and "static" in windows.origins:
            static = np.array([origin == "static" for origin in windows.origins])
            if not _all_close(windows.intensity_g_per_kwh[static], intensity):
                return False
        return pue is None or _all_close(windows.pue, pue)

    def _feed_event(self, event: Event, line: int) -> None:
        if event.kind == HEADS_EVENT:
            complete = is_complete(event)
            for file, head in heads_in(event).items():
                seen = WitnessedChain(head, line, event.at_unix_s, complete)
                self.witnessed[file] = [*self.witnessed.get(file, [])[:1], seen]
        elif event.kind == RESUMED_EVENT:
            self._resumed = True
        else:
            self.offsets_s |= offsets_in(event)

    def _feed_manifest(self, manifest: Manifest, line: int) -> None:
        former = self.first
        if former is None:
            self.first = manifest
            self.end_unix_s = manifest.started_unix_s
        elif (manifest.node, manifest.attempt, manifest.run_id) != (former.node, former.attempt, former.run_id):
            self._problem(f"line {line}: a manifest of node {manifest.node} attempt {manifest.attempt} in this file")
        self._factors = _stated_factors(manifest)

    def _feed_window(self, window: Window, line: int) -> None:
        last = self._last
        expected = 0 if last is None else last.index + 1
        if window.index != expected:
            self._problem(f"line {line}: window {window.index} where window {expected} should be")
        if last is not None:
            gap_s = window.start_unix_s - (last.start_unix_s + last.duration_s)
            tolerance_s = _CLOCK_TOLERANCE_S + _CLOCK_TOLERANCE_SHARE * last.duration_s
            if gap_s < -tolerance_s:
                self._problem(f"line {line}: window {window.index} begins {-gap_s:.3f} s before the one before it ends")
            elif gap_s > tolerance_s:
                self._note(f"no energy is known for {gap_s:.3f} s before window {window.index}")
            back = window.last_step < last.last_step
            if back and not self._resumed:
                self._problem(f"line {line}: step {window.last_step} comes after step {last.last_step}")
            self._resumed &= not back
        else:
            self.fingerprint = fingerprint_of(window)
        pue, intensity = self._factors
        if pue is not None and window.pue is not None and not math.isclose(window.pue, pue, rel_tol=1e-9):
            self._problem(f"line {line}: window {window.index} has PUE {window.pue:g}, its manifest {pue:g}")
        stated = window.intensity_g_per_kwh if window.intensity_origin == "static" else None
        if intensity is not None and stated is not None and not math.isclose(stated, intensity, rel_tol=1e-9):
            self._problem(f"line {line}: window {window.index} has {stated:g} g/kWh, its manifest {intensity:g}")
        self._last = window
        self.end_unix_s = max(self.end_unix_s, end_of(window))
        self.sums.add(window)

    def _feed_close(self, close: Close, line: int) -> None:
        self.closed = close
        summed = self.sums
        pairs = [("windows", close.windows, summed.windows), ("steps", close.steps, summed.steps)]
        if close.sums is not None:
            found = msgspec.structs.asdict(summed.sums)
            pairs += [(name, value, found[name]) for name, value in msgspec.structs.asdict(close.sums).items()]
        for name, stated, total in pairs:
            # Sums of floats that are added in another order differ in the last digits.
            if not math.isclose(stated, total, rel_tol=1e-9, abs_tol=1e-6):
                self._problem(
                    f"line {line}: closes with {stated:,} {_SUMS.get(name, name)}, but the file has {total:,}"
                )
        if not math.isclose(close.energy_j, summed.energy_j, rel_tol=1e-9, abs_tol=1e-6):
            self._problem(f"line {line}: closes with {close.energy_j} J, but the windows add up to {summed.energy_j} J")

    def _problem(self, text: str) -> None:
        _add_bounded(self.problems, text, "problems")

    def _note(self, text: str) -> None:
        _add_bounded(self.notes, text, "notes")


_SUMS = {
    "duration_s": "s of windows",
    "low_j": "J as the low of the range",
    "high_j": "J as the high of the range",
    "estimated_j": "J of estimates",
    "emitting": "J g/kWh of emissions",
}


def _stated_factors(manifest: Manifest) -> tuple[float | None, float | None]:
    """Return PUE and intensity of a manifest's factors, as far as they are there.

    A manifest that does not name its file may come from another program than the monitor, which writes a new manifest
    whenever the factors change. Its factors are not compared.
    """
    if not manifest.file:
        return None, None
    pue = _number_at(manifest.factors, "pue", "value")
    return pue, _number_at(manifest.factors, "intensity", "figure", "value")


def _number_at(document: object, *keys: str) -> float | None:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return float(document) if isinstance(document, int | float) and abs(document) < 1e300 else None


def _all_close(stated: Floats, expected: float) -> bool:
    """Return whether all numbers that are stated agree with the expected one as `math.isclose` says."""
    most = 1e-9 * np.maximum(np.abs(stated), abs(expected))
    return bool((np.isnan(stated) | (np.abs(stated - expected) <= most)).all())


def _add_bounded(findings: list[str], text: str, what: str) -> None:
    if len(findings) < _MAX_FINDINGS:
        findings.append(text)
    elif len(findings) == _MAX_FINDINGS:
        findings.append(f"more {what} of this kind are left out")
