"""TensorBoard, W&B, MLflow and Comet: what was written is read back from the real store."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.sinks import delivery, report_file
from carbon_plugin.sinks.choose import sinks_of
from carbon_plugin.sinks.delivery import Delivery
from carbon_plugin.sinks.row import Row
from tests.sinks.wandb_file import records_of

PATIENCE_S = 240.0
"""A busy machine may take so long to end a client, which is no fault of the store."""


@pytest.fixture
def delivered(rows, tmp_path, monkeypatch) -> Callable[[Any], list[Row]]:
    """Hand three rows to what a user gives as `log=`, and a report at the end, from this thread as a training does."""
    report = tmp_path / "run" / "report.html"
    monkeypatch.setattr(report_file.ReportFile, "_written", lambda self: report)
    monkeypatch.setattr(delivery, "CLOSE_S", PATIENCE_S)

    def run(log: Any) -> list[Row]:
        troubles: list[tuple[str, BaseException]] = []
        handed = rows(3)
        report.write_text("<html>the report</html>")
        one = Delivery(sinks_of(log), lambda *trouble: troubles.append(trouble), lambda: None)
        one.start()
        for row in handed[:-1]:
            one.put(row)
        one.close(handed[-1], report.parent)
        assert troubles == []
        return handed

    return run


def by_step(handed: list[Row], key: str) -> dict[int, float]:
    return {row.step: row.metrics[key] for row in handed}


def test_tensorboard_holds_every_figure_by_step_and_what_describes_the_run(delivered, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; `make test` installs it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    handed = delivered("tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()

    assert set(events.Tags()["scalars"]) == set(handed[0].metrics)
    for key in ("carbon/energy_kwh", "carbon/projected_total_kg_high"):
        read = {event.step: event.value for event in events.Scalars(key)}
        assert read == pytest.approx(by_step(handed, key), rel=1e-6)
    (text,) = events.Tensors("carbon/run")
    assert b"| layout.tp | 8 |" in text.tensor_proto.string_val[0]


@pytest.fixture
def wandb_rows(
    tmp_path, offline_wandb
) -> Callable[[], tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], list[str]]]:
    """Return rows, summary, configuration and names of artifacts of the only offline run below the test's folder."""

    def read() -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], list[str]]:
        from wandb.proto.wandb_internal_pb2 import Record

        offline_wandb.teardown()  # its process writes the file to the end
        (file,) = tmp_path.rglob("offline-run-*/*.wandb")
        history, summary, config, artifacts = [], {}, {}, []
        for data in records_of(file.read_bytes()):
            record = Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                history.append(
                    {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                )
            if kind == "summary":
                summary |= {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
                }
            if kind in ("run", "config"):
                updates = (record.run.config if kind == "run" else record.config).update
                config |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
            if kind == "artifact":
                artifacts.append(record.artifact.name)
            if kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                artifacts.append(record.request.log_artifact.artifact.name)
        return history, summary, config, artifacts

    read.wandb = offline_wandb  # type: ignore[attr-defined]
    return read


@pytest.mark.exhaustive
def test_new_wandb_run_holds_rows_summary_configuration_and_report(delivered, wandb_rows):
    handed = delivered("wandb")
    history, summary, config, artifacts = wandb_rows()

    assert wandb_rows.wandb.run is None, "the run is not the active one of the program"
    assert {row["carbon/step"]: row["carbon/energy_kwh"] for row in history} == by_step(handed, "carbon/energy_kwh")
    assert summary["carbon/ledger_head"] == handed[-1].head
    assert config["carbon"] | {"layout.tp": 8, "run_id": "run-1"} == config["carbon"]
    assert artifacts == ["carbon-report-run-1"]


@pytest.mark.exhaustive
def test_rows_join_what_the_user_logs_and_lose_none_of_it(rows, wandb_rows, tmp_path):
    handed = rows(3)
    with wandb_rows.wandb.init(dir=str(tmp_path), project="tests") as run:
        (sink,) = sinks_of("wandb")
        sink.prepare()
        for number, row in enumerate(handed):
            run.log({"loss": 1.0}, step=2 * number)
            sink.write(row)
            run.log({"validation": 0.5}, step=2 * number)  # the same step again
        run.log({"loss": 0.1}, step=6)
        sink.close(None)
    history, summary, _, _ = wandb_rows()

    assert [(row["_step"], row.get("loss"), row.get("validation")) for row in history] == [
        (0, 1.0, 0.5), (2, 1.0, 0.5), (4, 1.0, 0.5), (6, 0.1, None),
    ]  # fmt: skip
    assert {row["carbon/step"]: row["carbon/energy_kwh"] for row in history if "carbon/step" in row} == by_step(
        handed, "carbon/energy_kwh"
    )
    assert summary["carbon/energy_kwh"] == handed[-1].metrics["carbon/energy_kwh"]


@pytest.mark.exhaustive
def test_run_of_the_user_who_logs_nothing_gets_every_row(delivered, wandb_rows, tmp_path):
    with wandb_rows.wandb.init(dir=str(tmp_path), project="tests") as run:
        handed = delivered(run)
    history, _, _, _ = wandb_rows()

    assert {row["carbon/step"]: row["carbon/energy_kwh"] for row in history} == by_step(handed, "carbon/energy_kwh")


FALLS_THROUGH = f"""
import sys
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.sinks import delivery, report_file
delivery.CLOSE_S = report_file.REPORT_S = {PATIENCE_S}
monitor = CarbonMonitor(run_dir=sys.argv[1], name="llama", site="FRA", quiet=True, log=sys.argv[2])
monitor.start()
monitor.step_end()
while not monitor.metrics():  # the training goes on until its figures are there
    pass
"""


def falls_through(folder: Path, log: str) -> float:
    """Train in a process that never closes the training, and return the energy of the run, kWh."""
    done = subprocess.run(
        [sys.executable, "-c", FALLS_THROUGH, str(folder / "run"), log],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr
    return summarise(folder / "run").energy.energy_j / 3.6e6


@pytest.mark.exhaustive
def test_wandb_run_of_a_script_that_falls_through_has_the_totals_and_the_report(wandb_rows, tmp_path):
    energy_kwh = falls_through(tmp_path, "wandb")
    history, _, _, artifacts = wandb_rows()

    assert history[-1]["carbon/energy_kwh"] == pytest.approx(energy_kwh)
    assert len(artifacts) == 1


@pytest.mark.exhaustive
def test_mlflow_run_of_a_script_that_falls_through_has_the_totals_and_the_report(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "carbon")

    energy_kwh = falls_through(tmp_path, "mlflow")
    run = only_run(mlflow)

    assert run.data.metrics["carbon/energy_kwh"] == pytest.approx(energy_kwh)
    assert run.info.status == "FINISHED"
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "carbon")] == [
        "carbon/report.html"
    ]


