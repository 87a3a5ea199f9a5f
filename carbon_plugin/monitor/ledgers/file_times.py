"""Follow the times of one ledger from its records and this process's clock."""

from __future__ import annotations

import time

from carbon_plugin.ledger.held.clocks import TimedFile
from carbon_plugin.ledger.records import Manifest, Window


class FileTimes:
    """Holds the first and the last moment of one ledger so far, Unix s by its own clock.

    `heard_s` is when its last window was taken in, by the monotonic clock of this process, and `last_window_s` is how
    long that window lasted.
    """

    def __init__(self) -> None:
        self.started_s = 0.0
        self.end_s = 0.0
        self.heard_s = 0.0
        self.last_window_s = 0.0
        self._trained_until_s: float | None = None  # end of the last window with a step
        self._windows_until_s: float | None = None

    def begin(self, at_unix_s: float) -> None:
        """Take the moment of the first manifest."""
        self.started_s = self.end_s = at_unix_s

    def add(self, window: Window) -> None:
        """Take the times of the next window."""
        end_s = window.start_unix_s + window.duration_s
        self.last_window_s = window.duration_s
        self.end_s = max(self.end_s, end_s)
        self._windows_until_s = max(self._windows_until_s or end_s, end_s)
        if window.steps:
            self._trained_until_s = max(self._trained_until_s or end_s, end_s)
        self.heard_s = time.monotonic()

    def close(self, at_unix_s: float) -> None:
        """Take the moment of the closing record."""
        self.end_s = max(self.end_s, at_unix_s)

    def timed(self, name: str, manifest: Manifest | None, *, left: bool) -> TimedFile:
        """Return the facts of the file with this name by which clocks are compared, as `ledger.held.outline` finds them
        in the file. `left` says whether another file continues it.
        """
        until_s = self._windows_until_s if left or self._trained_until_s is None else self._trained_until_s
        return TimedFile(
            name=name,
            host_key=manifest.host_key if manifest else "",
            node=manifest.node if manifest else 0,
            started_unix_s=self.started_s,
            end_unix_s=self.started_s if until_s is None else max(self.started_s, until_s),
            started_boot_s=manifest.started_boot_s if manifest else None,
        )
