"""The simulated driver library, through the real pynvml in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

PRELUDE = """
import json, os, time
import pynvml as nv
nv.nvmlInit()
gpu = [nv.nvmlDeviceGetHandleByIndex(i) for i in range(nv.nvmlDeviceGetCount())]
def show(value): print(json.dumps(value))
"""


@pytest.fixture
def run(simulated_nvml: Callable[..., dict[str, str]]) -> Run:
    """Run a script under a spec; the last line that it shows is the answer."""

    def run(spec: str, script: str, **variables: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + script],
            env=simulated_nvml(spec, **variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    source = Path(__file__).parent
    built = subprocess.run(["make", "-C", source, f"OUT={tmp_path}"], capture_output=True, text=True, check=True)
    assert built.stderr == ""


def test_the_counter_moves_in_steps_of_100_ms(run: Run) -> None:
    script = """
seen = []
while len(seen) < 5:
    energy_mj = nv.nvmlDeviceGetTotalEnergyConsumption(gpu[0])
    if not seen or energy_mj != seen[-1]:
        seen.append(energy_mj)
    time.sleep(0.005)
show([after - before for before, after in zip(seen, seen[1:])])
"""
    assert all(step_mj % 30_000 == pytest.approx(0, abs=2) for step_mj in run("power=300", script))


def test_two_processes_see_the_same_counter(run: Run) -> None:
    script = "show(nv.nvmlDeviceGetTotalEnergyConsumption(gpu[0]))"
    spec = f"power=300;counter_step=3600;epoch={time.monotonic() - 3601}"
    assert run(spec, script) == run(spec, script) == pytest.approx(1_000_000_000 + 300_000 * 3600)


@pytest.mark.parametrize(
    ("curve", "age_s", "joules"),
    [
        ("250", 10, 2500),
        ("square:400:100:4", 10, 400 * 6 + 100 * 4),
        ("sine:300:100:8", 10, 300 * 10 + 100 * 8 / (2 * 3.14159265)),
        ("steps:100@0/400@5/250@8", 10, 100 * 5 + 400 * 3 + 250 * 2),
        ("steps:100@3", 2, 200),
    ],
)
def test_the_counter_is_the_exact_integral_of_the_curve(
    run: Run, tmp_path: Path, curve: str, age_s: int, joules: float
) -> None:
    clock = tmp_path / "clock"
    clock.write_text(str(age_s))  # it stands still, however slowly the process starts
    spec = f"power={curve};counter_start=0;clock={clock};epoch=0"
    assert run(spec, "show(nv.nvmlDeviceGetTotalEnergyConsumption(gpu[0]))") == pytest.approx(1e3 * joules, rel=1e-6)


def test_speed_compresses_the_schedule_but_not_the_watts(run: Run, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("10")
    spec = f"power=300;speed=10;counter_start=0;counter_step=100;clock={clock};epoch=0"
    assert run(spec, "show(nv.nvmlDeviceGetTotalEnergyConsumption(gpu[0]))") == pytest.approx(3_000_000)


def test_power_is_instantaneous_on_an_a100_and_the_mean_of_a_second_on_an_h100(run: Run) -> None:
    # Time nearly stands still at 5.2 s, 0.2 s after the jump.
    when = f"speed=1e-9;epoch={time.monotonic() - 5.2e9}"
    spec = f"gpus=2;name=NVIDIA A100-SXM4-80GB,NVIDIA H100 80GB HBM3;power=steps:100@0/500@5;{when}"
    a100_mw, h100_mw = run(spec, "show([nv.nvmlDeviceGetPowerUsage(handle) for handle in gpu])")
    assert a100_mw == 500_000
    assert h100_mw == pytest.approx(100_000 + 400_000 * 0.2, rel=0.01)


def test_cuda_visible_devices_changes_nothing(run: Run) -> None:
    assert run("gpus=3", "show(len(gpu))", CUDA_VISIBLE_DEVICES="1") == 3


def test_a_mig_device_answers_for_itself_and_its_parent(run: Run) -> None:
    script = """
slices = [nv.nvmlDeviceGetMigDeviceHandleByIndex(gpu[0], i) for i in range(2)]
parent = nv.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(slices[1])
again = nv.nvmlDeviceGetHandleByUUID(nv.nvmlDeviceGetUUID(slices[1]))
try:
    nv.nvmlDeviceGetTotalEnergyConsumption(slices[0])
except nv.NVMLError as error:
    energy = str(error)
show({
    "mode": nv.nvmlDeviceGetMigMode(gpu[0]),
    "sizes": [nv.nvmlDeviceGetAttributes(part).gpuInstanceSliceCount for part in slices],
    "parent": nv.nvmlDeviceGetUUID(parent) == nv.nvmlDeviceGetUUID(gpu[0]),
    "again": nv.nvmlDeviceGetUUID(again) == nv.nvmlDeviceGetUUID(slices[1]),
    "energy": energy,
})
"""
    assert run("mig=0:3/4", script) == {
        "mode": [1, 1],
        "sizes": [3, 4],
        "parent": True,
        "again": True,
        "energy": "Not Supported",
    }


def test_a_lowered_limit_and_throttling_show_in_their_calls_alone(run: Run) -> None:
    script = """
show([nv.nvmlDeviceGetEnforcedPowerLimit(gpu[0]), nv.nvmlDeviceGetPowerManagementDefaultLimit(gpu[0]),
      nv.nvmlDeviceGetCurrentClocksThrottleReasons(gpu[0]), nv.nvmlDeviceGetPowerUsage(gpu[0])])
"""
    answer = run(f"power=350;fault=0:limit=300,0:throttle=64;epoch={time.monotonic() - 10}", script)
    assert answer == [300_000, 700_000, 4 + 64, 350_000]


def test_the_processes_on_a_gpu_are_listed(run: Run) -> None:
    script = "show([[p.pid for p in nv.nvmlDeviceGetComputeRunningProcesses(handle)] for handle in gpu])"
    assert run("gpus=2;process=1:4711,1:4712", script) == [[], [4711, 4712]]


def test_a_spec_may_be_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "spec"
    file.write_text("# two cards\ngpus=2\nname=NVIDIA L4\n")
    names = run(f"{file}", "show([nv.nvmlDeviceGetName(handle) for handle in gpu])", NVML_SIM=str(file))
    assert names == ["NVIDIA L4", "NVIDIA L4"]


def test_a_spec_with_a_typo_fails_to_initialise_and_says_where(simulated_nvml: Callable[..., dict[str, str]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE], env=simulated_nvml("gpu=2"), capture_output=True, text=True, check=False
    )
    assert "cannot read gpu=2" in done.stderr
    assert "Invalid Argument" in done.stderr


def test_faults_wait_for_the_job_where_it_says_when_it_is_ready(run: Run, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
seen = [nv.nvmlDeviceGetPowerUsage(gpu[0])]
Path("{tmp_path}/ready").touch()
seen += [nv.nvmlDeviceGetPowerUsage(gpu[0]) for _ in range(2)]
show(seen)
"""
    faults = f"fault=0:power_reads@0=111;armed={tmp_path}/ready"
    assert run(f"power=300;epoch={time.monotonic() - 100};{faults}", script) == [300_000, 111_000, 111_000]


def test_a_counter_may_show_what_has_nothing_to_do_with_the_energy(run: Run) -> None:
    script = "show([nv.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in gpu])"
    spec = f"gpus=3;counter_start=100;counter_step=1e6;fault=0:offset=-50,1:counter_reads=1e30;epoch={time.monotonic()}"
    assert run(spec, script) == [50_000, 2**64 - 1, 100_000]
