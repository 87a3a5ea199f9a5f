"""The NVML meter on the real pynvml and the simulated driver, each fault in a process of its own.

Where `speed` is 10, the fault schedule and the counter steps run ten times faster, so "@5" is half a second after the
first reading, however long the process took to get there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Metering = Callable[..., Any]
Rounds = list[list[dict[str, Any]]]

FIRST = "GPU-00000051-5133-4d00-8000-000000000000"
SECOND = "GPU-00000051-5133-4d00-8000-000000000001"
THIRD = "GPU-00000051-5133-4d00-8000-000000000002"

WATCH = "meter = open_nvml_meter(); show(watch(meter, 1.0))"


def mean_power_w(rounds: Rounds, device: int) -> float:
    first, last = rounds[0][device], rounds[-1][device]
    return float((last["energy_j"] - first["energy_j"]) / (last["monotonic_s"] - first["monotonic_s"]))


def column(rounds: Rounds, device: int, field: str) -> list[Any]:
    return [one_round[device][field] for one_round in rounds]


def test_two_gpus_at_300_and_400_w_give_300_and_400_w(metering: Metering) -> None:
    rounds = metering("gpus=2;power=300,400;speed=10", WATCH)
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)
    assert mean_power_w(rounds, 1) == pytest.approx(400, rel=0.03)
    assert set(column(rounds, 0, "kind")) == {"counter"}
    assert set(column(rounds, 0, "fault")) == {None}
    last = rounds[-1][1]
    assert last["power_w"] == pytest.approx(400)
    assert last["low_j"] == pytest.approx(0.95 * last["energy_j"])
    assert last["high_j"] == pytest.approx(1.05 * last["energy_j"])


def test_devices_say_who_they_are_and_how_they_are_read(metering: Metering) -> None:
    script = "meter = open_nvml_meter(); show([meter.devices, meter.notes, meter.poll_interval_s])"
    devices, notes, poll_interval_s = metering("gpus=2", script)
    assert devices[0] == {
        "key": FIRST,
        "name": "NVIDIA H100 80GB HBM3",
        "rung": "gpu",
        "scope": "gpu",
        "meter": "nvml energy counter",
        "energy_kind": "counter",
        "accuracy": {"proportional": 0.05, "source": "arXiv 2312.02741", "sampled_share": 0.25, "age_s": 0.1},
    }
    assert devices[1]["key"] == SECOND
    assert ["gpu_selection", "2 GPUs are taken as reserved: every GPU that NVML shows"] in notes
    assert poll_interval_s is None


def test_a_lost_gpu_is_estimated_from_its_last_power_and_its_neighbour_goes_on(metering: Metering) -> None:
    rounds = metering("gpus=2;power=300;speed=10;fault=1:lost@5", WATCH)
    first, last = rounds[0][1], rounds[-1][1]
    assert (first["kind"], first["fault"]) == ("counter", None)
    assert (last["kind"], last["fault"]) == ("modelled", "lost")
    assert last["message"] == (
        f"{SECOND} could not be read: NVML error 15: GPU is lost; its energy is estimated at 300 W (70 to 700 W)"
    )
    assert mean_power_w(rounds, 1) == pytest.approx(300, rel=0.03)
    lost_s = sum(one[1]["kind"] == "modelled" for one in rounds) * 0.1
    assert last["estimated_j"] == pytest.approx(300 * lost_s, rel=0.4)
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_a_lost_gpu_is_thought_to_have_changed_as_its_peers_have(metering: Metering) -> None:
    spec = "gpus=3;power=300,steps:400@0/100@20,steps:400@0/100@20;speed=10;fault=0:lost@1"
    rounds = metering(spec, "meter = open_nvml_meter(); show(watch(meter, 2.5))")
    before, after = (next(one for one in rounds[at:] if one[0]["fault"] == "lost") for at in (0, -1))
    assert "estimated at 300 W" in before[0]["message"]
    assert "estimated at 75 W" in after[0]["message"]


def test_a_gpu_that_was_lost_before_the_start_is_a_problem_and_is_not_metered(metering: Metering) -> None:
    script = "meter = open_nvml_meter(reserved=[0, 1]); show([meter.devices, meter.notes, meter.selection.missing])"
    devices, notes, missing = metering("gpus=2;fault=1:lost", script)
    assert [device["energy_kind"] for device in devices] == ["counter"]
    assert ["nvml_problem", "GPU with NVML index 1 does not answer: NVML error 15: GPU is lost"] in notes
    assert missing == ["1"]


def test_a_counter_reset_is_reported_once_and_the_gap_is_estimated(metering: Metering) -> None:
    rounds = metering("power=300;speed=10;fault=0:reset@5", WATCH)
    faults = [fault for fault in column(rounds, 0, "fault") if fault]
    assert faults == ["counter_reset"]
    reset = next(one_round[0] for one_round in rounds if one_round[0]["fault"])
    assert reset["kind"] == "power_integrated"
    assert "by power times time" in reset["message"]
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)
    energies = column(rounds, 0, "energy_j")
    assert energies == sorted(energies)


def test_a_stuck_counter_is_noticed_and_power_is_integrated(metering: Metering) -> None:
    rounds = metering("power=300;speed=10;fault=0:stuck@3", "meter = open_nvml_meter(); show(watch(meter, 3.0))")
    last = rounds[-1][0]
    assert (last["kind"], last["fault"]) == ("power_integrated", "counter_stuck")
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_without_a_counter_power_is_integrated_and_says_so(metering: Metering) -> None:
    script = """
