"""The GPU meter on the real module `amdsmi` and a simulated library, each machine in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.meters.scripts import runner

Metering = Callable[..., Any]
Rounds = list[list[dict[str, Any]]]

PRELUDE = """
os.environ["AMD_SIM"] += f"{follow};armed={os.environ['ARMED']}"
if "NVML_SIM" in os.environ:
    os.environ["NVML_SIM"] += follow
"""
WATCH = "meter = open_gpu_meters(); show([meter.devices, meter.notes, watch(meter, 1.0), meter.contexts()])"
MI250X = "name=AMD Instinct MI250X;limit=560;memory=128;tells=average"
LISTED = "meter = open_gpu_meters(); show([[d.key, d.share, d.energy_kind] for d in meter.devices])"


@pytest.fixture(scope="module")
def metering(simulated_amd: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Metering:
    """Run a script under a simulator spec; what it shows last is the answer."""
    return runner(PRELUDE, simulated_amd, tmp_path_factory.mktemp("armed"))


# The counter steps every 10 ms, at both ends of a second.
STEPS = 0.02


def mean_power_w(rounds: Rounds, *devices: int) -> float:
    """Return the mean power of some devices together between the first and the last reading, W."""
    seconds = rounds[-1][devices[0]]["monotonic_s"] - rounds[0][devices[0]]["monotonic_s"]
    return sum(rounds[-1][one]["energy_j"] - rounds[0][one]["energy_j"] for one in devices) / seconds


def test_energy_is_the_accumulator_times_its_resolution_whatever_that_is(metering: Metering) -> None:
    devices, _, rounds, contexts = metering("gpus=3;power=300,400,620;resolution=15.259,1,1000", WATCH)
    for gpu, watts in enumerate((300, 400, 620)):
        assert mean_power_w(rounds, gpu) == pytest.approx(watts, rel=STEPS)
        assert rounds[-1][gpu]["power_w"] == watts
        assert {one[gpu]["kind"] for one in rounds} == {"counter"}
        assert {one[gpu]["fault"] for one in rounds} == {None}
    assert devices[0] == {
        "key": "GPU-00000051a3d00000",
        "name": "AMD Instinct MI300X",
        "rung": "gpu",
        "scope": "gpu",
        "meter": "amd smi energy counter",
        "energy_kind": "counter",
        "accuracy": {
            "proportional": 0.05,
            "source": "assumed, as for NVIDIA's counter: nobody has published a check of AMD's that we know",
            "age_s": 0.1,
        },
    }
    assert contexts["GPU-00000051a3d00000"] == {
        "power_limit_w": 750.0,
        "default_power_limit_w": 750.0,
        "sm_clock_mhz": 1750,
        "held_back_by": [],
        "temperature_c": None,
    }


def test_two_dies_of_a_package_share_its_counter_and_are_counted_once(metering: Metering) -> None:
    devices, notes, rounds, _ = metering(f"gpus=2;parts=2;power=500,300;{MI250X}", WATCH)
    assert [device["share"] for device in devices] == [0.5] * 4
    assert {device["energy_kind"] for device in devices} == {"counter"}
    assert mean_power_w(rounds, 0, 1) == pytest.approx(500, rel=STEPS)
    assert mean_power_w(rounds, 2, 3) == pytest.approx(300, rel=STEPS)
    last = rounds[-1][0]
    # All of the package is the job's: how it divides adds nothing to the range.
    assert last["high_j"] / last["energy_j"] == pytest.approx(1.05)
    assert "of which the job has all parts" in str(notes)


def test_one_die_of_a_package_is_an_estimate_whose_range_the_other_die_explains(metering: Metering) -> None:
    script = "meter = open_gpu_meters(); show([meter.devices, watch(meter, 1.0)])"
    devices, rounds = metering(f"gpus=2;parts=2;power=500,300;{MI250X}", script, HIP_VISIBLE_DEVICES="3")
    assert [(d["name"], d["energy_kind"]) for d in devices] == [("AMD Instinct MI250X die 1", "modelled")]
    assert mean_power_w(rounds, 0) == pytest.approx(150, rel=STEPS)
    last = rounds[-1][0]
    assert (last["kind"], last["fault"]) == ("modelled", None)
    assert last["low_j"] < 0.5 * last["energy_j"]
    assert last["high_j"] > 1.5 * last["energy_j"]


@pytest.mark.parametrize("others", ["na", "zero"])
def test_partitions_of_a_gpu_are_counted_once_though_only_the_first_tells(metering: Metering, others: str) -> None:
    devices, _, rounds, _ = metering(f"parts=8;power=600;others={others}", WATCH)
    assert [device["share"] for device in devices] == [0.125] * 8
    assert len({device["key"] for device in devices}) == 8
    assert mean_power_w(rounds, *range(8)) == pytest.approx(600, rel=0.01)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-00000051a3d00100,GPU-00000051a3d00300"}, [1, 3]),
        ({"ROCR_VISIBLE_DEVICES": "1,3", "HIP_VISIBLE_DEVICES": "1"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "1"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"SLURM_JOB_GPUS": "0,2"}, [0, 2]),
    ],
)
def test_variables_select_gpus_as_rocm_reads_them(
    metering: Metering, variables: dict[str, str], expected: list[int]
) -> None:
    listed = metering("gpus=4", LISTED, **variables)
    assert [key for key, *_ in listed] == [f"GPU-00000051a3d00{index}00" for index in expected]


def test_a_library_that_does_not_number_for_hip_is_read_by_its_own_order_and_names(metering: Metering) -> None:
    listed = metering("gpus=2;enumeration=0", LISTED, HIP_VISIBLE_DEVICES="1")
    assert [key for key, *_ in listed] == ["GPU-00ff74a1-0000-1000-8051-0051a3d00100"]


# Spec of each GPU's fault, the code of it, and whether only the range must hold the truth.
FAULTS: dict[str, tuple[str, str | None, bool]] = {
    "goes back to zero": ("reset@0.7", "counter_reset", False),
    "sticks": ("stuck@0.7", "counter_stuck", False),
    "jumps": ("offset@0.7=1e9", "counter_jump", False),
    "is lost for good": ("lost@0.7", "lost", True),
    "counter becomes not available": ("counter_reads@0.7=1e30", "not_supported", False),
    "power is not available": ("power_reads=1e9", None, False),
    "is denied": ("no_permission@0.7", "permission", True),
    "has no counter": ("no_counter", None, False),
    "no fault": ("throttle=1", None, False),
}


@pytest.fixture(scope="module")
def faulty(metering: Metering) -> Rounds:
    """Return readings of a GPU for each fault, two seconds apart. The times of faults count from the second
    reading on.
    """
    specs = [spec for spec, *_ in FAULTS.values()]
    faults = ",".join(f"{gpu}:{spec}" for gpu, spec in enumerate(specs))
    script = """
