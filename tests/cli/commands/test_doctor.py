"""`carbon-plugin doctor` in processes of their own, under real and simulated drivers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.footprint.intensity import average_intensity
from carbon_plugin.spec.site import Site
from tests.launcher.client import CommandLine

Environment = Callable[..., dict[str, str]]


class Doctor:
    """The command under an environment: all that it prints, or its findings."""

    def __init__(self, command_line: CommandLine) -> None:
        self._command_line = command_line

    def run(self, environment: dict[str, str], *arguments: str) -> str:
        done = self._command_line("doctor", *arguments, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def findings(self, environment: dict[str, str]) -> list[dict[str, Any]]:
        return json.loads(self.run(environment, "--json"))["findings"]  # type: ignore[no-any-return]

    def about(self, environment: dict[str, str], area: str) -> str:
        return "\n".join(f"{one['state']}: {one['text']}" for one in self.findings(environment) if one["area"] == area)


@pytest.fixture
def doctor(command_line: CommandLine) -> Doctor:
    """Run the command: `doctor.about(environment, "GPUs")`."""
    return Doctor(command_line)


def test_gpus_are_named_with_uuid_way_of_reading_and_profile(doctor: Doctor, simulated_nvml: Environment) -> None:
    gpus = doctor.about(simulated_nvml("gpus=2;power=300,400"), "GPUs")
    assert "measured: NVIDIA H100 80GB HBM3 GPU-00000051-5133-4d00-8000-000000000001: by its energy counter" in gpus
    assert "400 W now" in gpus
    assert "note: NVIDIA H100 80GB HBM3 has the hardware profile h100-sxm" in gpus
    assert "all 2 GPUs that NVML shows are taken as reserved" in gpus


def test_json_is_one_document_with_the_devices_of_a_ledger(doctor: Doctor, simulated_nvml: Environment) -> None:
    document = json.loads(doctor.run(simulated_nvml("gpus=2"), "--json"))
    assert [device["rung"] for device in document["devices"]][:2] == ["gpu", "gpu"]
    assert document["host_key"]


def test_plain_words_are_grouped_by_area(doctor: Doctor, simulated_nvml: Environment) -> None:
    text = doctor.run(simulated_nvml("gpus=1"))
    areas = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert areas == ["GPUs", "Host and network", "Boundary", "Machine", "Software", "Location"]
    assert "-> name the zone of the machine's grid" in text


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fault=init:driver_not_loaded", "missing: NVIDIA GPUs cannot be metered: NVML error 9: Driver Not Loaded"),
        ("fault=0:no_counter", "(no energy counter: power is integrated)"),
        ("fault=0:no_permission", "Insufficient Permissions"),
        ("gpus=2;fault=1:lost", "missing: GPU with NVML index 1 does not answer: NVML error 15: GPU is lost"),
        ("name=NVIDIA Unheard-Of 1", "missing: NVIDIA Unheard-Of 1 has no hardware profile"),
    ],
)
def test_what_cannot_be_measured_is_said(doctor: Doctor, simulated_nvml: Environment, spec: str, words: str) -> None:
    assert words in doctor.about(simulated_nvml(spec), "GPUs")


def test_a_mig_device_is_modelled_and_says_why(doctor: Doctor, simulated_nvml: Environment) -> None:
    part = "MIG-000000a0-5133-4d00-8000-000000000000"
    gpus = doctor.about(simulated_nvml("mig=0:3/4", CUDA_VISIBLE_DEVICES=part), "GPUs")
    assert f"modelled: NVIDIA H100 80GB HBM3 MIG 3g.30gb {part}" in gpus
    assert "estimate: 0.429 of the energy of its GPU" in gpus


def test_hidden_gpus_come_with_what_to_do(doctor: Doctor, simulated_nvml: Environment) -> None:
    (hidden,) = (
        one for one in doctor.findings(simulated_nvml("gpus=2", CUDA_VISIBLE_DEVICES="-1")) if "none of" in one["text"]
    )
    assert hidden["text"].endswith("because CUDA_VISIBLE_DEVICES=-1")
    assert hidden["advice"] == "set CUDA_VISIBLE_DEVICES to the GPUs of the job, or unset it"


def test_each_rung_of_the_boundary_has_its_coverage(doctor: Doctor, simulated_nvml: Environment) -> None:
    lines = doctor.about(simulated_nvml("gpus=8"), "Boundary").splitlines()
    assert lines[0] == "measured: accelerators"
    assert lines[2:] == [
        "modelled: network",
        "missing: shared storage: in no meter and no profile",
        "modelled: facility: the machines times the PUE of the site",
    ]


def test_accuracy_limits_and_throttling_are_told(doctor: Doctor, simulated_nvml: Environment) -> None:
    gpus = doctor.about(simulated_nvml("power=400;fault=0:limit=400"), "GPUs")
    assert "400 W now, ±5 % (its sensor looks 25 % of the time)" in gpus
    assert "power limit 400 W of 700 W, SM clock 1755 MHz, held back by power cap" in gpus


def test_a_node_meter_is_tried(doctor: Doctor, simulated_nvml: Environment, tmp_path: Path) -> None:
    (tmp_path / "energy").write_text("1000 J 0 us")
    (tmp_path / "power").write_text("5000 W 0 us")
    spec, address = "gpus=8", f"pm_counters://{tmp_path}"
    host = doctor.about(simulated_nvml(spec, CARBON_PLUGIN_NODE_METER=address), "Host and network")
    assert f"measured: host: pm_counters energy counter; what pm_counters {tmp_path} reads beside the GPUs" in host
    (tmp_path / "energy").unlink()
    missing = doctor.about(simulated_nvml(spec, CARBON_PLUGIN_NODE_METER=address), "Host and network")
    assert "missing: the node meter cannot be used" in missing
    assert "modelled: host" in missing


@pytest.mark.parametrize(("told_w", "fits"), [("155", False), ("0", False), ("3000", True)])
def test_a_node_meter_below_its_gpus_is_contradicted(
    doctor: Doctor, simulated_nvml: Environment, tmp_path: Path, told_w: str, fits: bool
) -> None:
    (tmp_path / "energy").write_text("1000 J 0 us")
    (tmp_path / "power").write_text(f"{told_w} W 0 us")
    environment = simulated_nvml("gpus=8;power=300", CARBON_PLUGIN_NODE_METER=f"pm_counters://{tmp_path}")
    said = f"missing: the node meter tells {told_w} W while the GPUs inside the node draw 2400 W, which cannot be"
    assert (said in doctor.about(environment, "Host and network")) is not fits


def test_without_a_node_meter_there_is_advice(doctor: Doctor, simulated_nvml: Environment) -> None:
    (found,) = (one for one in doctor.findings(simulated_nvml("gpus=1")) if "no meter of the whole node" in one["text"])
    assert "CARBON_PLUGIN_NODE_METER" in found["advice"]


def test_the_grid_of_a_zone_is_looked_up(doctor: Doctor, simulated_nvml: Environment) -> None:
    intensity = average_intensity(Site(zone="FRA")).figure

    said = doctor.run(simulated_nvml("gpus=1"), "--site", "FRA")

    assert f"France: {intensity.value:.4g} gCO2e/kWh ({intensity.low:.4g} to {intensity.high:.4g})" in said
    with pytest.raises(AssertionError, match="zone 'nowhere' is unknown"):
        doctor.run(simulated_nvml("gpus=1"), "--site", "nowhere")


def test_an_address_that_cannot_be_used_is_one_line(simulated_nvml: Environment, command_line: CommandLine) -> None:
    done = command_line("doctor", "--node-meter", "x://y", env=simulated_nvml("gpus=1"))
    assert done.returncode != 0
    assert "unknown node_meter 'x'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_switched_off_plugin_is_pointed_out(doctor: Doctor, simulated_nvml: Environment) -> None:
    software = doctor.about(simulated_nvml("gpus=1", CARBON_PLUGIN_DISABLED="1"), "Software")
    assert "CARBON_PLUGIN_DISABLED=1 is set" in software


def test_torch_is_reported_without_being_imported(simulated_nvml: Environment) -> None:
    script = (
        "from carbon_plugin.cli.commands.doctor import diagnose; import sys; "
        "d = diagnose(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=simulated_nvml("gpus=1"), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_broken_profile_of_the_user_is_a_finding_and_no_traceback(
    doctor: Doctor, simulated_nvml: Environment
) -> None:
    gpus = doctor.about(simulated_nvml("gpus=1", CARBON_PLUGIN_PROFILES="/nowhere/at/all"), "GPUs")
    assert "missing: hardware profiles cannot be read" in gpus
    assert "measured: NVIDIA H100" in gpus


def test_without_gpus_each_vendor_is_named_with_what_would_be_needed(
    doctor: Doctor, simulated_nvml: Environment
) -> None:
    environment = simulated_nvml("gpus=1")
    environment.pop("LD_LIBRARY_PATH")
    text = doctor.run(environment)

    assert "missing   NVIDIA GPUs cannot be metered: " in text
    assert "missing   AMD GPUs: this machine shows none" in text
    assert "normal without AMD GPUs; else install ROCm's library amd-smi-lib" in text
