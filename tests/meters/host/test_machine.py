"""What a host says of itself, from folders shaped like /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.meters.host.machine import read_host_info


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def cpuinfo(sockets: int, cores: int, threads: int) -> str:
    """Return logical CPUs as the kernel lists them, including the hyper-threads of one core."""
    blocks = [
        f"processor\t: {number}\nmodel name\t: Test CPU 9000\nphysical id\t: {socket}\ncore id\t\t: {core}\n"
        for number, (_, socket, core) in enumerate(
            (thread, socket, core) for thread in range(threads) for socket in range(sockets) for core in range(cores)
        )
    ]
    return "\n".join(blocks)


def test_a_server_tells_its_boot_its_cpu_and_its_memory(tmp_path: Path) -> None:
    files = {
        "proc/sys/kernel/random/boot_id": "6f1e0ab2-0000\n",
        "proc/cpuinfo": cpuinfo(sockets=2, cores=4, threads=2),
        "proc/meminfo": "MemTotal:       2113929216 kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": "0::/\n",
    }
    info = read_host_info(write(tmp_path, files), environ={})
    assert (info.boot_id, info.key) == ("6f1e0ab2-0000", "6f1e0ab2-0000")
    assert (info.cpu_name, info.logical_cores, info.physical_cores) == ("Test CPU 9000", 16, 8)
    assert info.memory_bytes == info.usable_memory_bytes == 2113929216 * 1024
    assert (info.container, info.virtual_machine) == (None, False)


def test_a_cgroup_narrows_cores_and_memory(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": cpuinfo(sockets=1, cores=64, threads=1),
        "proc/meminfo": "MemTotal: 536870912 kB\n",
        "proc/self/cgroup": "0::/kubepods/pod1\n",
        "sys/fs/cgroup/kubepods/pod1/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/kubepods/pod1/memory.max": "17179869184\n",
    }
    info = read_host_info(write(tmp_path, files), environ={})
    assert info.allowed_cores == pytest.approx(0.5)
    assert info.usable_memory_bytes == 16 << 30
    assert info.container == "kubepods"


def test_limits_of_the_first_cgroup_version_are_read_too(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": cpuinfo(sockets=1, cores=8, threads=1),
        "proc/meminfo": "MemTotal: 1048576 kB\n",
        "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "25000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
    }
    info = read_host_info(write(tmp_path, files), environ={})
    assert info.allowed_cores == pytest.approx(0.25)
    assert info.memory_limit_bytes is None


@pytest.mark.parametrize(
    ("files", "environ", "container"),
    [
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({}, {"APPTAINER_NAME": "image.sif"}, "apptainer"),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({"proc/self/cgroup": "0::/system.slice/docker-1.scope\n"}, {}, "docker"),
        ({}, {}, None),
    ],
)
def test_containers_leave_hints(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], container: str | None
) -> None:
    assert read_host_info(write(tmp_path, files), environ=environ).container == container


def test_a_virtual_machine_shows_in_the_cpu_flags(tmp_path: Path) -> None:
    info = read_host_info(write(tmp_path, {"proc/cpuinfo": "processor : 0\nflags : fpu hypervisor sse\n"}), environ={})
    assert info.virtual_machine


def test_a_machine_that_tells_nothing_still_has_a_key_and_a_core(tmp_path: Path) -> None:
    info = read_host_info(tmp_path, environ={})
    assert info.key == f"hostname-{info.hostname}"
    assert info.logical_cores >= 1
    assert info.allowed_cores > 0


def test_this_machine_answers() -> None:
    info = read_host_info()
    assert info.memory_bytes > 0
    assert 0 < info.allowed_cores <= info.logical_cores
