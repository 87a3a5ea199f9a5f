"""Every GPU that any process of a job sees is metered once, from its first second: real processes, each under a
simulated driver that shows it what its container, its cgroup or its task may see."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise

SECONDS = 4.0
EXACT = "counter_step=0.01;"
Start = Callable[..., subprocess.Popen[str]]


class Rank(Struct, frozen=True, kw_only=True):
    """A process: GPUs that its driver shows (the first group of their UUIDs, and how many), those that it may use as
    CUDA_VISIBLE_DEVICES says, its temporary directory, and how late it starts."""

    seed: int = 81
    gpus: int = 1
    visible: str | None = None
    scratch: str = "host"
    late_s: float = 0.0
    environ: dict[str, Any] = {}

    @property
    def uuids(self) -> list[str]:
        """What it sees and may use."""
        shown = range(self.gpus) if self.visible is None else map(int, self.visible.split(","))
        return [f"GPU-{self.seed:08x}-5133-4d00-8000-{index:012x}" for index in shown]


def watts(uuid: str) -> float:
    return 200.0 + 50 * int(uuid[-2:], 16) + int(uuid[4:12], 16)


def of_slurm(per_task: int, tasks: int, **more: Any) -> dict[str, Any]:
    numbers = ",".join(map(str, range(per_task * tasks)))
    return {"SLURM_STEP_GPUS": numbers, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", **more}


SITUATIONS: dict[str, list[Rank]] = {
    "one process": [Rank(gpus=2)],
    "two containers of two GPUs, one temporary directory": [Rank(seed=seed, gpus=2) for seed in (1, 2)],
    "two containers of one GPU, temporary directories of their own": [
        Rank(seed=seed, scratch=f"container-{seed}") for seed in (1, 2)
    ],
    "two containers of four GPUs, temporary directories of their own": [
        Rank(seed=seed, gpus=4, scratch=f"container-{seed}") for seed in (1, 2)
    ],
    "boot ids hidden": [
        Rank(seed=seed, gpus=2, scratch=f"c-{seed}", environ={"JOB_BOOT_ID": "", "JOB_HOSTNAME": f"c-{seed}"})
        for seed in (1, 2)
    ],
    "boot ids equal on two hosts": [
        Rank(
            seed=seed, gpus=2,
            environ={"JOB_BOOT_ID": "same", "JOB_HOSTNAME": f"host-{seed}", "GROUP_RANK": seed - 1,
                     "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_WORLD_SIZE": 2},
        )
        for seed in (1, 2)
    ],
    "SLURM, one GPU a task": [
        Rank(seed=seed, environ=of_slurm(1, 2, SLURM_GPUS_PER_TASK=1)) for seed in (1, 2)
    ],
    "SLURM, two GPUs a task": [
        Rank(seed=seed, gpus=2, environ=of_slurm(2, 2, SLURM_GPUS_PER_TASK=2)) for seed in (1, 2)
    ],
    "SLURM, GPUs bound to tasks": [
        Rank(seed=seed, environ=of_slurm(1, 2, SLURM_GPU_BIND="single:1")) for seed in (1, 2)
    ],
    "two GPUs a rank, dealt out": [Rank(gpus=4, visible=visible) for visible in ("0,1", "2,3")],
    "two GPUs a rank, dealt out, the second late": [
        Rank(gpus=4, visible=visible, late_s=late_s) for visible, late_s in (("0,1", 0.0), ("2,3", 2.0))
    ],
    "own GPUs, the second rank late": [Rank(seed=seed, late_s=late_s) for seed, late_s in ((1, 0.0), (2, 2.0))],
    "own GPUs, the first rank late": [Rank(seed=seed, late_s=late_s) for seed, late_s in ((1, 2.0), (2, 0.0))],
    "the same GPUs, the first rank late": [Rank(gpus=2, late_s=late_s) for late_s in (2.0, 0.0)],
    "one GPU of two in common": [Rank(gpus=1), Rank(gpus=2)],
}  # fmt: skip


class Job:
    """A launch of some ranks in one run directory. `seconds` are counted from the moment that all of them are ready."""

    def __init__(self, start: Start, top: Path, run_dir: Path | str, ranks: list[Rank], seconds: float) -> None:
        self.ranks = ranks
        self._folder = top / f"launch {len(list(top.glob('launch *')))}"
        self._folder.mkdir(parents=True)
        self.processes = []
        for number, rank in enumerate(ranks):
            scratch = top / rank.scratch
            scratch.mkdir(exist_ok=True)
            shown = [f"GPU-{rank.seed:08x}-5133-4d00-8000-{index:012x}" for index in range(rank.gpus)]
            spec = f"{EXACT}gpus={rank.gpus};seed={rank.seed};power={','.join(str(watts(uuid)) for uuid in shown)}"
            variables = {
                "RANK": number, "WORLD_SIZE": len(ranks), "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": len(ranks),
                "JOB_LATE_S": rank.late_s, "TMPDIR": scratch, "spec": spec, **rank.environ,
            }  # fmt: skip
            if rank.visible is not None:
                variables["CUDA_VISIBLE_DEVICES"] = rank.visible
            self.processes.append(start(run_dir, self._folder, seconds, **variables))

    def begin(self) -> None:
        """Let the ranks begin, as soon as all are ready."""
        wait_until(lambda: len(list(self._folder.glob("ready-*"))) == len(self.processes) or self._failed())
        (self._folder / "written").write_text(str(time.monotonic() + 0.1))
        (self._folder / "written").rename(self._folder / "epoch")

    def end(self) -> list[tuple[float, float, str]]:
        """When each rank began and ended to train, and its run directory."""
        ended = []
        for process in self.processes:
            output, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
            self.errors = errors
            ended.append(tuple(json.loads(output.splitlines()[-1])))
        return ended

    def _failed(self) -> bool:
        return any(process.poll() is not None for process in self.processes)


def wait_until(true: Callable[[], bool], at_most_s: float = 60.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not true() and time.monotonic() < end_s:
        time.sleep(0.02)


def true_energy_j(job: Job, times: list[tuple[float, float, str]]) -> dict[str, float]:
    """Energy of each GPU from the first moment that a process trained which sees it, to the last."""
    extents: dict[str, tuple[float, float]] = {}
    for rank, (began_s, ended_s, _) in zip(job.ranks, times, strict=True):
        for uuid in rank.uuids:
            first_s, last_s = extents.get(uuid, (began_s, ended_s))
            extents[uuid] = (min(first_s, began_s), max(last_s, ended_s))
    return {uuid: watts(uuid) * (last_s - first_s) for uuid, (first_s, last_s) in extents.items()}


def recorded_j(summary: AuditSummary) -> dict[str, float]:
    return {device.identity.key: device.energy.energy_j for device in summary.devices if device.identity.rung == "gpu"}


class Ended(Struct, frozen=True):
    """A job that has ended: when each rank trained, what is audited, and what each GPU has truly used."""

    run_dir: Path
    summary: AuditSummary
    true_j: dict[str, float]


@pytest.fixture(scope="module")
def ended(seer: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All situations, side by side."""
    top = tmp_path_factory.mktemp("situations")
    jobs = {}
    for number, (name, ranks) in enumerate(SITUATIONS.items()):
        folder = top / str(number)
        jobs[name] = folder / "run", Job(seer, folder, folder / "run", ranks, SECONDS)
    for _, job in jobs.values():
        job.begin()
    result = {}
    for name, (run_dir, job) in jobs.items():
        true_j = true_energy_j(job, job.end())
        result[name] = Ended(run_dir, summarise(run_dir), true_j)
    return result


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_gpu_that_a_process_sees_is_recorded_once_from_its_first_second(ended, name):
    job = ended[name]
    recorded = recorded_j(job.summary)

    assert recorded.keys() == job.true_j.keys()
    for uuid, true_j in job.true_j.items():
        assert recorded[uuid] / true_j == pytest.approx(1.0, abs=0.05), uuid
    assert job.summary.verification.ok
