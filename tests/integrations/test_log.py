"""`log=`: what a user names or hands over gets each row of figures once, from a plain loop with real windows."""

from __future__ import annotations

import copy
import csv
import json
import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import WatchError
from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.monitor.loggers import Loggers, loggers_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.show.wording import energy
from carbon_plugin.sinks import delivery
from carbon_plugin.spec.budget import CarbonBudget
from tests.sinks.wandb_file import records_of

Row = tuple[int, dict[str, float]]
WINDOWS = 3


class Rows:
    """A function that keeps what it is given, and on which thread."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.threads: set[str] = set()

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.rows.append((step, metrics))


class Run:
    """As a run of W&B."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is not None
        self.rows.append((step, data))


class Metrics:
    """As a logger of Lightning, or the module `mlflow`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, metrics))


class Scalars:
    """As a SummaryWriter."""

    def __init__(self) -> None:
        self.by_step: dict[int, dict[str, float]] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        assert global_step is not None
        self.by_step.setdefault(global_step, {})[tag] = scalar_value


class Full:
    """A tracker whose disk is full from its second row on."""

    def __init__(self) -> None:
        self.calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls += 1
        metrics.clear()  # nobody else's row
        if self.calls > 1:
            raise OSError("No space left on device")


class Hung:
    """A tracker that never returns from its first call."""

    def __init__(self) -> None:
        self.taken = 0
        self.let_go = threading.Event()

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.taken += 1
        self.let_go.wait()


class Named:
    """A logger with a method of the right name and another meaning."""

    def log(self, name: str, value: float) -> None: ...


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Wait for a logger at the end as long as a busy machine takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "CLOSE_S", 240.0)
        yield


def train(
    run_dir: Path,
    log: Any,
    windows: int = WINDOWS,
    budget: CarbonBudget | None = None,
    also: Callable[[], bool] = lambda: True,
) -> None:
    """Train until so many windows are in the ledger and were seen, and something else holds."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = MonitorOptions(min_window_s=0.1)
    with watch(
        model, optimizer, run_dir=run_dir, site="FRA", window_s=0.2, quiet=True, log=log, options=options, budget=budget
    ) as carbon:
        seen: list[float] = []
        while len(seen) < windows or not also():
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            time.sleep(0.005)
            energy = carbon.metrics().get("carbon/energy_kwh")
            if energy is not None and energy not in seen:
                seen.append(energy)
            if carbon.monitor.step > 20_000:
                pytest.fail("no window came")
    assert carbon.monitor.step > windows


class Trained:
    def __init__(self, folder: Path) -> None:
        self.rows, self.run, self.metrics, self.scalars, self.full = Rows(), Run(), Metrics(), Scalars(), Full()
        self.lines, named = Lines(), logging.getLogger("a user's own")
        named.addHandler(self.lines)
        named.setLevel(logging.INFO)
        train(folder, [self.rows, self.run, self.full, self.metrics, self.scalars, named, "csv", "jsonl"])
        with (folder / "metrics.csv").open(newline="") as cells:
            self.csv = list(csv.DictReader(cells))
        self.jsonl = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        (self.file,) = read_run(folder).files
        self.windows = sum(isinstance(record, Window) for record in self.file.records)
        self.energy_kwh = summarise(folder).energy.energy_j / 3.6e6


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("log") / "run")


def test_each_window_is_one_row_and_no_step_has_two(trained):
    steps = [step for step, _ in trained.rows.rows]

    assert WINDOWS <= len(steps) <= trained.windows + 1
    assert steps == sorted(steps)
    assert len({metrics["carbon/energy_kwh"] for _, metrics in trained.rows.rows}) == len(steps)


def test_last_row_is_the_total_of_the_run(trained):
    assert trained.rows.rows[-1][1]["carbon/energy_kwh"] == pytest.approx(trained.energy_kwh)


def test_no_row_is_written_on_the_thread_that_trains_nor_on_that_of_the_monitor(trained):
    assert len(trained.rows.threads) == 1
    assert not trained.rows.threads & {threading.current_thread().name, "carbon-plugin"}


def test_every_kind_of_logger_gets_the_same_rows(trained):
    assert trained.run.rows == trained.metrics.rows == trained.rows.rows
    assert trained.scalars.by_step == dict(trained.rows.rows)
    assert len(trained.lines.lines) == len(trained.rows.rows)
    assert trained.lines.lines[-1].startswith(f"step {trained.rows.rows[-1][0]}, ")
    assert f"spent {energy(trained.energy_kwh * 3.6e6)}" in trained.lines.lines[-1]


def test_files_that_are_named_hold_the_same_rows(trained):
    steps = [step for step, _ in trained.rows.rows]
    energies = [metrics["carbon/energy_kwh"] for _, metrics in trained.rows.rows]

    assert [(int(row["step"]), float(row["carbon/energy_kwh"])) for row in trained.csv] == list(
        zip(steps, energies, strict=True)
    )
    assert [(row["step"], row["carbon/energy_kwh"]) for row in trained.jsonl] == list(zip(steps, energies, strict=True))
    assert trained.csv[-1]["carbon/ledger_head"] == trained.file.head


