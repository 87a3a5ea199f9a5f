"""Readers are asked in order, only where their framework is in use, and none of them can harm the look."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from carbon_plugin.detect.job import Job
from carbon_plugin.detect.live import detect
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers.order import READERS, Reader, read_all

JOB = Job(model=nn.Linear(2, 2), world_size=4)

MODULES = {
    "engine": 'return Findings(fields={"layout.tp": Observed(2, "engine")}, parameters=(100, 10))',
    "mesh": """return Findings(
        fields={"layout.tp": Observed(4, "mesh"), "layout.pp": Observed(job.degree("tp"), "mesh")}
    )""",
    "broken": 'raise KeyError("renamed")',
    "absent": "return None",
}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Provide a function that makes a reader whose module is written here. Its framework is a loaded one unless told
    otherwise.
    """
    monkeypatch.syspath_prepend(tmp_path)
    head = "from carbon_plugin.detect.observed import Observed\nfrom carbon_plugin.detect.job import Findings\n\n"

    def make(name: str, needs: str = "torch") -> Reader:
        module = f"reader_of_{name}"
        (tmp_path / f"{module}.py").write_text(f"{head}def read(job):\n    {MODULES[name]}\n")
        return Reader(needs, module)

    yield make
    for name in MODULES:
        sys.modules.pop(f"reader_of_{name}", None)


def test_first_reader_is_believed_and_contradiction_is_said(reader):
    reading = read_all(JOB, (reader("engine"), reader("mesh")))

    assert reading.fields["layout.tp"] == Observed(2, "engine")
    assert reading.problems == (("conflict", "layout.tp: 2 by engine, but 4 by mesh"),)
    assert reading.parameters == (100, 10)


def test_reader_knows_what_those_before_it_showed(reader):
    assert read_all(JOB, (reader("engine"), reader("mesh"))).fields["layout.pp"].value == 2
    assert read_all(JOB, (reader("mesh"),)).fields["layout.pp"].value == 1


def test_what_an_adapter_told_wins(reader):
    job = Job(model=JOB.model, world_size=4, known={"layout.tp": Observed(1, "told")})

    assert read_all(job, (reader("engine"),)).fields["layout.tp"].value == 1


def test_reader_of_a_framework_that_is_not_loaded_is_not_loaded_either(reader):
    reading = read_all(JOB, (reader("engine", needs="a_framework_that_nobody_imported"), reader("absent")))

    assert reading.fields == {}
    assert "reader_of_engine" not in sys.modules


def test_reader_that_raises_costs_only_its_own_fields(reader):
    reading = read_all(JOB, (reader("broken"), reader("engine")))

    assert reading.fields["layout.tp"].value == 2
    assert reading.problems == (("not_detected", "reader_of_broken: KeyError: 'renamed'"),)


def test_no_reader_is_asked_after_the_deadline(reader):
    reading = read_all(Job(model=JOB.model, world_size=4, deadline_s=0.0), (reader("engine"),))

    assert reading.fields == {}
    assert reading.problems == (("not_detected", "reader_of_engine: no time was left for it"),)


def test_every_registered_reader_can_be_loaded():
    import_module("torch.distributed.pipelining.schedules")  # in use, as far as its reader can know
    model = nn.Linear(2, 2)

    found = detect(model, world_size=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

    assert len(READERS) >= 6
    assert found.problems == ()
