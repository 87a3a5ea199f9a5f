"""A training on a simulated node with AMD GPUs, from the ledger to what the doctor says of the node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.meters.gpu.selection import driver_names
from tests.ledgers import assert_drawn, energy_of, sum_of

SCRIPT = """
import sys, time

from pathlib import Path
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from tests.patience import be_patient

be_patient()
monitor = CarbonMonitor(run_dir=Path(sys.argv[1]), window_s=0.5, options=MonitorOptions(min_window_s=0.25))
started_s = time.monotonic()
monitor.start()
end_s = time.monotonic() + 2.5
while time.monotonic() < end_s or not monitor.metrics():  # on a busy machine the meters open late
    time.sleep(0.05)
    monitor.step_end(tokens=100)
monitor.close()
print(time.monotonic() - started_s)
"""
SPEC = "gpus=4;parts=2;power=500;limit=560;memory=128;name=AMD Instinct MI250X;tells=average"


@pytest.fixture(scope="module")
def run_dir(simulated_amd: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amd")
    environ = simulated_amd(SPEC, TMPDIR=str(folder))
    command = [sys.executable, "-c", SCRIPT, str(folder / "run")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (folder / "lasted_s").write_text(done.stdout.split()[-1])
    return folder / "run"


def test_the_ledger_has_every_die_and_the_energy_of_each_package_once(run_dir: Path) -> None:
    (file,) = read_run(run_dir).files
    manifest = manifest_of(file.records)
    assert manifest is not None
    gpus = {device.key: device for device in manifest.devices if device.rung == "gpu"}
    windows = [record for record in file.records if isinstance(record, Window)]

    assert len(gpus) == 8
    assert {(device.share, device.energy_kind, device.profile) for device in gpus.values()} == {
        (0.5, "counter", "mi250x")
    }
    # The counter stands still for 0.01 s at a time, and where the machine is busy, the last reading comes late.
    recorded_s = sum(window.duration_s for window in windows)
    lasted_s = float((run_dir.parent / "lasted_s").read_text())
    energy = sum_of(energy_of(windows, key) for key in gpus)
    assert_drawn(energy, 4 * 500, recorded_s - 0.01, lasted_s + 0.01)
    assert [record.reason for record in file.records if isinstance(record, Close)] == ["closed"]
    assert not {record.kind for record in file.records if isinstance(record, Event)} & {
        "gpus_not_metered",
        "meter_lost",
    }
    assert verify_run(run_dir).ok


def test_eight_dies_are_four_gpus_of_the_node_all_measured(run_dir: Path) -> None:
    coverage = summarise(run_dir).coverage
    assert (coverage.gpus, coverage.whole_gpus) == (8, 4.0)
    assert coverage.gpus_measured == 8


def test_the_doctor_names_the_gpus(simulated_amd: Callable[..., dict[str, str]]) -> None:
    script = "from carbon_plugin.cli.commands.doctor import diagnose; import msgspec; "
    script += "print(msgspec.json.encode(diagnose().findings).decode())"
    environ = simulated_amd("gpus=2;power=300,400;fault=1:no_counter")
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gpus = [f"{one['state']}: {one['text']}" for one in json.loads(done.stdout) if one["area"] == "GPUs"]
    assert "note: AMD driver 6.14.simulated; reserved: every GPU that AMD SMI shows" in gpus
    assert "measured: AMD Instinct MI300X GPU-00000051a3d00000: by its energy counter, 300 W now, ±5 %" in gpus
    assert "measured: AMD Instinct MI300X GPU-00000051a3d00100: by integrating its power, 400 W now, ±10 %" in [
        text.partition(" (")[0] for text in gpus
    ]
    assert "note: AMD Instinct MI300X has the hardware profile mi300x" in gpus


def test_a_rank_on_rocm_is_found_by_the_letters_of_its_uuid() -> None:
    # PyTorch prints the 16 bytes of the UUID; those of ROCm are the letters of a hexadecimal number.
    assert "00000051a3d00100" in driver_names("GPU-30303030-3030-3531-6133-643030313030")
    assert driver_names("GPU-00000051-5133-4d00-8000-000000000001") == ("00000051-5133-4d00-8000-000000000001",)
