"""Show each window as one line: through `logging`, or as a progress line on standard error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from carbon_plugin.show.saying import say
from carbon_plugin.sinks.line import line_of
from carbon_plugin.sinks.row import Row
from carbon_plugin.sinks.sink import Sink

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class LoggingSink(Sink):
    """Logs one line for each window at INFO, by the given logger, or else by `carbon_plugin`, which is visible even
    where nobody has configured `logging`.
    """

    name = "logging"

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger

    def write(self, row: Row) -> None:
        """Log one line."""
        if self._logger is None:
            say(line_of(row))
        else:
            self._logger.info("%s", line_of(row))


class ProgressSink(Sink):
    """Shows a progress line on standard error, which is drawn again at each window. Where standard error is no
    terminal, each window gets a line of its own.
    """

    name = "progress"

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def write(self, row: Row) -> None:
        """Draw the line again."""
        from rich.console import Console

        if self._progress is None or self._task is None:
            self._progress = _progress(Console(stderr=True))
            self._task = self._progress.add_task("", total=row.run.total_steps)
            if self._progress.console.is_terminal:
                self._progress.start()
        self._progress.update(self._task, completed=row.step, total=row.run.total_steps, description=line_of(row))
        if self._progress.console.is_terminal:
            self._progress.refresh()
        else:
            self._progress.console.print(line_of(row), markup=False, highlight=False, soft_wrap=True)

    def close(self, report: Path | None) -> None:
        """Leave the last line on the screen."""
        if self._progress is not None and self._progress.console.is_terminal:
            self._progress.stop()
        self._progress = self._task = None


def _progress(console: Console) -> Progress:
    """Return a bar with the line beside it. It redirects none of the training's streams and draws only when told to."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
