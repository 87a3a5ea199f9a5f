"""Write rows into an event file of TensorBoard, with TensorBoard's own writer, so that torch is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carbon_plugin.sinks.row import Row, RunDescription
from carbon_plugin.sinks.sink import Sink


class TensorBoardSink(Sink):
    """Writes scalars by optimizer step into `tensorboard/` in the run directory, or into the folder that the target
    names. The text `carbon/run` describes the run.
    """

    name = "tensorboard"

    def __init__(self, target: str = "") -> None:
        self._target = Path(target).absolute() if target else None
        self._writer: Any = None
        self._told: RunDescription | None = None

    def write(self, row: Row) -> None:
        """Write one row as a single event."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            folder = self._target if self._target is not None else row.run.run_dir / "tensorboard"
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventFileWriter(str(folder), filename_suffix=".carbon")
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
        if row.run != self._told:
            self._told = row.run
            values.append(_text("carbon/run", row.run))
        summary = Summary(value=values)
        self._writer.add_event(Event(wall_time=row.at_unix_s, step=row.step, summary=summary))
        self._writer.flush()

    def close(self, report: Path | None) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = self._told = None


def _text(tag: str, run: RunDescription) -> Any:
    """Return the facts of a run as a table for the text page of TensorBoard."""
    from tensorboard.plugins.text.summary_v2 import text_pb

    rows = {"run": run.name, "run id": run.run_id, "run directory": str(run.run_dir), **run.params}
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return text_pb(tag, f"| | |\n|---|---|\n{table}").value[0]