meter = open_nvml_meter()
show([meter.devices, watch(meter, 1.0), meter.poll_interval_s])
"""
    devices, rounds, poll_interval_s = metering("power=300;fault=0:no_counter", script)
    assert devices[0]["energy_kind"] == "power_integrated"
    assert devices[0]["note"] == "no energy counter: power is integrated"
    assert poll_interval_s == 1.0
    assert set(column(rounds, 0, "kind")) == {"power_integrated"}
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_a_counter_that_goes_away_is_replaced_and_covers_the_gap_when_it_returns(metering: Metering) -> None:
    rounds = metering("power=300;speed=10;fault=0:no_counter@3-7", WATCH)
    kinds = column(rounds, 0, "kind")
    assert kinds[0] == kinds[-1] == "counter"
    assert "power_integrated" in kinds
    assert "not_supported" in column(rounds, 0, "fault")
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_neither_counter_nor_power_is_an_estimate_within_the_limit_and_never_a_zero(metering: Metering) -> None:
    script = "meter = open_nvml_meter(); show([meter.devices, watch(meter, 0.3)])"
    devices, rounds = metering("fault=0:no_counter;fault=0:no_power", script)
    assert devices[0]["energy_kind"] == "absent"
    assert set(column(rounds, 0, "fault")) == {"not_supported"}
    assert set(column(rounds[1:], 0, "kind")) == {"modelled"}
    last = rounds[-1][0]
    assert last["estimated_j"] == pytest.approx(last["energy_j"])
    assert last["low_j"] / 70 == pytest.approx(last["energy_j"] / 385) == pytest.approx(last["high_j"] / 700)


def test_a_denied_read_is_absent_with_the_reason(metering: Metering) -> None:
    (reading,) = metering("fault=0:no_permission", "show(open_nvml_meter().read())")
    assert (reading["kind"], reading["fault"]) == ("absent", "permission")
    assert "Insufficient Permissions" in reading["message"]


def test_an_unknown_driver_error_for_a_while_is_covered_afterwards(metering: Metering) -> None:
    rounds = metering("power=300;speed=10;fault=0:error@3-6=999", WATCH)
    assert "error" in column(rounds, 0, "fault")
    assert rounds[-1][0]["kind"] == "counter"
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_a_slow_call_is_reported_with_its_duration_and_the_neighbour_is_right(metering: Metering) -> None:
    script = "meter = open_nvml_meter(slow_call_s=0.2); show(watch(meter, 2.0))"
    rounds = metering("gpus=2;power=300,400;speed=10;fault=0:slow@3=2", script)
    slow = rounds[-1][0]
    assert slow["fault"] == "slow"
    assert re.fullmatch(rf"{FIRST}: one read took \d+\.\d s in the driver", slow["message"])
    assert rounds[-1][1]["fault"] is None
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)
    assert mean_power_w(rounds, 1) == pytest.approx(400, rel=0.03)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("driver_not_loaded", "nvml_driver_not_loaded", "Driver Not Loaded"),
        ("no_permission", "nvml_permission", "Insufficient Permissions"),
        ("version_mismatch", "nvml_version_mismatch", "version mismatch"),
        ("error=999", "nvml_error", "Unknown Error"),
    ],
)
def test_a_failing_initialisation_is_a_reason_and_no_exception(
    metering: Metering, fault: str, kind: str, words: str
) -> None:
    answer = metering(f"fault=init:{fault}", "show(open_nvml_meter())")
    assert answer["kind"] == kind
    assert answer["reason"].startswith("NVIDIA GPUs cannot be metered: NVML error")
    assert words in answer["reason"]


def test_without_a_driver_library_there_is_a_reason_with_advice() -> None:
    script = "from carbon_plugin.meters.gpu.open import open_gpu_meters; print(open_gpu_meters().shown)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"LD_LIBRARY_PATH": "/nowhere"}, capture_output=True, text=True, check=True
    )
    if "Unavailable" in done.stdout:  # a machine with NVIDIA GPUs has a library that no variable hides
        assert "nvml_no_library" in done.stdout
        assert "utility capability" in done.stdout


@pytest.mark.parametrize(
    ("visible", "keys"),
    [
        ("1,0", [SECOND, FIRST]),
        ("2", [THIRD]),
        (f"{THIRD},{FIRST}", [THIRD, FIRST]),
        (THIRD[:-1] + "2", [THIRD]),
        ("-1", []),
    ],
)
def test_remapped_devices_are_metered_by_uuid(metering: Metering, visible: str, keys: list[str]) -> None:
    script = "meter = open_nvml_meter(); show([[d.key for d in meter.devices], meter.read(), meter.read()])"
    found, _, readings = metering("gpus=3;power=100,200,300;counter_step=0.001", script, CUDA_VISIBLE_DEVICES=visible)
    assert found == keys
    watts = {FIRST: 100, SECOND: 200, THIRD: 300}
    assert [reading["power_w"] for reading in readings] == [watts[key] for key in keys]


@pytest.mark.parametrize(
    ("slices", "shares"),
    [("1c.7g/2c.7g/4c.7g", [1 / 7, 2 / 7, 4 / 7]), ("1c.3g", [1 / 7]), ("3c.3g/2/2", [3 / 7, 2 / 7, 2 / 7])],
)
def test_compute_instances_of_one_gpu_instance_share_it_by_their_compute_slices(
    metering: Metering, slices: str, shares: list[float]
) -> None:
    script = """
