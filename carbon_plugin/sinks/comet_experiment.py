"""Write rows into an experiment of Comet: metrics, parameters, and the report as an asset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carbon_plugin.sinks.row import HEAD_KEY, PREFIX, Row, RunDescription
from carbon_plugin.sinks.sink import Sink

_BY_ITSELF = (
    "log_code", "log_graph", "auto_param_logging", "auto_metric_logging", "parse_args", "auto_output_logging",
    "log_env_details", "log_git_metadata", "log_git_patch",
)  # fmt: skip
"""What an experiment of Comet logs without being asked."""


class CometSink(Sink):
    """An experiment of Comet: the running one, or else a new one that ends with the training.

    A new experiment is online where Comet finds an API key. Otherwise it is an archive in `comet/` in the run
    directory, which `comet upload` sends.
    """

    name = "comet"
    wants_report = True

    def __init__(self) -> None:
        self._users: Any = None
        self._experiment: Any = None
        self._told: RunDescription | None = None

    def prepare(self) -> None:
        """Take the experiment that is running now."""
        import comet_ml

        self._users = comet_ml.get_running_experiment()

    def write(self, row: Row) -> None:
        """Log one row, and the parameters when they have changed."""
        if self._experiment is None:
            self._experiment = self._users or _new(row.run)
        if row.run != self._told:
            self._told = row.run
            described = {"run_id": row.run.run_id, "run_dir": str(row.run.run_dir), **row.run.params}
            self._experiment.log_parameters({f"{PREFIX}{name}": value for name, value in described.items()})
        self._experiment.log_metrics(dict(row.metrics), step=row.step)
        if row.head is not None:
            self._experiment.log_other(HEAD_KEY, row.head)

    def close(self, report: Path | None) -> None:
        """Log the report, and end the experiment if this sink created it."""
        if self._experiment is None:
            return
        if report is not None:
            self._experiment.log_asset(str(report), file_name="carbon-report.html")
        if self._users is None:
            self._experiment.end()
        self._experiment = self._told = None


def _new(run: RunDescription) -> Any:
    """Return an experiment that logs nothing by itself, because it is used only for these figures."""
    import comet_ml

    folder = run.run_dir / "comet"
    folder.mkdir(parents=True, exist_ok=True)
    quiet: dict[str, Any] = dict.fromkeys(_BY_ITSELF, False)
    config = comet_ml.ExperimentConfig(name=run.name, offline_directory=str(folder), **quiet)
    # Without the argument, `start` asks for a key on the terminal where there is none.
    return comet_ml.start(online=bool(comet_ml.get_config("comet.api_key")), experiment_config=config)
