"""Which GPUs are a rank's, and what each fault of a driver leaves in the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import SpecError
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor.node.metering import with_ranks
from carbon_plugin.monitor.processes.leader import Claim
from carbon_plugin.monitor.settings.settings import make_settings
from carbon_plugin.spec.metered import DeviceIdentity

FIRST, SECOND, THIRD = (f"GPU-00000051-5133-4d00-8000-00000000000{index}" for index in range(3))
FAULTY = Path(__file__).parents[1] / "jobs" / "faulty.py"
PART = "MIG-000000a0-5133-4d00-8000-000000000000"

ONE_OF_THEM = {"CUDA_VISIBLE_DEVICES": "0"}
UNREAD = "/unread-gpu-0"
"""End of the key of a GPU that no driver told of, behind its host's."""

# Simulator spec, variables, ends of the keys of the GPUs, how their energy is known at last, event that says so.
FAULTS: dict[str, tuple[str, dict[str, str], list[str], str, str | None]] = {
    "lost": ("fault=0:lost@0.7", {}, [FIRST], "modelled", "meter_lost"),
    "reset": ("fault=0:reset@0.7", {}, [FIRST], "counter", "meter_counter_reset"),
    "no counter": ("fault=0:no_counter", {}, [FIRST], "power_integrated", "device"),
    "not supported": ("fault=0:no_counter,0:no_power", {}, [FIRST], "modelled", "meter_not_supported"),
    "slow": ("fault=0:slow@0.7-6.7=2", {}, [FIRST], "counter", "meter_slow"),
    "permission": ("fault=0:no_permission@0.7", {}, [FIRST], "modelled", "meter_permission"),
    "hangs at the end": ("fault=0:slow@0.7=30", {}, [FIRST], "modelled", "meter_slow"),
    "hangs at the start": ("fault=init:slow=30", ONE_OF_THEM, [UNREAD], "modelled", "gpus_not_metered"),
    "hangs before its first reading": ("fault=0:slow=30", {}, [FIRST], "modelled", "meter_slow"),
    "late": ("fault=init:slow=15", {}, [FIRST], "counter", "gpus_late"),
    "late, given": ("fault=init:slow=15", ONE_OF_THEM, [FIRST], "counter", "gpus_late"),
    "name": ("name=NVIDIA H100 \udcff", {}, [FIRST], "counter", "gpu_selection"),
    "no driver": ("fault=init:driver_not_loaded", {}, [], "", "nvml_driver_not_loaded"),
    "MIG": ("mig=0:3/4", {"CUDA_VISIBLE_DEVICES": PART}, [PART], "modelled", "device"),
    "remapped": ("gpus=3", {"CUDA_VISIBLE_DEVICES": "2,0"}, [THIRD, FIRST], "counter", "gpu_selection"),
}

LENGTHS = {"late": ["2", "gpus_late"], "late, given": ["2", "gpus_late"], "slow": ["8", "meter_slow"]}
"""Arguments of jobs that need more than 3 s: seconds after the first window, or after an event."""


def records(file: LedgerFile, kind: type) -> list[Any]:
    return [record for record in file.records if isinstance(record, kind)]


