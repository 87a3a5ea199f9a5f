"""The page on loggers: its code runs, and its table names what there is."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from carbon_plugin.sinks.choose import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")


def test_table_names_every_kind_of_logger():
    named = {
        name for row in re.findall(r"^\| (`\".*?) \|", PAGE, flags=re.MULTILINE) for name in re.findall(r'"(\w+)', row)
    }

    assert named == set(KINDS)


def test_code_of_the_page_runs_and_its_files_have_the_totals(tmp_path):
    torch = pytest.importorskip("torch")
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    exec(code, {"model": model, "optimizer": optimizer, "batch": torch.ones(1, 4), "run_dir": tmp_path / "run"})

    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["step"] == "30"
    assert float(last["carbon/energy_kwh"]) > 0