parts = ",".join(part.uuid for part in list_gpus().gpus[0].slices)
meter = open_nvml_meter(reserved=parts.split(","))
show([meter.devices, watch(meter, 0.5), meter.whole[0].energy_j])
"""
    devices, rounds, whole_j = metering(f"power=300;mig=0:{slices};counter_step=0.001", script)
    assert [device["share"] for device in devices] == pytest.approx(shares)
    assert [one["energy_j"] for one in rounds[-1]] == pytest.approx([share * whole_j for share in shares])


def test_a_mig_device_gets_its_share_of_its_gpu_as_an_estimate(metering: Metering) -> None:
    script = """
part = list_gpus().gpus[0].slices[0].uuid
meter = open_nvml_meter(environ={"CUDA_VISIBLE_DEVICES": part})
show([part, meter.devices, watch(meter, 0.5), meter.gpu_equivalents])
"""
    part, (device,), rounds, gpu_equivalents = metering("power=350;speed=10;mig=0:3/2/2", script)
    assert device["key"] == part
    assert device["energy_kind"] == "modelled"
    assert device["note"] == f"estimate: 0.429 of the energy of its GPU {FIRST}, by compute slices"
    assert device["share"] == gpu_equivalents == pytest.approx(3 / 7)
    assert mean_power_w(rounds, 0) == pytest.approx(150, rel=0.03)
    last = rounds[-1][0]
    assert last["kind"] == "modelled"
    assert last["low_j"] < 0.6 * last["energy_j"]
    assert last["high_j"] > 1.4 * last["energy_j"]


def test_beside_a_grace_cpu_the_scope_of_the_gpu_alone_is_read(metering: Metering) -> None:
    spec = "name=NVIDIA GH200 480GB;power=300;module_power=150;default_scope=module;speed=10"
    script = "meter = open_nvml_meter(); show([meter.devices, watch(meter, 0.5)])"
    (device,), rounds = metering(spec, script)
    assert device["scope"] == "gpu"
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


def test_where_only_the_module_answers_the_scope_says_so(metering: Metering) -> None:
    spec = "name=NVIDIA GH200 480GB;power=300;module_power=150;default_scope=module;speed=10;fault=0:no_field"
    script = "meter = open_nvml_meter(); show([meter.devices, watch(meter, 0.5)])"
    (device,), rounds = metering(spec, script)
    assert device["scope"] == "module"
    assert "GPU and Grace CPU together" in device["note"]
    assert mean_power_w(rounds, 0) == pytest.approx(450, rel=0.03)


def test_a_shutdown_by_somebody_else_in_the_process_is_survived(metering: Metering) -> None:
    script = """