def identity(key: str) -> DeviceIdentity:
    return DeviceIdentity(key=key, name="GPU", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter")


def is_of_the_whole_training(name: str, windows: list[Window], times_s: list[float]) -> None:
    """Check that a record holds all steps and all of the time, and a step time whose range holds the job's own, by its
    own clock.
    """
    began_s, first_s, *_, last_s, closed_s = times_s
    counted = CountedSteps()
    for window in windows:
        counted.add(window)
    step_time = counted.step_time_s

    assert sum(window.steps for window in windows) == len(times_s) - 2
    assert last_s - first_s < sum(window.duration_s for window in windows) <= closed_s - began_s
    assert step_time is not None
    assert step_time.low <= (last_s - first_s) / (len(times_s) - 3) <= step_time.high, (name, windows[-1], times_s[-3:])


def test_each_fault_of_the_driver_has_its_label_in_the_ledger(simulated_nvml, monitor_launcher, tmp_path):
    for name in FAULTS:
        (tmp_path / f"host of {name}").mkdir()
    jobs = {
        name: monitor_launcher.start(
            FAULTY,
            tmp_path / name,
            *LENGTHS.get(name, ["3"]),
            env=simulated_nvml(f"power=300;{spec}", TMPDIR=str(tmp_path / f"host of {name}"), **variables),
        )
        for name, (spec, variables, *_) in FAULTS.items()
    }
    for name, process in jobs.items():
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        _, _, ends, kind, event = FAULTS[name]
        (file,) = read_run(tmp_path / name).files
        manifest = manifest_of(file.records)
        assert manifest is not None
        keys = [device.key for device in manifest.devices if device.rung == "gpu"]
        assert len(keys) == len(ends), name
        assert all(key.endswith(end) for key, end in zip(keys, ends, strict=True)), name
        # The last window may be shorter than the counter's steps.
        windows = [window for window in records(file, Window) if window.duration_s > 0.25]
        energies = [energy for window in windows for energy in window.energies if energy.key in keys]
        assert {energy.kind for energy in energies if energy.key in keys[:1]} >= ({kind} if kind else set()), name
        assert not any(energy.kind != "absent" and not energy.energy_j for energy in energies), name
        assert all(energy.energy_j is None for energy in energies if energy.kind == "absent"), name
        assert event in {one.kind for one in records(file, Event)}, name
        assert verify_run(tmp_path / name).ok
        live_j = records(file, Projection)[-1].spent_energy_j
        assert live_j == pytest.approx(summarise(tmp_path / name).energy.energy_j, rel=1e-9), name
        by_window = [[e for e in w.energies if "gpu" in e.key.lower()] for w in records(file, Window)]
        assert all(len(energies) <= len(ends) for energies in by_window), name
        if name == "late, given":
            assert summarise(tmp_path / name).coverage.gpus == 1
        is_of_the_whole_training(name, records(file, Window), json.loads(output))
        if "hangs" in name and name != "hangs at the end":
            lead = records(file, Window)[:2]  # the first step ended before the first reading
            assert lead[1].duration_s > 0.5, name
            for window in lead:
                assert all(energy.energy_j and energy.kind == "modelled" for energy in window.energies), name
                of_gpus = [energy for energy in window.energies if energy.key in keys]
                assert [energy.estimated_j for energy in of_gpus] == pytest.approx(
                    [energy.energy_j for energy in of_gpus]
                ), name
                assert all(energy.low_j < 300 * window.duration_s < energy.high_j for energy in of_gpus), name
        assert [close.reason for close in records(file, Close)] == ["closed"], name


def test_tasks_that_see_only_their_own_gpu_under_slurm_are_all_metered(job, tmp_path):
    together = {
        "JOB_TOGETHER": 2,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "SLURM_STEP_GPUS": "0,1",
        "SLURM_GPUS_PER_TASK": "1",
    }
    tasks = [
        job("close", tmp_path / "run", 5.0, spec=f"seed={seed}", RANK=rank, LOCAL_RANK=rank, **together)
        for rank, seed in enumerate((1, 2))
    ]
    for task in tasks:
        _, errors = task.communicate(timeout=240)
        assert task.returncode == 0, errors
    manifests = [manifest_of(file.records) for file in read_run(tmp_path / "run").files]
    gpus = [device.key for manifest in manifests for device in manifest.devices if device.rung == "gpu"]

    assert sorted(key[:12] for key in gpus) == ["GPU-00000001", "GPU-00000002"]
    # The leader charges the job's part of an 8-GPU node, for both tasks.
    assert [manifest.host_share for manifest in manifests] == [2 / 8, 0.0]
    assert sum(device.rung == "host" for manifest in manifests for device in manifest.devices) == 1


def test_a_node_meter_named_in_the_environment_is_in_the_ledger_and_imports_nothing_late(job, tmp_path):
    for name, content in (("energy", "1000 J 0 us"), ("power", "5000 W 0 us")):
        (tmp_path / name).write_text(content)
    process = job("close", tmp_path / "run", spec="gpus=8", CARBON_PLUGIN_NODE_METER=f"pm_counters://{tmp_path}")
    output, errors = process.communicate(timeout=240)
    (file,) = read_run(tmp_path / "run").files
    manifest = manifest_of(file.records)

    assert process.returncode == 0, errors
    assert output.strip().endswith("imported []\nno torch")
    assert manifest is not None
    assert [(device.scope, device.energy_kind) for device in manifest.devices if device.rung == "host"] == [
        ("node less GPUs", "counter")
    ]
    assert "node_meter" in {event.kind for event in records(file, Event)}
    assert verify_run(tmp_path / "run").ok


def test_an_address_of_a_node_meter_that_cannot_be_used_is_said_before_training(monkeypatch):
    with pytest.raises(SpecError, match="unknown node_meter 'redfsh'; nearest: redfish"):
        make_settings(node_meter="redfsh://bmc7")
    monkeypatch.setenv("CARBON_PLUGIN_NODE_METER", "slurm")
    by_environment, by_argument = make_settings(), make_settings(node_meter="ipmi")
    assert [settings.node_meter.kind for settings in (by_environment, by_argument)] == ["slurm", "ipmi"]


def test_two_ranks_on_one_gpu_are_both_named_and_an_idle_one_has_none():
    claims = [Claim(rank=rank, local_rank=rank, uuids=[FIRST]) for rank in (0, 1)]
    named = with_ranks([identity(FIRST), identity(SECOND)], claims)
    assert [device.ranks for device in named] == [[0, 1], []]


@pytest.mark.parametrize("seen", [PART, PART.replace("MIG-", "GPU-")])
def test_a_rank_on_a_mig_device_is_found_by_its_uuid(seen):
    (named,) = with_ranks([identity(PART)], [Claim(rank=3, local_rank=0, uuids=[seen])])
    assert named.ranks == [3]
