"""Write rows into a run of MLflow: metrics, parameters, tags, and the report as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carbon_plugin.sinks.row import HEAD_KEY, PREFIX, Row, RunDescription, Scalar
from carbon_plugin.sinks.sink import Sink

_MOST_PARAMS = 100
"""MLflow takes this many parameters in one call."""


class MlflowSink(Sink):
    """A run of MLflow: the run that is active on the training thread, or else a new one that ends with the training.

    Every call names the run, because MLflow's active run belongs to one thread.
    """

    name = "mlflow"
    wants_report = True

    def __init__(self) -> None:
        self._users: str | None = None
        self._run_id: str | None = None
        self._client: Any = None
        self._params: dict[str, Scalar] = {}

    def prepare(self) -> None:
        """Take the run that is active on this thread now."""
        import mlflow

        active = mlflow.active_run()
        self._users = None if active is None else active.info.run_id

    def write(self, row: Row) -> None:
        """Log one row, and the parameters that are new."""
        from mlflow.entities import Metric, Param, RunTag

        if self._run_id is None:
            self._open(row.run)
        params = {f"{PREFIX}{name}": value for name, value in row.run.params.items()}
        new = {name: value for name, value in params.items() if name not in self._params}
        changed = {name: value for name, value in params.items() if self._params.get(name, value) != value}
        self._params |= params
        at_ms = round(row.at_unix_s * 1000)
        tags = _tags(row.run) | ({HEAD_KEY: row.head} if row.head is not None else {})
        tags |= {name: str(value) for name, value in changed.items()}  # a parameter can be logged once only
        listed = [Param(name, str(value)) for name, value in new.items()]
        self._client.log_batch(
            self._run_id,
            metrics=[Metric(name, value, at_ms, row.step) for name, value in row.metrics.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        for first in range(0, len(listed), _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=listed[first : first + _MOST_PARAMS])

    def close(self, report: Path | None) -> None:
        """Log the report, and end the run if this sink created it."""
        if self._run_id is None:
            return
        if report is not None:
            self._client.log_artifact(self._run_id, str(report), artifact_path="carbon")
        if self._users is None:
            import mlflow

            mlflow.end_run()
        self._run_id, self._params = None, {}

    def _open(self, run: RunDescription) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        # A run that is started here is active on this thread only.
        self._run_id = self._users or str(mlflow.start_run(run_name=run.name).info.run_id)


def _tags(run: RunDescription) -> dict[str, str]:
    stated = {"run_id": run.run_id, "run_dir": str(run.run_dir), "programme": run.programme, "role": run.role}
    return {f"{PREFIX}{name}": value for name, value in stated.items() if value}