import pynvml
meter = open_nvml_meter()
pynvml.nvmlShutdown()
show(meter.read())
"""
    (reading,) = metering("power=300", script)
    assert (reading["kind"], reading["fault"]) == ("counter", None)


def test_a_forked_child_reads_nothing_and_never_calls_the_driver(metering: Metering, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    script = """
meter = open_nvml_meter()
pid = os.fork()
if pid == 0:
    meter.close()
    os._exit(len(meter.read()))
_, status = os.waitpid(pid, 0)
show([pid, os.waitstatus_to_exitcode(status), len(meter.read())])
"""
    child, readings_in_child, readings_in_parent = metering(f"gpus=2;log={log}", script)
    callers = {line.split()[0] for line in log.read_text().splitlines()}
    assert (readings_in_child, readings_in_parent) == (0, 2)
    assert len(callers) == 1
    assert str(child) not in callers


def test_a_closed_meter_reads_nothing_and_may_be_closed_again(metering: Metering) -> None:
    assert metering("", "meter = open_nvml_meter(); meter.close(); meter.close(); show(meter.read())") == []


def test_closing_does_not_wait_for_a_read_that_hangs_in_the_driver(metering: Metering) -> None:
    script = """
import threading
meter = open_nvml_meter()
arm()
threading.Thread(target=meter.read, daemon=True).start()
wait(0.1)
meter.close()
show("closed while the driver hangs")
sys.stdout.flush()
os._exit(0)
"""
    found = metering("speed=10;fault=0:slow@0=6000", script, true_time=True)
    assert found == "closed while the driver hangs"


def test_a_denied_reading_is_estimated_with_its_reason_and_a_recovered_one_covers_the_gap(metering: Metering) -> None:
    rounds = metering("power=300;speed=10;fault=0:no_permission@3-6", WATCH)
    denied = [one_round[0] for one_round in rounds if one_round[0]["kind"] == "modelled"]
    assert {reading["fault"] for reading in denied} == {"permission"}
    assert "Insufficient Permissions; its energy is estimated" in denied[0]["message"]
    assert rounds[-1][0]["kind"] == "counter"
    assert rounds[-1][0]["estimated_j"] == 0
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


CONTEXT = """
meters = open_meters()
first = meters.context_changes()
arm()
show([first, meters.context_changes()])
"""


def test_what_holds_a_gpu_back_is_told_once(metering: Metering) -> None:
    spec = "gpus=2;power=300,400;limit=700,400;speed=10"
    first, second = metering(spec, CONTEXT)
    assert [change["message"] for change in first] == [
        f"{FIRST}: power limit 700 W, SM clock 1755 MHz, not held back",
        f"{SECOND}: power limit 400 W, SM clock 1755 MHz, held back by power cap",
    ]
    assert first[1]["data"] == {
        "key": SECOND,
        "power_limit_w": 400.0,
        "default_power_limit_w": 400.0,
        "sm_clock_mhz": 1755,
        "held_back_by": ["power cap"],
    }
    assert second == []


@pytest.mark.parametrize(
    ("fault", "news"),
    [
        ("limit@0=350", "power limit 350 W of 700 W, SM clock 1755 MHz, not held back"),
        ("throttle@0=96", "held back by temperature (software), temperature (hardware)"),
        ("throttle@0=1", None),
        ("lost@0", None),
    ],
)
def test_another_limit_or_another_reason_is_news_and_idling_is_not(
    metering: Metering, fault: str, news: str | None
) -> None:
    _, second = metering(f"power=300;speed=10;fault=0:{fault}", CONTEXT)
    assert [change["message"].endswith(news or "") for change in second] == ([True] if news else [])


def test_gpus_that_match_a_profile_carry_its_name(metering: Metering) -> None:
    script = """
