"""GPUs that a machine or a plan has and that no driver tells of: said at the start, in totals and in the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import opening, warnings
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Projection, Window
from carbon_plugin.monitor.node.missing_gpus import unread_power
from carbon_plugin.monitor.settings.settings import make_settings
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.loading import build_run_spec
from tests.launcher.client import Launcher
from tests.monitor.conftest import started
from tests.monitor.launching import Process, wait_until

ROUNDING = 1 + 1e-9
"""Two sums of the same energies may differ by it, because they are added in different orders."""
FAULTS = {"version mismatch": "version_mismatch", "no permission": "no_permission", "not loaded": "driver_not_loaded"}
HANGS = "a driver that hangs"
LOST = {"lost": "gpus=2;power=300,400;fault=0:lost", "all lost": "gpus=2;fault=0:lost,1:lost"}
SILENT = {"version mismatch, unseen": "version_mismatch", "no permission, unseen": "no_permission"}


class Ended:
    """A job that ended: its audit, its ledger's windows and projections, and what it said on standard error."""

    def __init__(self, run_dir: Path, process: Process) -> None:
        _, self.errors = process.communicate(timeout=240)
        assert process.returncode == 0, self.errors
        self.summary: AuditSummary = summarise(run_dir)
        (file,) = read_run(run_dir).files
        self.windows = [record for record in file.records if isinstance(record, Window)]
        self.projections = [record for record in file.records if isinstance(record, Projection)]


@pytest.fixture(scope="module")
def jobs(
    simulated_nvml: Callable[..., dict[str, str]], monitor_launcher: Launcher, tmp_path_factory: Any
) -> Iterator[dict[str, Ended]]:
    """Run one job for each thing that may be wrong with the driver, side by side. Each was given two GPUs."""
    top = tmp_path_factory.mktemp("drivers")
    faults = {name: f"init:{fault}" for name, fault in FAULTS.items()} | {HANGS: "init:slow=30"}
    with started(simulated_nvml, monitor_launcher, top) as start:
        running = {
            name: start(
                "live.py", "close", top / name, 1.5, spec=f"gpus=2;fault={fault}", CUDA_VISIBLE_DEVICES="0,1",
                TMPDIR=_made(top / f"{name} scratch"),
            )
            for name, fault in faults.items()
        }  # fmt: skip
        for name, spec in LOST.items():
            running[name] = start(
                "live.py", "close", top / name, 1.5, spec=spec, TMPDIR=_made(top / f"{name} scratch")
            )  # fmt: skip
        for name, fault in SILENT.items():
            running[name] = start(
                "live.py", "close", top / name, 0.5, spec=f"gpus=2;fault=init:{fault}",
                TMPDIR=_made(top / f"{name} scratch"),
            )  # fmt: skip
        yield {name: Ended(top / name, process) for name, process in running.items()}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", [*FAULTS, HANGS])
def test_gpus_that_no_driver_tells_of_are_one_warning_at_the_start(jobs, name):
    (line,) = [line for line in jobs[name].errors.splitlines() if "GPUs are not metered" in line]

    assert "2 GPUs are not metered (CUDA_VISIBLE_DEVICES lists 2)" in line
    assert "as an estimate" in line


@pytest.mark.parametrize("name", [*FAULTS, HANGS])
def test_gpus_that_no_driver_tells_of_are_in_the_totals_as_an_estimate_with_a_range(jobs, name):
    summary, windows = jobs[name].summary, jobs[name].windows
    gpu = summary.by_rung["gpu"]
    seconds = sum(window.duration_s for window in windows)

    assert gpu.energy_j == pytest.approx(gpu.estimated_j)
    assert gpu.estimated_j > 0
    assert 20 * 2 * seconds < gpu.low_j < gpu.energy_j < gpu.high_j
    assert summary.energy.energy_j > gpu.energy_j
    assert jobs[name].projections[-1].spent_energy_j == pytest.approx(summary.energy.energy_j)
    assert (summary.coverage.gpus, summary.coverage.gpus_measured) == (2, 0)


@pytest.mark.parametrize("name", [*FAULTS, HANGS])
def test_gpus_that_no_driver_tells_of_are_in_the_headline_and_in_the_verdict(jobs, name):
    summary = jobs[name].summary

    assert "estimated for GPUs that could not be read" in opening(summary)
    assert any("2 GPUs are not metered" in warning for warning in warnings(summary))
    assert "energy of 2 of 2 GPUs is an estimate" in render_text(summary).splitlines()[-1]


