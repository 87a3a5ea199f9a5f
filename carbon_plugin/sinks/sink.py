"""Define how every sink handles rows. Each module of this package is one kind of sink."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.sinks.row import Row


class NotTakenError(Exception):
    """A service that may answer again did not accept a row. The sink goes on with the next row."""


class Sink:
    """Takes the rows of a run on a thread of its own. A subclass overrides the methods that it needs.

    `name` is the name of the sink in warnings. `wants_report` says whether `close` gets the report of the run. A sink
    may be prepared again after it was closed, because a process can train more than once.
    """

    name = "sink"
    wants_report = False

    def prepare(self) -> None:
        """Take from the training thread what only that thread knows, such as its active run. This must not wait."""

    def write(self, row: Row) -> None:
        """Write one row. This may wait and may raise. After any exception but `NotTakenError` the sink is not used
        again.
        """
        raise NotImplementedError

    def alert(self, title: str, text: str) -> None:
        """Hand an alert to a service that has alerts. This is called on another thread than `write`."""

    def close(self, report: Path | None) -> None:
        """Write the rows that wait, and release everything, after the last row. `report` is the report of the run as an
        HTML file, or None where there is none.
        """

    def forget(self) -> None:
        """Release in a forked child what belongs to the parent, such as a listening socket."""
