"""The pages on loggers and on Prometheus: their code runs, and the table names what there is."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.sinks.choose import KINDS
from tests.pages import ROOT, blocks_of
from tests.ports import free_port

PAGE = (ROOT / "docs" / "loggers.md").read_text(encoding="utf-8")
CODE = [block.code for block in blocks_of("docs/loggers.md", "python")]
PROMETHEUS_CODE = [block.code for block in blocks_of("docs/prometheus.md", "python")]


def open_names(torch: Any, run_dir: Path) -> dict[str, Any]:
    """Return what the code of a page leaves to its reader: a model, its optimizer, a step of training and the
    directory.
    """
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train() -> None:
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "run_dir": run_dir, "train": train}


def test_table_names_every_kind_of_logger():
    named = {
        name for row in re.findall(r"^\| (`\".*?) \|", PAGE, flags=re.MULTILINE) for name in re.findall(r'"(\w+)', row)
    }

    assert named == set(KINDS)


def test_code_of_the_page_runs_and_its_files_have_the_totals(tmp_path):
    torch = pytest.importorskip("torch")
    code = CODE[0]
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    exec(code, {"model": model, "optimizer": optimizer, "batch": torch.ones(1, 4), "run_dir": tmp_path / "run"})

    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["step"] == "30"
    assert float(last["carbon/energy_kwh"]) > 0


def test_function_of_the_page_hands_rows_to_a_run_as_that_of_aim(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    tracked: list[tuple[str, float, int]] = []

    class Run:
        def __init__(self, experiment: str) -> None: ...

        def track(self, value: float, name: str, step: int) -> None:
            tracked.append((name, value, step))

    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Run=Run))
    run_dir = tmp_path / "run"
    exec(CODE[1], open_names(torch, run_dir))

    (energy_kwh,) = [value for name, value, step in tracked if name == "carbon/energy_kwh" and step == 1]
    assert energy_kwh == pytest.approx(summarise(run_dir).energy.energy_j / 3.6e6)


@pytest.mark.usefixtures("patient_sender")
def test_code_of_the_page_on_opentelemetry_sends_the_totals_to_a_receiver(tmp_path, receiver):
    torch = pytest.importorskip("torch")
    code = PROMETHEUS_CODE[1]
    run_dir = tmp_path / "run"
    exec(code.replace("//localhost:4318", receiver.address), open_names(torch, run_dir))

    value, unit, attributes, monotonic = receiver.requests[-1]["carbon_plugin.energy", ""]
    assert value == pytest.approx(summarise(run_dir).energy.energy_j)
    assert (unit, monotonic) == ("J", True)
    assert attributes["carbon_plugin.run.id"]


def test_training_of_the_page_on_prometheus_is_scraped_with_its_totals(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")
    code = PROMETHEUS_CODE[0]
    port = free_port()
    run_dir = tmp_path / "run"
    exec(code.replace(":9440", f":{port}"), open_names(torch, run_dir))
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=240) as answer:
        text = answer.read().decode()

    found = re.search(r'^carbon_plugin_energy_joules_total\{.*team="nlp"\} (\S+)$', text, flags=re.MULTILINE)
    assert found
    assert float(found[1]) == pytest.approx(summarise(run_dir).energy.energy_j)