@pytest.mark.parametrize(("name", "count"), [("lost", 1), ("all lost", 2)])
def test_gpus_that_the_driver_counts_and_that_do_not_answer_are_estimated_and_said(jobs, name, count):
    summary, gpu = jobs[name].summary, jobs[name].summary.by_rung["gpu"]
    (line,) = [line for line in jobs[name].errors.splitlines() if "not metered" in line]

    assert "the driver counts 2" in line
    assert 0 < gpu.estimated_j <= gpu.energy_j * ROUNDING
    assert gpu.low_j < gpu.energy_j < gpu.high_j
    assert (summary.coverage.gpus, summary.coverage.gpus_measured) == (2, 2 - count)
    assert "estimated for GPUs that could not be read" in opening(summary)
    found = re.search(r"energy of (\d) of 2 GPUs is (partly )?an estimate", render_text(summary).splitlines()[-1])
    assert found
    # On a busy machine the first reading of the other GPU is late, and the time before it is an estimate, too.
    assert int(found[1]) >= count
    assert bool(found[2]) == (int(found[1]) > count)


@pytest.mark.parametrize("name", SILENT)
def test_a_driver_that_does_not_answer_is_said_where_nothing_shows_a_gpu(jobs, name):
    summary = jobs[name].summary
    (line,) = [line for line in jobs[name].errors.splitlines() if "may have GPUs that nothing can read" in line]

    assert "in no total" in line
    assert any(warning.startswith("A GPU driver on a machine") for warning in warnings(summary))
    assert "may be in no total" in render_text(summary).splitlines()[-1]


@pytest.fixture(scope="module")
def plan():
    """Return a plan on H100s."""
    return make_forecast(
        build_run_spec(
            {
                "model": "llama3-8b",
                "cluster": {"accelerator": "h100-sxm", "nodes": 1},
                "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"},
                "training": {"seq_len": 4096, "global_batch_size": 8, "steps": 100, "precision": "bf16"},
                "site": {"zone": "FRA"},
            }
        )
    )


def test_power_is_that_of_the_plan_else_of_the_model_else_of_any_gpu(plan):
    h100 = load_accelerator("h100-sxm")

    planned = unread_power(make_settings(planned=plan), h100, usable=True)
    of_model = unread_power(make_settings(), h100, usable=True)
    of_any = unread_power(make_settings(), None, usable=True)

    assert (planned.value, planned.low, planned.high) == (
        plan.prediction.gpu_power_w.value, plan.prediction.gpu_power_w.low, plan.prediction.gpu_power_w.high,
    )  # fmt: skip
    assert of_model.value == pytest.approx(490)
    assert of_model.low < 150
    assert of_model.high == 700
    assert of_any.low < of_model.low
    assert of_any.high > of_model.high


@pytest.mark.parametrize(("name", "usable"), [("h100-sxm", False), (None, False)])
def test_a_gpu_on_which_nothing_can_compute_is_taken_to_be_idle(name, usable):
    accelerator = load_accelerator(name) if name else None

    assert unread_power(make_settings(), accelerator, usable=usable).value < 120


def test_planned_gpus_of_which_nothing_shows_one_are_said(job, plan, tmp_path):
    (tmp_path / "forecast.json").write_bytes(msgspec.json.encode(plan))
    broken, planned = "gpus=1;fault=init:driver_not_loaded", tmp_path / "forecast.json"
    process = job("close", tmp_path / "run", 0.5, spec=broken, JOB_PLAN=planned, CUDA_VISIBLE_DEVICES="")
    _, errors = process.communicate(timeout=240)

    assert process.returncode == 0, errors
    assert "nothing on this machine shows a GPU" in errors
    summary = summarise(tmp_path / "run")
    assert any(warning.startswith("GPUs were named for this run") for warning in warnings(summary))
    assert "no GPU that was named for the run was seen" in render_text(summary).splitlines()[-1]


