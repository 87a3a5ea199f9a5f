"""Runs of their own on one GPU: who counts as another run, and what each is charged."""

from __future__ import annotations

import os
import time

import pytest

from carbon_plugin.ledger.records import DeviceEnergy
from carbon_plugin.monitor.processes import neighbours
from carbon_plugin.monitor.processes.neighbours import Neighbours
from carbon_plugin.monitor.processes.scratch import open_scratch


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """Provide a function that makes a process which meters GPUs for a run: `joined("run", "process",
    ["GPU-0"], 0.0)`.
    """
    made = []

    def join(run: str, process: str, gpus: list[str], since_s: float) -> Neighbours:
        monkeypatch.setattr(neighbours._Process, "token", process)
        made.append(Neighbours(open_scratch(tmp_path), run, f"name of {run}", gpus, since_s))
        return made[-1]

    yield join
    for one in made:
        one.forget()


def test_a_gpu_is_divided_by_the_runs_that_are_there_while_they_are(joined):
    at_s = time.monotonic() - 10
    first = joined("a", "1", ["GPU-0", "GPU-1"], at_s)
    second = joined("b", "2", ["GPU-0"], at_s + 4)
    third = joined("c", "3", ["GPU-0"], at_s + 8)
    third.end(at_s + 9)
    for one in (first, second):
        one.look()

    assert first.part_of("GPU-0", at_s, at_s + 10) == pytest.approx((4 + 4 / 2 + 1 / 3 + 1 / 2) / 10)
    assert second.part_of("GPU-0", at_s + 4, at_s + 10) == pytest.approx((4 / 2 + 1 / 3 + 1 / 2) / 6)
    assert first.part_of("GPU-1", at_s, at_s + 10) == 1.0
    assert first.part_of("GPU-0", at_s, at_s) == 1.0


def test_processes_of_one_run_and_trainings_of_one_process_are_one_party(joined):
    own = joined("a", "1", ["GPU-0"], 0.0)
    joined("a", "2", ["GPU-0"], 0.0)  # the hung launch before: its ledger counts the GPU, or this one's
    joined("b", "1", ["GPU-0"], 0.0)  # another training of this process, which shares with this one
    own.look()
    assert own.part_of("GPU-0", 0.0, 10.0) == 1.0
    assert own.news() is None

    joined("c", "3", ["GPU-0"], 0.0)
    joined("d", "3", ["GPU-0"], 0.0)
    own.look()

    assert own.part_of("GPU-0", 0.0, 10.0) == 0.5


def test_a_run_that_was_killed_is_not_there_any_more(joined):
    first, second = joined("a", "1", ["GPU-0"], 0.0), joined("b", "2", ["GPU-0"], 0.0)
    first.look()
    assert first.part_of("GPU-0", 0.0, 10.0) == 0.5

    second.forget()  # as the kernel does
    first.look()

    assert first.part_of("GPU-0", 10.0, 20.0) == 1.0


def test_a_run_that_ended_before_is_no_neighbour(joined):
    at_s = time.monotonic() - 10
    joined("a", "1", ["GPU-0"], at_s).end(at_s + 4)
    second = joined("b", "2", ["GPU-0"], at_s + 5)
    second.look()

    assert second.news() is None
    assert second.part_of("GPU-0", at_s + 5, at_s + 10) == 1.0


def test_every_run_is_named_with_all_gpus_that_it_shares(joined):
    first = joined("a", "1", ["GPU-0", "GPU-1", "GPU-2"], 0.0)
    joined("b", "2", ["GPU-0"], 0.0)  # two processes of one run
    joined("b", "3", ["GPU-2"], 0.0)
    joined("c", "4", ["GPU-0", "GPU-1", "GPU-9"], 0.0)
    first.look()

    said = first.news()

    assert "(GPU-0, GPU-2), " in said
    assert "(GPU-0, GPU-1). " in said


def test_another_run_is_said_once(joined):
    first = joined("a", "1", ["GPU-0", "GPU-1"], 0.0)
    joined("b", "2", ["GPU-1"], 0.0)
    first.look()

    said = [first.news(), first.news()]

    assert said[0] is not None
    assert "name of b (GPU-1)" in said[0]
    assert said[1] is None


def test_what_is_charged_is_labelled_and_its_range_takes_in_other_divisions(joined):
    first = joined("a", "1", ["GPU-0"], 0.0)
    joined("b", "2", ["GPU-0"], 0.0)
    first.look()
    used = [
        DeviceEnergy(key="GPU-0", energy_j=100.0, kind="counter", low_j=98.0, high_j=102.0, estimated_j=10.0),
        DeviceEnergy(key="host", energy_j=50.0, kind="modelled"),
        DeviceEnergy(key="GPU-0", energy_j=None, kind="absent"),
    ]

    charged = first.charged(used, 0.0, 10.0)

    assert (charged[0].energy_j, charged[0].estimated_j) == (50.0, 5.0)
    assert (charged[0].low_j, charged[0].high_j) == pytest.approx((0.25 * 98, 0.75 * 102))
    assert charged[0].note == "0.5 of it: other runs use this GPU too"
    assert charged[1:] == used[1:]


def test_a_run_that_comes_to_a_folder_at_rest_is_found(joined, tmp_path):
    own = joined("a", "1", ["GPU-0"], 0.0)
    (folder,) = tmp_path.glob("*/gpus")
    long_ago_s = time.time() - 3600
    os.utime(folder, (long_ago_s, long_ago_s))
    own.look()
    own.look()
    assert own.part_of("GPU-0", 0.0, 10.0) == 1.0

    joined("b", "2", ["GPU-0"], 0.0)
    own.look()

    assert own.part_of("GPU-0", 0.0, 10.0) == 0.5


def test_without_a_common_directory_a_run_is_alone():
    alone = Neighbours(None, "a", "name", ["GPU-0"], 0.0)
    alone.look()

    assert alone.part_of("GPU-0", 0.0, 10.0) == 1.0
    assert alone.news() is None
    alone.end(10.0)