@pytest.mark.exhaustive
def test_comet_archive_of_a_script_that_falls_through_has_the_totals(tmp_path, monkeypatch):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    monkeypatch.delenv("COMET_API_KEY", raising=False)

    energy_kwh = falls_through(tmp_path, "comet")
    (archive,) = (tmp_path / "run" / "comet").glob("*.zip")

    with zipfile.ZipFile(archive) as content:
        metrics = [
            m for line in content.read("messages.json").splitlines() if (m := json.loads(line)["payload"].get("metric"))
        ]
    last = [float(m["metricValue"]) for m in metrics if m["metricName"] == "carbon/energy_kwh"][-1]
    assert last == pytest.approx(energy_kwh)


@pytest.fixture
def mlflow(tmp_path, monkeypatch, request) -> Any:
    """Return the module `mlflow` with a store below the test's folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    module = pytest.importorskip("mlflow", reason="mlflow is not installed")
    store = getattr(request, "param", "file")
    folder = tmp_path / "mlruns"
    module.set_tracking_uri(folder.as_uri() if store == "file" else f"sqlite:///{tmp_path / 'mlflow.db'}")
    if store != "file":
        module.set_experiment(experiment_id=module.create_experiment("carbon", artifact_location=folder.as_uri()))
    else:
        module.set_experiment("carbon")
    return module


def only_run(mlflow: Any) -> Any:
    (run,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("carbon").experiment_id])
    return run


@pytest.mark.exhaustive
@pytest.mark.parametrize("mlflow", ["file", "sqlite"], indirect=True)
def test_mlflow_holds_metrics_parameters_tags_and_report(mlflow, delivered):
    with mlflow.start_run() as active:
        handed = delivered("mlflow")
        assert mlflow.active_run().info.run_id == active.info.run_id
    run, client = only_run(mlflow), mlflow.MlflowClient()

    history = client.get_metric_history(run.info.run_id, "carbon/energy_kwh")
    assert {metric.step: metric.value for metric in history} == by_step(handed, "carbon/energy_kwh")
    assert run.data.metrics["carbon/energy_kwh"] == handed[-1].metrics["carbon/energy_kwh"]
    assert run.data.params == {
        "carbon/layout.tp": "8", "carbon/model.name": "llama-3-8b", "carbon/training.precision": "bf16",
    }  # fmt: skip
    assert run.data.tags["carbon/ledger_head"] == handed[-1].head
    assert run.data.tags["carbon/programme"] == "Llama"
    report = client.download_artifacts(run.info.run_id, "carbon/report.html")
    assert Path(report).read_text() == "<html>the report</html>"


@pytest.mark.exhaustive
def test_without_a_run_mlflow_gets_one_that_is_never_the_active_one(mlflow, delivered):
    handed = delivered(mlflow)
    run = only_run(mlflow)

    assert mlflow.active_run() is None
    assert (run.info.status, run.info.run_name) == ("FINISHED", "llama")
    assert run.data.metrics["carbon/energy_kwh"] == handed[-1].metrics["carbon/energy_kwh"]


@pytest.mark.exhaustive
def test_comet_archive_holds_metrics_parameters_and_report(delivered, tmp_path, monkeypatch):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    handed = delivered("comet")
    (archive,) = (tmp_path / "run" / "comet").glob("*.zip")

    with zipfile.ZipFile(archive) as content:
        messages = [json.loads(line)["payload"] for line in content.read("messages.json").splitlines()]
        files = [content.read(name) for name in content.namelist()]
    metrics = [message["metric"] for message in messages if message.get("metric")]
    energies = {
        metric["step"]: float(metric["metricValue"])
        for metric in metrics
        if metric["metricName"] == "carbon/energy_kwh"
    }
    assert energies == by_step(handed, "carbon/energy_kwh")
    text = json.dumps(messages)
    assert "carbon/layout.tp" in text
    assert handed[-1].head in text
    assert b"<html>the report</html>" in files
