"""Write rows into a run of Weights & Biases: metrics, summary, configuration, and the report as an artifact."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from carbon_plugin.sinks.row import HEAD_KEY, PREFIX, Row, RunDescription, Scalar
from carbon_plugin.sinks.sink import Sink

STEP_KEY = PREFIX + "step"
"""The axis of the `carbon/*` figures, which is the optimizer step of the run."""
_MOST_KEPT = 10_000


class WandbSink(Sink):
    """A run of W&B: the given one, or the active one, or else a new one that ends with the training.

    A run of the user has one axis of steps, and drops a row whose step lies before the last one. The figures are
    therefore added, without a step, to the row that the user logs next, and have an axis of their own. If the user logs
    nothing to a run, all rows are written at the end.
    """

    name = "wandb"
    wants_report = True

    def __init__(self, run: Any = None) -> None:
        self._given = run
        self._users: Any = None
        self._run: Any = None
        self._opened_at = 0
        self._kept: deque[dict[str, Scalar]] = deque(maxlen=_MOST_KEPT)
        self._told: RunDescription | None = None
        self._alerts: deque[tuple[str, str]] = deque(maxlen=_MOST_KEPT)

    def prepare(self) -> None:
        """Take the run that is active now."""
        import wandb

        self._users = self._given or wandb.run

    def write(self, row: Row) -> None:
        """Log one row, and the configuration when it has changed."""
        if self._run is None:
            self._open(row.run)
        if row.run != self._told:
            self._told = row.run
            self._run.config.update({"carbon": _config(row.run)}, allow_val_change=True)
        cells: dict[str, Scalar] = {STEP_KEY: row.step, **row.metrics}
        if row.head is not None:
            self._run.summary[HEAD_KEY] = row.head
        if self._users is None:
            self._run.log(cells)
        else:
            self._kept.append(cells)
            self._run.log(cells, commit=False)

    def alert(self, title: str, text: str) -> None:
        """Send a W&B alert, which W&B forwards by mail or Slack. The call waits for the run, which begins with its
        first row.
        """
        self._alerts.append((title, text))
        self._send_alerts()

    def close(self, report: Path | None) -> None:
        """Log the report, and end the run if this sink created it."""
        import wandb

        if self._run is None:
            return
        if self._kept and self._run.step == self._opened_at:  # the user has logged nothing
            for cells in self._kept:
                self._run.log(cells)
        if self._kept:
            self._run.summary.update(self._kept[-1])
        if report is not None and self._told is not None:
            artifact = wandb.Artifact(f"carbon-report-{self._told.run_id}", type="carbon-report")
            artifact.add_file(str(report), name="report.html")
            self._run.log_artifact(artifact)
        if self._users is None:
            self._run.finish()
        self._run = self._told = None
        self._kept.clear()

    def _send_alerts(self) -> None:
        while self._run is not None and self._alerts:
            title, text = self._alerts.popleft()
            self._run.alert(title=title, text=text)

    def _open(self, run: RunDescription) -> None:
        import wandb

        # A run of ours must not become the active one, which the user's own `wandb.init` would then find.
        self._run = self._users or wandb.init(
            name=run.name, dir=str(run.run_dir), job_type="carbon", reinit="create_new"
        )
        self._opened_at = self._run.step
        self._run.define_metric(STEP_KEY)
        self._run.define_metric(f"{PREFIX}*", step_metric=STEP_KEY)
        self._send_alerts()


def _config(run: RunDescription) -> dict[str, Scalar]:
    stated = {"programme": run.programme, "role": run.role, "total_steps": run.total_steps}
    known: dict[str, Scalar] = {name: value for name, value in stated.items() if value is not None}
    return {"run_id": run.run_id, "run_dir": str(run.run_dir), **known, **run.params}
