"""GPUs that there are although nothing can meter them: from variables, device files and the PCI bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.meters.gpu.presence import unread_gpus
from carbon_plugin.meters.protocol import Unavailable

PROBLEM = Unavailable(kind="nvml_version_mismatch", reason="NVIDIA GPUs cannot be metered: mismatch", advice="reboot")


def pci(root: Path, *classes: tuple[str, str]) -> None:
    for position, (vendor, kind) in enumerate(classes):
        device = root / f"sys/bus/pci/devices/0000:{position:02x}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"SLURM_JOB_GPUS": "0,1,2,3", "CUDA_VISIBLE_DEVICES": "0"}, 4),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 8),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, None),
        ({}, 8),
    ],
)
def test_what_was_given_to_the_job_comes_before_what_the_machine_has(
    tmp_path: Path, environ: Mapping[str, str], count: int | None
) -> None:
    pci(tmp_path, *[("0x10de", "0x030200")] * 8)
    found = unread_gpus(PROBLEM, environ, container=False, root=tmp_path)
    assert (found and found.count) == count


def test_device_files_show_the_gpus_of_a_container(tmp_path: Path) -> None:
    pci(tmp_path, *[("0x10de", "0x030200")] * 8)
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    found = unread_gpus(PROBLEM, {}, container=True, root=tmp_path)
    assert found is not None
    assert found.sentence == (
        "2 GPUs are not metered (there are 2 device files /dev/nvidiaN): NVIDIA GPUs cannot be metered: mismatch"
    )


def test_the_bus_of_a_container_is_that_of_its_host_and_shows_nothing(tmp_path: Path) -> None:
    pci(tmp_path, ("0x10de", "0x030200"))
    assert unread_gpus(PROBLEM, {}, container=True, root=tmp_path) is None


def test_other_cards_and_the_audio_of_a_gpu_are_no_gpus(tmp_path: Path) -> None:
    pci(tmp_path, ("0x10de", "0x040300"), ("0x8086", "0x030000"), ("0x10de", "0x030000"))
    found = unread_gpus(PROBLEM, {}, container=False, root=tmp_path)
    assert found is not None
    assert found.sentence.startswith("1 GPU is not metered (the PCI bus lists 1 from NVIDIA)")


def test_the_meters_of_a_host_say_which_gpus_they_do_not_read_and_why(metering: Callable[..., Any]) -> None:
    script = "meters = open_meters(); show([meters.unread, meters.unread.data])"
    unread, data = metering("fault=init:version_mismatch", script, CUDA_VISIBLE_DEVICES="0,1")
    assert data["count"] == unread["count"] == 2
    assert data["kind"] == "nvml_version_mismatch"
    assert "reboot" in data["advice"]
