"""Define what every sink does with rows. One module of this package is one kind of sink."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.sinks.row import Row


class NotTakenError(Exception):
    """A row was not taken by a service that may answer again. The sink goes on with the next row."""


class Sink:
    """Takes the rows of a run, on a thread of its own. A subclass overrides what it needs.

    `name` is what the user reads in a warning. `wants_report` says whether `close` is to be given the report of the
    run. A sink may be prepared again after it was closed, because a process can train more than once.
    """

    name = "sink"
    wants_report = False

    def prepare(self) -> None:
        """Take what only the training thread can tell, such as the run that is active there. This must not wait."""

    def write(self, row: Row) -> None:
        """Write one row. This may wait and may raise; the sink is used no more after it has raised anything but
        `NotTakenError`."""
        raise NotImplementedError

    def alert(self, title: str, text: str) -> None:
        """Hand an alert to a service that has something of the kind. It is called on another thread than `write`."""

    def close(self, report: Path | None) -> None:
        """Write what still waits and release everything, after the last row. `report` is the report of the run as an
        HTML file, or None where there is none."""

    def forget(self) -> None:
        """Release in a forked child what belongs to the parent, such as a socket that listens."""