def test_gpus_that_cuda_leaves_out_of_a_list_are_said(job, tmp_path):
    enough, ledger = tmp_path / "enough", tmp_path / "run" / "node-0.attempt-0.jsonl"
    process = job("close", tmp_path / "run", 0.5, CUDA_VISIBLE_DEVICES="1,5,0", JOB_UNTIL=enough)
    wait_until(lambda: ledger.exists() and ledger.read_bytes().count(b'"kind":"counter"') >= 4)
    enough.touch()
    ended = Ended(tmp_path / "run", process)
    gpu = ended.summary.by_rung["gpu"]
    (line,) = [line for line in ended.errors.splitlines() if "CUDA ends the list there" in line]

    assert "names 5" in line
    assert (ended.summary.coverage.gpus, ended.summary.coverage.gpus_measured) == (1, 1)
    assert gpu.estimated_j < gpu.energy_j  # on a busy machine the first reading is late


def test_what_can_be_metered_is_metered_beside_what_cannot(simulated_nvml, monitor_launcher, plan, tmp_path):
    (tmp_path / "forecast.json").write_bytes(msgspec.json.encode(plan))
    first, second, third = (f"GPU-00000051-5133-4d00-8000-00000000000{index}" for index in range(3))
    fallen = f"power=400;uuid={second}"
    lost = "gpus=2;power=300,400;fault=0:lost"
    cases: dict[str, tuple[str, dict[str, str], tuple[int, int], str]] = {
        "by index": (lost, {"CUDA_VISIBLE_DEVICES": "0,1"}, (2, 1), "1 GPU is not metered"),
        "by UUID": (lost, {"CUDA_VISIBLE_DEVICES": f"{first},{second}"}, (2, 1), "1 GPU is not metered"),
        "by container": (lost, {"NVIDIA_VISIBLE_DEVICES": "0,1"}, (2, 1), "1 GPU is not metered"),
        "silent": ("gpus=2;power=300,400;fault=0:no_counter,0:no_power", {}, (2, 1), "1 GPU is not metered"),
        "uncounted, by ordinal": (fallen, {"GPU_DEVICE_ORDINAL": "0,5"}, (2, 1), "no GPU with the name 5"),
        "uncounted, by SLURM": (fallen, {"SLURM_JOB_GPUS": "0,7"}, (2, 1), "no GPU with the name 7"),
        "lost and silent": (
            "gpus=3;power=300,400;fault=0:lost,2:no_counter,2:no_power", {}, (3, 1), f"not metered ({third})"
        ),
        "planned": (
            "fault=init:version_mismatch", {"JOB_PLAN": f"{tmp_path}/forecast.json"}, (8, 0), "8 GPUs are not metered"
        ),
    }  # fmt: skip
    with started(simulated_nvml, monitor_launcher, tmp_path) as start:
        running = {
            name: start(
                "live.py",
                "close",
                tmp_path / name,
                1.5,
                spec=spec,
                TMPDIR=_made(tmp_path / f"{name} host"),
                JOB_UNTIL=tmp_path / "enough",
                **variables,
            )
            for name, (spec, variables, *_) in cases.items()
        }
        ledgers = [tmp_path / name / "node-0.attempt-0.jsonl" for name in cases]
        wait_until(lambda: all(one.exists() and one.read_bytes().count(b'"type":"window"') >= 4 for one in ledgers))
        (tmp_path / "enough").touch()
        for name, process in running.items():
            _, _, counted, said = cases[name]
            ended = Ended(tmp_path / name, process)
            summary, gpu = ended.summary, ended.summary.by_rung["gpu"]
            warned = [line for line in ended.errors.splitlines() if "not metered" in line]

            assert len(warned) == 1, (name, ended.errors)
            assert said in warned[0], name
            assert (summary.coverage.gpus, summary.coverage.gpus_measured) == counted, name
            assert 0 < gpu.estimated_j <= gpu.energy_j * ROUNDING, name
            assert "estimated for GPUs that could not be read" in opening(summary), name
            seconds = sum(window.duration_s for window in ended.windows)
            measured = [device.energy for device in summary.devices if device.identity.key == second]
            # On a busy machine the first reading is late, and the time before it is an estimate with a range.
            kinds = [energy.kind for window in ended.windows for energy in window.energies if energy.key == second]
            assert {*kinds[kinds.index("counter") :]} == {"counter"} if measured else not kinds, name
            assert all(energy.low_j / 1.1 < 400 * seconds < energy.high_j / 0.9 for energy in measured), name
            assert render_text(summary).splitlines()[-1] != "verified", name