from carbon_plugin.spec.hardware.profiles import load_accelerator
show(open_nvml_meter(accelerator=load_accelerator("h100-sxm")).devices)
"""
    devices = metering("gpus=2;name=NVIDIA H100 80GB HBM3,NVIDIA T4", script)
    assert devices[0]["profile"] == "h100-sxm"
    assert "profile" not in devices[1]


def test_a_name_with_bytes_that_are_no_utf_8_is_replaced_and_metering_goes_on(metering: Metering) -> None:
    script = "meter = open_nvml_meter(); show([meter.devices, watch(meter, 0.4)])"
    devices, rounds = metering("gpus=2;power=300;speed=10;name=NVIDIA H\udcff\udc8000,NVIDIA H100 80GB HBM3", script)
    assert [device["name"] for device in devices] == ["NVIDIA H\ufffd\ufffd00", "NVIDIA H100 80GB HBM3"]
    assert mean_power_w(rounds, 0) == pytest.approx(300, rel=0.03)


SLOW = """
meters = open_meters(JobPart(include_host=False), boot_id="boot-1")
rounds = [meters.read()]
while any(one.energy is None or one.energy.value <= one.estimated_j for one in rounds[0]):  # no answer yet
    rounds = [meters.read()]
arm()
for second in (2, 4, 6):
    wait(max(0.0, rounds[0][0].monotonic_s + second - clock()))
    rounds.append(meters.read())
meters.close()
show([rounds, meters.notes])
sys.stdout.flush()
os._exit(0)  # whatever hangs in the driver is not waited for
"""


def test_a_driver_that_takes_seconds_for_a_call_is_right_in_the_total_and_keeps_nobody(metering: Metering) -> None:
    rounds, _ = metering("gpus=2;power=300,400;fault=0:slow=1,1:slow=1", SLOW, true_time=True)
    for gpu, watts in ((0, 300), (1, 400)):
        last = rounds[-1][gpu]
        assert mean_power_w(rounds, gpu) == pytest.approx(watts, rel=0.15)
        assert last["estimated_j"] < 0.9 * last["energy_j"]  # what had been told until then was measured
        assert last["low_j"] <= last["energy_j"] <= last["high_j"]
    assert "slow" in {one[0]["fault"] for one in rounds}


def test_a_driver_that_hangs_leaves_the_rest_of_the_run_estimated_and_labelled(metering: Metering) -> None:
    rounds, _ = metering("gpus=2;power=300,400;fault=0:slow@3=300", SLOW, true_time=True)
    for gpu, watts in ((0, 300), (1, 400)):
        last = rounds[-1][gpu]
        assert mean_power_w(rounds, gpu) == pytest.approx(watts, rel=0.1)
        assert (last["kind"], last["fault"]) == ("modelled", "slow")
        assert "the driver has not answered for" in last["message"]
        assert 0.3 * last["energy_j"] < last["estimated_j"] < last["energy_j"]


def test_a_driver_whose_initialisation_hangs_is_a_reason_at_once_for_all_who_ask(metering: Metering) -> None:
    script = """
first, second = list_gpus(), open_nvml_meter()
meters = open_meters(boot_id="boot-1")
show([first, second, [d.rung for d in meters.devices], meters.unread, len(meters.read())])
sys.stdout.flush()
os._exit(0)
"""
    first, second, rungs, unread, readings = metering(
        "fault=init:slow=300", script, true_time=True, CUDA_VISIBLE_DEVICES="0"
    )
    assert first["kind"] == second["kind"] == "nvml_hangs"
    assert "the driver has not answered for" in first["reason"]
    assert "gpu" not in rungs
    assert readings == len(rungs) > 0
    assert unread["count"] == 1