meters = open_meters(JobPart(include_host=False), boot_id="boot-1")
contexts = [meters.context_changes()]
rounds = [meters.read()]
for number in range(5):
    wait(1.5)
    rounds.append(meters.read())
    arm()
show([rounds, contexts + [meters.context_changes()]])
"""
    rounds, contexts = metering(f"gpus={len(FAULTS)};power=400;fault={faults}", script)
    held = [change["data"]["key"] for change in contexts[1] if change["data"]["held_back_by"] == ["power cap"]]
    assert held == [f"GPU-00000051a3d00{len(FAULTS) - 1}00"]
    return rounds  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_and_the_truth_lies_in_the_stated_range(faulty: Rounds, name: str) -> None:
    gpu = list(FAULTS).index(name)
    _, code, only_range = FAULTS[name]
    readings = [one[gpu] for one in faulty]
    true_j = 400 * (readings[-1]["monotonic_s"] - readings[0]["monotonic_s"])
    low_j, energy_j, high_j = (readings[-1][key] - readings[0][key] for key in ("low_j", "energy_j", "high_j"))
    assert low_j <= 1.005 * true_j
    assert high_j >= 0.995 * true_j
    assert only_range or energy_j == pytest.approx(true_j, rel=0.05)
    told = {reading["fault"]: reading["message"] for reading in readings if reading["fault"]}
    assert set(told) == ({code} if code else set())
    assert all(told.values())
    energies = [reading["energy_j"] for reading in readings]
    assert energies == sorted(energies)


def test_a_lost_gpu_is_estimated_and_labelled(faulty: Rounds) -> None:
    last = faulty[-1][list(FAULTS).index("is lost for good")]
    assert last["kind"] == "modelled"
    assert last["estimated_j"] > 0
    assert "its energy is estimated at 400 W" in last["message"]


def test_a_library_that_hangs_keeps_nobody_and_is_estimated(metering: Metering) -> None:
    script = """