def test_ranks_beside_the_first_hand_over_nothing(tmp_path):
    rows = Rows()
    options, ranks = MonitorOptions(min_window_s=0.1), Ranks(rank=1, local_rank=1, world_size=2, local_world_size=2)

    with CarbonMonitor(run_dir=tmp_path, window_s=0.2, quiet=True, options=options, ranks=ranks, log=rows) as monitor:
        monitor.step_end()

    assert rows.rows == []
    assert rows.threads == set()


def test_logger_that_hangs_holds_neither_the_training_nor_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_S", 0.5)
    hung, rows = Hung(), Rows()

    train(tmp_path / "run", [hung, rows], also=lambda: len(rows.rows) > 1)

    hung.let_go.set()
    assert hung.taken == 1


def test_logger_that_fails_is_dropped_with_one_event_and_the_others_go_on(trained):
    faults = [record for record in trained.file.records if isinstance(record, Event) and record.kind == "fault"]

    assert trained.full.calls == 2
    assert [fault.message for fault in faults] == ["log Full: OSError: No space left on device"]


@pytest.mark.parametrize(
    "log",
    ["tensorbord", 3, object(), Scalars, [Rows(), None], lambda metrics: None, Named(), {"a": 1}],
    ids=["text", "number", "object", "class", "none in a list", "one argument", "other meaning", "mapping"],
)
def test_what_is_no_logger_raises_before_training(log, tmp_path):
    with pytest.raises(WatchError, match="log is"):
        watch(nn.Linear(2, 2), log=log, run_dir=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_function_that_cannot_take_a_row_is_called_by_its_name(tmp_path):
    with pytest.raises(WatchError, match=r"list\.append\(object, /\) cannot be called with figures and a step"):
        watch(nn.Linear(2, 2), log=[].append, run_dir=tmp_path / "run")


def test_copies_of_loggers_write_nothing():
    rows = Rows()
    loggers = loggers_of([rows, lambda metrics, step: None])
    loggers.add(rows)

    for twin in (copy.deepcopy(loggers), pickle.loads(pickle.dumps(loggers))):
        assert list(twin.write({"carbon/power_w": 1.0}, 1)) == []
        assert not twin.has_sinks
    assert rows.rows == []
    assert not Loggers()


def test_real_tensorboard_writes_one_event_a_row(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; `make test` installs it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    rows = Rows()
    with SummaryWriter(str(tmp_path / "events")) as writer:
        train(tmp_path / "run", [writer, rows], windows=1)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()

    written = {event.step: event.value for event in events.Scalars("carbon/energy_kwh")}
    assert written == pytest.approx({step: metrics["carbon/energy_kwh"] for step, metrics in rows.rows}, rel=1e-6)
    assert Counter(events.Tags()["scalars"]) == Counter({name for _, row in rows.rows for name in row})


@pytest.mark.exhaustive
def test_real_wandb_run_writes_the_rows(tmp_path, offline_wandb):
    rows = Rows()

    with offline_wandb.init(project="tests") as run:
        train(tmp_path / "run", [run, rows], windows=1)
    offline_wandb.teardown()  # its process writes the file to the end
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    content = file.read_bytes()
    assert all(repr(metrics["carbon/energy_kwh"]).encode() in content for _, metrics in rows.rows)


@pytest.mark.exhaustive
@pytest.mark.parametrize("given", ["a run", "a name"])
def test_an_alert_is_one_of_the_wandb_run_whether_it_is_handed_over_or_named(tmp_path, offline_wandb, given):
    from wandb.proto.wandb_internal_pb2 import Record

    budget = CarbonBudget(energy_kwh=1e-12)  # exceeded at once
    if given == "a run":
        with offline_wandb.init(project="tests") as run:
            train(tmp_path / "run", run, windows=2, budget=budget)
    else:
        train(tmp_path / "run", "wandb", windows=2, budget=budget)
    offline_wandb.teardown()  # its process writes the file to the end
    (file,) = tmp_path.rglob("offline-run-*/*.wandb")
    records = [Record.FromString(data) for data in records_of(file.read_bytes())]
    (alert,) = (record.alert for record in records if record.WhichOneof("record_type") == "alert")
    (ledger,) = read_run(tmp_path / "run").files
    (event,) = (one for one in ledger.records if isinstance(one, Event) and one.kind == "budget_exceeded")

    assert alert.title == "carbon_plugin: budget exceeded"
    assert alert.text == event.message
    assert event.message.startswith("the budget is exceeded at step ")


@pytest.mark.exhaustive
def test_real_mlflow_takes_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than what is tested here
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    rows = Rows()

    with mlflow.start_run() as run:
        train(tmp_path / "run", [mlflow, rows], windows=1)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "carbon/energy_kwh")

    assert [(metric.step, metric.value) for metric in history] == [
        (step, metrics["carbon/energy_kwh"]) for step, metrics in rows.rows
    ]
