"""The job's part of a shared host, from the environment, from GPUs, and from the files of its cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carbon_plugin.meters.host.share import WHOLE, gpu_share, slurm_share, used_share

TICKS = os.sysconf("SC_CLK_TCK")
RESERVED = gpu_share(1, 4)


def machine(root: Path, *, cgroup: str, busy_s: float, job_s: float, job: str) -> None:
    """Write the files of a machine that was busy for some CPU seconds, some of them in the cgroup of a job."""
    folder = root / "sys/fs/cgroup" / job
    folder.mkdir(parents=True, exist_ok=True)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(f"0::{cgroup}\n")
    user, system = busy_s * TICKS * 0.75, busy_s * TICKS * 0.25
    (root / "proc/stat").write_text(f"cpu  {user:.0f} 0 {system:.0f} 99999 500 0 0 77 0 0\ncpu0 1 2 3\n")
    (folder / "cpu.stat").write_text(f"usage_usec {job_s * 1e6:.0f}\nuser_usec 1\nsystem_usec 1\n")


@pytest.mark.parametrize(
    ("environ", "share"),
    [
        ({}, None),
        ({"SLURM_CPUS_ON_NODE": "16"}, 0.25),
        ({"SLURM_CPUS_ON_NODE": "64"}, 1.0),
        ({"SLURM_JOB_CPUS_PER_NODE": "32(x4)"}, 0.5),
        ({"SLURM_JOB_CPUS_PER_NODE": "32(x2),16"}, None),
        ({"SLURM_CPUS_ON_NODE": "0"}, None),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_JOB_CPUS_PER_NODE": "32"}, 0.125),
    ],
)
def test_slurm_tells_the_share_of_the_cpus(environ: dict[str, str], share: float | None) -> None:
    found = slurm_share(environ, 64)
    assert (found and found.part.value) == share
    if found is not None:
        assert 0 < found.part.low <= found.part.value <= found.part.high <= 1


def test_a_share_by_gpus_has_a_range_below_the_whole() -> None:
    share = gpu_share(3, 4)
    assert (share.part.low, share.part.value, share.part.high) == (0.375, 0.75, 1.0)
    assert share.sentence == "the host is charged by its GPUs, 3 of 4: the others may be another job's"


def test_the_used_share_is_cpu_time_of_the_job_over_that_of_the_machine(tmp_path: Path) -> None:
    cgroup, job = "/system.slice/slurmstepd.scope/job_17/step_0/user/task_0", "system.slice/slurmstepd.scope/job_17"
    machine(tmp_path, cgroup=cgroup, busy_s=1000, job_s=50, job=job)
    share = used_share(RESERVED, tmp_path)
    assert share is not None
    machine(tmp_path, cgroup=cgroup, busy_s=1100, job_s=110, job=job)
    first = share()
    assert (first.part.low, first.part.value, first.part.high) == pytest.approx((0.125, 0.6, 0.6))
    machine(tmp_path, cgroup=cgroup, busy_s=1200, job_s=120, job=job)
    second = share()
    assert (second.part.low, second.part.value, second.part.high) == pytest.approx((0.1, 0.1, 0.375))


def test_without_news_from_the_cgroup_the_reserved_share_holds(tmp_path: Path) -> None:
    machine(tmp_path, cgroup="/job_17", busy_s=1000, job_s=50, job="job_17")
    share = used_share(RESERVED, tmp_path)
    assert share is not None
    assert share() == RESERVED
    (tmp_path / "sys/fs/cgroup/job_17/cpu.stat").unlink()
    assert share() == RESERVED


def test_a_container_has_a_cgroup_of_its_own(tmp_path: Path) -> None:
    machine(tmp_path, cgroup="/", busy_s=1000, job_s=50, job="")
    (tmp_path / ".dockerenv").touch()
    assert used_share(RESERVED, tmp_path) is not None


@pytest.mark.parametrize("cgroup", ["/", "/user.slice/user-1000.slice/session-3.scope"])
def test_a_login_session_or_a_whole_machine_is_nobodys_job(tmp_path: Path, cgroup: str) -> None:
    machine(tmp_path, cgroup=cgroup, busy_s=1000, job_s=50, job=cgroup.strip("/"))
    assert used_share(RESERVED, tmp_path) is None


def test_the_whole_host_is_certain() -> None:
    assert (WHOLE.part.low, WHOLE.part.value, WHOLE.part.high) == (1.0, 1.0, 1.0)