meter = open_gpu_meters()
first = meter.read()
while first[0].kind != "counter":  # a busy machine may keep even a driver that is well
    first = meter.read()
arm()
second = meter.read()
show([first, second])
sys.stdout.flush()
os._exit(0)
"""
    first, second = metering("power=400;fault=0:slow@0=300", script, true_time=True)
    assert first[0]["kind"] == "counter"
    assert (second[0]["kind"], second[0]["fault"]) == ("modelled", "slow")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("error=34", "amd_smi_driver_not_loaded"), ("no_permission", "amd_smi_permission"), ("slow=300", "amd_smi_hangs")],
)
def test_a_library_that_cannot_be_opened_is_a_reason(metering: Metering, fault: str, kind: str) -> None:
    script = """
from carbon_plugin.meters.gpu import session
session.OPEN_WAIT_S = 1.0
meter = open_gpu_meters()
show([[p.kind for p in meter.problems], meter.read(), meter.contexts(), meter.devices])
sys.stdout.flush()
os._exit(0)
"""
    kinds, *nothing = metering(f"fault=init:{fault}", script, true_time=True)
    assert kind in kinds
    assert nothing == [[], {}, []]


def test_somebody_who_shuts_the_library_down_stops_no_metering(metering: Metering) -> None:
    script = """
meter = open_gpu_meters()
rounds = [meter.read()]
import amdsmi
amdsmi.amdsmi_shut_down()
wait(0.5)
rounds.append(meter.read())
show(rounds)
"""
    rounds = metering("power=400", script)
    assert (rounds[1][0]["kind"], rounds[1][0]["fault"]) == ("counter", None)
    assert mean_power_w(rounds, 0) == pytest.approx(400, rel=STEPS)


def test_gpus_of_both_vendors_in_one_machine_are_metered_side_by_side(metering: Metering, nvml_simulator: Any) -> None:
    script = "meter = open_gpu_meters(); show([meter.selection, watch(meter, 1.0), meter.inventory.driver_version])"
    beside = {"LD_LIBRARY_PATH": str(nvml_simulator), "NVML_SIM": "gpus=1;power=300;counter_step=0.01"}
    selection, rounds, version = metering("gpus=1;power=500", script, **beside)
    assert [key[:12] for key in selection["uuids"]] == ["GPU-00000051", "GPU-00000051"]
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=STEPS)
    assert mean_power_w(rounds, 1) == pytest.approx(500, rel=STEPS)
    assert version == "570.0.simulated, 6.14.simulated"
    chosen = metering("gpus=2", LISTED, **beside, CUDA_VISIBLE_DEVICES="0")
    assert [key for key, *_ in chosen] == ["GPU-00000051-5133-4d00-8000-000000000000"]
    chosen = metering("gpus=2", LISTED, **beside, CUDA_VISIBLE_DEVICES="0", HIP_VISIBLE_DEVICES="1")
    assert [key for key, *_ in chosen] == ["GPU-00000051-5133-4d00-8000-000000000000", "GPU-00000051a3d00100"]


def test_without_the_library_nothing_of_amd_is_imported_or_told() -> None:
    script = """
import sys
from carbon_plugin.meters.gpu.open import open_gpu_meters
meter = open_gpu_meters()
print("amdsmi" in sys.modules, [p.kind for p in meter.problems if p.kind.startswith("amd_smi")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False []\n", "")


def test_a_library_whose_module_is_missing_or_does_not_fit_is_a_reason(metering: Metering) -> None:
    script = """
from types import SimpleNamespace
from carbon_plugin.meters.gpu import amd_smi
found = []
for module in (None, SimpleNamespace(__spec__=1)):  # missing, and one that lacks what it should have
    sys.modules["amdsmi"] = module
    try:
        amd_smi.AmdSmiDriver()
    except amd_smi.GpuError as error:
        found.append([error.code, str(error)])
show(found)
"""
    missing, other = metering("gpus=1", script)
    assert missing == ["no_library", "the Python module amdsmi is missing"]
    assert other[0] == "version_mismatch"
