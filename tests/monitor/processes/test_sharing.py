"""Trainings of one process that run at a time share the machine's energy; watched again, the earlier one ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from carbon_plugin.audit.summary import summarise
from carbon_plugin.integrations.pytorch import TorchCarbon, watch
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import MACHINE, Close, DeviceEnergy, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor.processes.sharing import SharedMachine, shared
from carbon_plugin.monitor.settings.options import MonitorOptions
from tests.monitor.launching import wait_until


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("carbon_plugin.monitor.processes.sharing.time.monotonic", lambda: now[0])
    return now


def test_part_of_the_machine_follows_who_runs(clock):
    machine = SharedMachine()
    for moment, change, training in ((0, "begin", "a"), (10, "begin", "b"), (20, "end", "a"), (20, "end", "a")):
        clock[0] = moment
        getattr(machine, change)(training)

    assert machine.part_of(0, 10) == 1
    assert machine.part_of(10, 20) == 0.5
    assert machine.part_of(5, 15) == 0.75
    assert machine.part_of(0, 40) == pytest.approx((10 + 5 + 20) / 40)
    assert machine.part_of(15, 15) == 1.0
    machine.forget()
    assert machine.part_of(10, 20) == 1


def test_parts_of_trainings_that_overlap_in_any_way_add_up_to_the_machine(clock):
    machine = SharedMachine()
    lives = {"a": (0, 30), "b": (10, 50), "c": (20, 25)}
    for moment, change, name in sorted(
        (moment, change, name)
        for name, life in lives.items()
        for moment, change in zip(life, ("begin", "end"), strict=True)
    ):
        clock[0] = moment
        getattr(machine, change)(name)

    assert sum((end - begin) * machine.part_of(begin, end) for begin, end in lives.values()) == pytest.approx(50)


def test_shared_energy_says_so_and_keeps_its_range():
    whole = DeviceEnergy(key="g", energy_j=100.0, kind="counter", low_j=90.0, high_j=120.0)
    absent = DeviceEnergy(key="h", energy_j=None, kind="absent")

    half, still_absent = shared([whole, absent], 0.5)

    assert (half.energy_j, half.low_j, half.high_j) == (50.0, 45.0, 60.0)
    assert "shared with other trainings" in half.note
    assert still_absent == absent
    assert shared([whole], 1.0) == [whole]


def training(run_dir: Path | None, model: nn.Module | None = None) -> tuple[TorchCarbon, nn.Module, torch.optim.SGD]:
    model = model or nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = MonitorOptions(min_window_s=0.1)
    return watch(model, optimizer, run_dir=run_dir, window_s=0.2, options=options), model, optimizer


def windows(run_dir: Path) -> list[Window]:
    return [record for file in read_run(run_dir).files for record in file.records if isinstance(record, Window)]


def closed(run_dir: Path) -> list[str]:
    return [r.reason for file in read_run(run_dir).files for r in file.records if isinstance(r, Close)]


def await_ledger(carbon: TorchCarbon) -> None:
    while carbon.monitor.head is None:
        time.sleep(0.01)


def test_two_trainings_of_a_process_count_the_machine_once(tmp_path):
    first, _, _ = training(tmp_path / "a")
    await_ledger(first)
    second, _, _ = training(tmp_path / "b")
    await_ledger(second)
    told = b"0.5 of it: shared"
    wait_until(lambda: all(told in (tmp_path / name / "node-0.attempt-0.jsonl").read_bytes() for name in "ab"))
    first.close()
    second.close()

    def power_w(window: Window) -> float:
        return sum(energy.energy_j or 0.0 for energy in window.energies) / window.duration_s

    for run_dir in (tmp_path / "a", tmp_path / "b"):
        notes = [energy.note or "" for window in windows(run_dir) for energy in window.energies]
        assert any("0.5 of it: shared" in note for note in notes)
        assert verify_run(run_dir).ok
        reserved = summarise(run_dir).reserved
        shared_s = sum((1 - (w.parts or {}).get(MACHINE, 1.0)) * w.duration_s for w in windows(run_dir))
        assert reserved.shared_s == pytest.approx(shared_s)  # one rank on a CPU stands for a device
        assert shared_s > 0
    assert min(power_w(window) for window in windows(tmp_path / "b")) > 0


@pytest.mark.parametrize("what", ["model", "optimizer", "run directory"])
def test_second_watch_ends_the_first(what, tmp_path):
    first, model, optimizer = training(tmp_path / "a")
    await_ledger(first)
    for _ in range(2):
        optimizer.step()
    if what == "model":
        second, _, optimizer = training(tmp_path / "b", model)
    elif what == "optimizer":
        second = watch(nn.Linear(2, 2), optimizer, run_dir=tmp_path / "b")
    else:
        second, _, optimizer = training(tmp_path / "a")
    for _ in range(3):
        optimizer.step()
    second.close()

    assert not first.monitor.active
    assert closed(tmp_path / "a")[0].startswith("another training began")
    assert (first.monitor.counted, second.monitor.counted) == (2, 3)
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("inner_dir", ["a", "b"])
def test_watch_inside_of_a_with_block_leaves_the_outer_one_going_on(inner_dir, tmp_path, caplog):
    outer, model, optimizer = training(tmp_path / "a")
    with outer:
        await_ledger(outer)
        optimizer.step()
        inner = watch(model, optimizer, run_dir=tmp_path / inner_dir)
        with inner:
            for _ in range(3):
                optimizer.step()
        optimizer.step()
        assert outer.monitor.active
        assert not inner.monitor.active

    assert (outer.monitor.counted, inner.monitor.counted) == (5, 0 if inner_dir == "a" else 3)
    assert closed(tmp_path / "a") == ["closed"]
    assert inner_dir == "a" or closed(tmp_path / "b") == ["closed"]
    assert [record.getMessage().partition(", which goes on")[0] for record in caplog.records] == [
        f"carbon_plugin: this training is inside of the one in {tmp_path / 'a'}"
    ]
    assert not optimizer._optimizer_step_post_hooks


def test_cell_of_a_notebook_that_runs_again_after_an_interrupt_of_its_block_begins_anew(tmp_path, caplog):
    model = nn.Linear(2, 2)
    for name in "ab":
        with pytest.raises(KeyboardInterrupt), training(tmp_path / name, model)[0]:
            raise KeyboardInterrupt

    assert closed(tmp_path / "a") == closed(tmp_path / "b") == ["exception: KeyboardInterrupt"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (SystemExit(), "closed"),
        (SystemExit(0), "closed"),
        (GeneratorExit(), "closed"),
        (SystemExit(3), "exception: SystemExit"),
        (SystemExit("no data"), "exception: SystemExit"),
    ],
)
def test_an_orderly_exit_of_the_program_inside_of_the_block_is_no_failure(tmp_path, end, reason):
    with pytest.raises(type(end)), training(tmp_path / "a")[0]:
        raise end

    assert closed(tmp_path / "a") == [reason]


def test_trainings_that_begin_in_the_same_second_have_a_run_directory_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CARBON_PLUGIN_RUN_DIR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    first, _, _ = training(None)
    second, _, _ = training(None)

    assert first.monitor.run_dir != second.monitor.run_dir
    assert first.monitor.active
    assert second.monitor.active
    first.close()
    second.close()
