"""Every GPU that any process of a job sees is metered once, from its first second: real processes, each under a
simulated driver that shows it what its container, its cgroup or its task may see."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import warnings
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Window
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.totals import run_totals
from carbon_plugin.spec.numbers.range import Range
from tests.ledgers import assert_drawn, energy_of
from tests.monitor.launching import Start, wait_until

SECONDS = 4.0
AT_ONCE = 6
EXACT = "counter_step=0.01;"


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
    def shown(self) -> list[str]:
        """Return the GPUs that the driver shows to a process."""
        return [f"GPU-{self.seed:08x}-5133-4d00-8000-{index:012x}" for index in range(self.gpus)]

    @property
    def uuids(self) -> list[str]:
        """Return the GPUs that a process may use."""
        return self.shown if self.visible is None else [self.shown[int(index)] for index in self.visible.split(",")]


def watts(uuid: str) -> float:
    return 200.0 + 50 * int(uuid[-2:], 16) + int(uuid[4:12], 16)


def of_slurm(per_task: int, tasks: int, **more: Any) -> dict[str, Any]:
    numbers = ",".join(map(str, range(per_task * tasks)))
    return {"SLURM_STEP_GPUS": numbers, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", **more}


ENOUGH = "enough"
DOES_NOT_WAIT = {"JOB_GRACE_S": 1.0}
"""Local rank 0 waits only a second until all ranks have said what they see, because some come late, or never to it."""
LAST_OF_TWO = {"JOB_AFTER": "closed-1"}
"""Local rank 0 meters GPUs of the other rank, and so is there until that has ended."""
UNTIL_THE_FIRST_BEGAN, UNTIL_THE_FIRST_CLOSES = {"JOB_AFTER": "began-0"}, {"JOB_AFTER": "closing-0"}
"""The other rank is there until local rank 0 is, however late that comes: ranks that train one after the other are two
launches to the audit."""
SITUATIONS: dict[str, list[Rank]] = {
    "one process": [Rank(gpus=2)],
    "one process, held up between the first readings of its GPUs": [Rank(gpus=2, environ={"JOB_HELD_UP_S": 1.0})],
    "two containers of two GPUs, one temporary directory": [Rank(seed=seed, gpus=2) for seed in (1, 2)],
    "two containers of two GPUs, temporary directories of their own": [
        Rank(seed=seed, gpus=2, scratch=f"container-{seed}", environ=DOES_NOT_WAIT) for seed in (1, 2)
    ],
    "two containers of one GPU, temporary directories of their own": [
        Rank(seed=seed, scratch=f"container-{seed}", environ=DOES_NOT_WAIT) for seed in (1, 2)
    ],
    "two containers of four GPUs, temporary directories of their own": [
        Rank(seed=seed, gpus=4, scratch=f"container-{seed}", environ=DOES_NOT_WAIT) for seed in (1, 2)
    ],
    "boot ids hidden": [
        Rank(
            seed=seed, gpus=2, scratch=f"c-{seed}",
            environ={**DOES_NOT_WAIT, "JOB_BOOT_ID": "", "JOB_HOSTNAME": f"c-{seed}"},
        )
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
    "two GPUs a rank, dealt out": [
        Rank(gpus=4, visible="0,1", environ=LAST_OF_TWO), Rank(gpus=4, visible="2,3")
    ],
    "two GPUs a rank, dealt out, the second late": [
        Rank(gpus=4, visible="0,1", environ=LAST_OF_TWO | DOES_NOT_WAIT), Rank(gpus=4, visible="2,3", late_s=2.0)
    ],
    "own GPUs, the second rank late": [
        Rank(seed=1, environ=LAST_OF_TWO | DOES_NOT_WAIT), Rank(seed=2, late_s=2.0, environ=DOES_NOT_WAIT)
    ],
    "own GPUs, the first rank late": [Rank(seed=1, late_s=2.0), Rank(seed=2, environ=UNTIL_THE_FIRST_CLOSES)],
    "the same GPUs, the first rank late": [
        Rank(gpus=2, late_s=2.0, environ=LAST_OF_TWO), Rank(gpus=2, environ=UNTIL_THE_FIRST_BEGAN)
    ],
    "the second rank ends late": [Rank(seed=1), Rank(seed=2, environ={"JOB_AFTER": "closed-0"})],
    "one GPU of two in common": [Rank(gpus=1, environ=LAST_OF_TWO), Rank(gpus=2)],
    "one GPU of two in common, the first rank late": [
        Rank(gpus=1, late_s=2.0, environ=LAST_OF_TWO), Rank(gpus=2, environ=UNTIL_THE_FIRST_BEGAN)
    ],
}  # fmt: skip

UNMETERED = [
    Rank(
        seed=seed,
        environ={
            "JOB_GPUS": f"GPU-{seed:08x}-5133-4d00-8000-000000000000",
            "WORLD_SIZE": 4,
            "LOCAL_WORLD_SIZE": 4,
            **DOES_NOT_WAIT,
        },
    )
    for seed in (1, 2)
]
"""Half of a job: the other two ranks run without the plugin."""

PLACED = [
    Rank(environ={"JOB_GPUS": f"GPU-{81:08x}-5133-4d00-8000-000000000000", **more})
    for more in ({"JOB_AFTER": "closed-1 closed-2"}, {})
] + [Rank(environ={"JOB_GPUS": ""})]
"""Two ranks on one GPU, and one on the CPU; the leader is still there when the others have ended."""
SITUATIONS |= {"half of the job": UNMETERED, "two ranks on one GPU, one on none": PLACED}


AFTER_THE_FIRST, WHEN_ASKED = {"JOB_AFTER": "closed-0"}, {"JOB_AFTER": ENOUGH}
"""When a rank may end: after another one, or when the test lets its job end. A time would be over too soon where a
process is held up."""


class Job:
    """A launch of some ranks in one run directory. `seconds` are counted from the moment that all of them are ready.
    All ranks have the variables of `environ`."""

    def __init__(
        self, start: Start, top: Path, run_dir: Path, ranks: list[Rank], seconds: float, **environ: Any
    ) -> None:
        self.ranks = ranks
        self._folder = top / f"launch-{len(list(top.glob('launch-*')))}"
        self._folder.mkdir(parents=True)
        self.processes = []
        self.errors = ""
        self.times_s: list[list[float]] = []
        for number, rank in enumerate(ranks):
            scratch = top / rank.scratch
            scratch.mkdir(exist_ok=True)
            spec = f"{EXACT}gpus={rank.gpus};seed={rank.seed};power={','.join(str(watts(uuid)) for uuid in rank.shown)}"
            variables = {
                "RANK": number, "WORLD_SIZE": len(ranks), "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": len(ranks),
                "JOB_LATE_S": rank.late_s, "TMPDIR": scratch, "spec": spec, **environ, **rank.environ,
            }  # fmt: skip
            if rank.visible is not None:
                variables["CUDA_VISIBLE_DEVICES"] = rank.visible
            self.processes.append(start(run_dir, self._folder, seconds, **variables))

    def begin(self) -> None:
        """Let the ranks begin, as soon as all are ready."""
        wait_until(lambda: len(list(self._folder.glob("ready-*"))) == len(self.processes) or self._failed())
        (self._folder / "written").write_text(str(time.monotonic() + 0.1))
        (self._folder / "written").rename(self._folder / "epoch")

    def end(self) -> dict[str, tuple[float, float]]:
        """Let the ranks end, and return the least and the most energy that each GPU has used for the job, J.

        The least is that of the time in which a process trained that may use it. The most is that from the first to the
        last moment of all processes whose driver shows it. A training is charged from its start, although its driver is
        read a little later.
        """
        (self._folder / ENOUGH).touch()
        least: dict[str, list[tuple[float, float]]] = {}
        most: dict[str, list[tuple[float, float]]] = {}
        for rank, process in zip(self.ranks, self.processes, strict=True):
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            self.errors += errors
            self.times_s.append(json.loads(output.splitlines()[-1]))
            started_s, began_s, closing_s, closed_s = self.times_s[-1]
            for uuid in rank.uuids:
                least.setdefault(uuid, []).append((began_s, closing_s))
            for uuid in rank.shown:
                most.setdefault(uuid, []).append((started_s, closed_s))
        return {uuid: (watts(uuid) * extent_s(least[uuid]), watts(uuid) * extent_s(most[uuid])) for uuid in least}

    def _failed(self) -> bool:
        return any(process.poll() is not None for process in self.processes)


def extent_s(times: list[tuple[float, float]]) -> float:
    return max(end for _, end in times) - min(start for start, _ in times)


def recorded_j(summary: AuditSummary) -> dict[str, Range]:
    return {device.identity.key: device.energy.range for device in summary.devices if device.identity.rung == "gpu"}


class Ended(Struct, frozen=True):
    """A job that has ended: when each rank trained, what is audited, and what each GPU has truly used."""

    run_dir: Path
    summary: AuditSummary
    true_j: dict[str, tuple[float, float]]
    errors: str


class Restart(Struct, frozen=True):
    """A job beside another one, and what the GPUs of each have used. `summary` is that of the second one's directory,
    `first_summary` that of the first one's. `earlier` are the ledgers that were there before the second one began."""

    run_dir: Path
    earlier: set[str]
    summary: AuditSummary
    first_summary: AuditSummary
    errors: str
    first_j: dict[str, tuple[float, float]]
    second_j: dict[str, tuple[float, float]]


SAME = [Rank(gpus=2, environ={"JOB_AFTER": f"{ENOUGH} closed-1"}), Rank(gpus=2)]
PAIRS = {
    "stopped": (SAME, SAME),
    "going on": (SAME, SAME),
    "together": ([Rank(seed=1)], [Rank(seed=2)]),
    "no window before the end": tuple([Rank(seed=seed, environ={"JOB_WINDOW_S": 60})] for seed in (1, 2)),
    "two runs": ([Rank(gpus=2)], [Rank(gpus=2, visible="1")]),
}
AT_ONCE_BESIDE = ("together", "no window before the end")


@pytest.fixture(scope="module")
def ended(seer: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Run the jobs of all situations, a few side by side, because more at once would measure how busy this
    machine is.
    """
    top = tmp_path_factory.mktemp("situations")
    folders = {name: top / str(number) for number, name in enumerate(SITUATIONS)}
    found = {}
    for names in batched(SITUATIONS, AT_ONCE):
        jobs = {name: Job(seer, folders[name], folders[name] / "run", SITUATIONS[name], SECONDS) for name in names}
        for job in jobs.values():
            job.begin()
        for name, job in jobs.items():
            true_j = job.end()
            found[name] = Ended(folders[name] / "run", summarise(folders[name] / "run"), true_j, job.errors)
    return found


@pytest.fixture(scope="module")
def beside(seer: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Restart]:
    """Run the jobs of all pairs side by side. The first job of a pair is stopped in the middle of its work, goes on
    until the second one has ended, or begins together with the second one in its run directory and ends before it.
    """
    top = tmp_path_factory.mktemp("pairs")
    dirs = {
        name: (top / str(number) / "run", top / str(number) / ("other" if name == "two runs" else "run"))
        for number, name in enumerate(PAIRS)
    }
    pairs = {
        name: [
            Job(seer, run_dir.parent, run_dir, ranks, SECONDS, **WHEN_ASKED)
            for run_dir, ranks in zip(dirs[name], PAIRS[name], strict=True)
        ]
        for name in PAIRS
    }
    later = PAIRS.keys() - AT_ONCE_BESIDE
    for job in [*(first for first, _ in pairs.values()), *(pairs[name][1] for name in AT_ONCE_BESIDE)]:
        job.begin()
    for name in later:
        ledger = dirs[name][0] / "node-0.attempt-0.jsonl"
        wait_until(lambda ledger=ledger: ledger.exists() and b'"window"' in ledger.read_bytes())
    for process in pairs["stopped"][0].processes:
        process.send_signal(signal.SIGSTOP)
    earlier = {name: {file.name for file in dirs[name][1].glob("*.jsonl")} for name in PAIRS}
    for name in later:
        pairs[name][1].begin()
    for name in AT_ONCE_BESIDE:
        wait_until(lambda name=name: len(list(dirs[name][0].glob("node-0.attempt-*.jsonl"))) == 2)
    restarts = {}
    for name, (first, second) in pairs.items():
        early_j = first.end() if name in AT_ONCE_BESIDE else {}
        second_j = second.end()
        for process in first.processes if name == "stopped" else ():
            process.kill()
            process.wait()
        first_j = early_j if early_j or name == "stopped" else first.end()
        summaries = [summarise(run_dir) for run_dir in dirs[name]]
        restarts[name] = Restart(
            dirs[name][1], earlier[name], summaries[1], summaries[0], first.errors + second.errors, first_j, second_j
        )
    return restarts


def batched(names: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = list(names)
    while remaining:
        yield remaining[:size]
        del remaining[:size]


def assert_recorded(recorded: dict[str, Range], true_j: dict[str, tuple[float, float]]) -> None:
    """Check that the energy of every GPU is recorded, within the range that its meter states."""
    assert recorded.keys() == true_j.keys()
    for uuid, (least_j, most_j) in true_j.items():
        assert_drawn(recorded[uuid], watts(uuid), least_j / watts(uuid), most_j / watts(uuid))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_gpu_that_a_process_sees_is_recorded_once_from_its_first_second(ended, name):
    job = ended[name]

    assert_recorded(recorded_j(job.summary), job.true_j)
    assert job.summary.verification.ok
    assert not job.summary.coverage.side_by_side
    assert "another_job" not in job.summary.event_counts
    assert bool(job.summary.coverage.missing) == (name == "half of the job")


@pytest.mark.parametrize("name", SITUATIONS)
def test_closing_line_has_the_energy_of_the_audit_or_says_what_it_lacks(ended, name):
    job = ended[name]
    (line,) = [line for line in job.errors.splitlines() if "and has used" in line]
    said, unit = line.partition("and has used ")[2].split()[:2]
    said_j = float(said.replace(",", "")) * {"J": 1.0, "Wh": 3.6e3, "kWh": 3.6e6}[unit]

    if name == "the second rank ends late":
        assert "1 of 2 ledgers was still being written: the audit has the whole" in line
    elif "still being written" not in line and "not heard of" not in line:
        assert said_j == pytest.approx(job.summary.energy.energy_j, rel=0.01)
    assert "without 2 other ranks of this host" in line or name != "half of the job"


def windows_of(run_dir: Path, name: str) -> list[Window]:
    (file,) = [file for file in read_run(run_dir).files if file.path.name == name]
    return [record for record in file.records if isinstance(record, Window)]


def test_restart_beside_a_hung_launch_is_metered_from_its_first_second(beside):
    job = beside["stopped"]
    # Where local rank 0 is held up at its start, the other one has a ledger of the time before.
    later = [file for file in read_run(job.run_dir).files if file.path.name not in job.earlier]
    windows = [record for file in later for record in file.records if isinstance(record, Window)]

    assert_recorded({uuid: energy_of(windows, uuid) for uuid in SAME[0].uuids}, job.second_j)


@pytest.mark.parametrize("name", ["together", "no window before the end"])
def test_two_jobs_in_one_run_directory_keep_all_gpus_and_steps_and_it_is_said_once(beside, name):
    job = beside[name]
    steps = [sum(w.steps for w in windows_of(job.run_dir, f"node-0.attempt-{attempt}.jsonl")) for attempt in (0, 1)]

    assert_recorded(recorded_j(job.summary), job.first_j | job.second_j)
    assert job.summary.progress.steps == sum(steps)
    assert min(steps) > 0
    assert job.summary.event_counts["another_job"] == 1
    assert job.errors.count("is being written in this run directory by another process") == 1
    assert job.summary.coverage.side_by_side == ["node-0.attempt-0.jsonl", "node-0.attempt-1.jsonl"]
    assert "wrote into this run directory at the same time (node-0.attempt-0.jsonl, node" in render_text(job.summary)


def test_launch_that_goes_on_beside_its_restart_counts_each_gpu_once_and_it_is_said(beside):
    job = beside["going on"]

    assert_recorded(recorded_j(job.summary), job.first_j)
    assert job.summary.event_counts["another_job"] == 1
    assert job.summary.coverage.side_by_side


@pytest.mark.parametrize("places", ["one temporary directory", "temporary directories of their own"])
def test_host_is_charged_for_the_gpus_of_all_containers_however_they_meet(ended, places):
    """Two containers have 4 of the 8 GPUs of a node between them."""
    run_dir = ended[f"two containers of two GPUs, {places}"].run_dir
    manifests = [manifest_of(file.records) for file in read_run(run_dir).files]

    assert sum(manifest.host_share for manifest in manifests) == pytest.approx(4 / 8)
    # The network is read up to a step of the GPUs' counters after them: 0.1 s at either end of at least four seconds.
    assert network_w(run_dir) == pytest.approx(4 / 2 * network_w(ended["one process"].run_dir), rel=0.1)


def network_w(run_dir: Path) -> float:
    """Return what the network draws of which the ledgers of a run tell, W."""
    drawn_w = 0.0
    for file in read_run(run_dir).files:
        windows = [record for record in file.records if isinstance(record, Window)]
        used_j = sum(e.energy_j for window in windows for e in window.energies if e.key.endswith("/network"))
        drawn_w += used_j / sum(window.duration_s for window in windows)
    return drawn_w


def test_gpus_that_no_process_meters_are_in_the_headline(ended):
    whole, half = ended["two ranks on one GPU, one on none"].summary, ended["half of the job"].summary

    assert (whole.coverage.gpus, whole.coverage.gpus_missing) == (1, 0)
    assert (half.coverage.gpus, half.coverage.gpus_missing) == (4, 2)
    assert warnings(half)[0].startswith("2 of the 4 GPUs that the job must have used are in no ledger")
    text = render_text(half)
    assert "on 4 GPUs, 2 of which are in no ledger, of 1 node" in text
    assert half.verification.state == "incomplete"
    assert text.splitlines()[-1].startswith("ledger: INCOMPLETE, 2 files: 2 of the 4 GPUs that the job must have used")
    assert "in no ledger" not in render_text(whole)


def test_live_coverage_counts_gpus_that_nobody_meters(ended):
    (file,) = [
        file for file in read_run(ended["half of the job"].run_dir).files if file.path.name.startswith("node-0.att")
    ]
    totals = FileTotals()
    for record in file.records:
        totals.add(record)

    run = run_totals({file.path.name: totals}, attempt_started_s=0.0)

    assert (run.gpus_measured, run.gpus) == (1, 4)


def test_two_runs_on_one_gpu_share_its_energy_and_it_is_said(beside):
    job = beside["two runs"]
    alone, common = SAME[0].uuids
    first, second = recorded_j(job.first_summary), recorded_j(job.summary)
    least_j, most_j = job.second_j[common]

    assert_recorded({alone: first[alone], common: first[common].plus(second[common])}, job.first_j)
    assert_recorded({common: second[common]}, {common: (least_j / 2, most_j / 2)})
    assert {w.parts[common] for w in windows_of(job.run_dir, "node-0.attempt-0.jsonl")} == {0.5}
    assert "other runs on this host use the same GPUs" in job.errors
    (device,) = [device for device in job.summary.devices if device.identity.key == common]
    assert any("other runs use this GPU too" in note for note in device.notes)
    assert device.energy.low_j < 0.6 * device.energy.energy_j


A_LITTLE_LATER = {"JOB_LONGER_S": 2}
"""A rank that trains on for so long, and takes nothing over meanwhile, however long it is held up."""


@pytest.mark.parametrize("window_s", [0.5, 60.0], ids=["which it takes over", "which it learns at its end"])
def test_gpu_that_one_rank_uses_on_after_the_other_has_ended_stays_in_the_time_of_the_job(seer, tmp_path, window_s):
    left_s = 0.5
    later = {**AFTER_THE_FIRST, "JOB_LONGER_S": 3, "JOB_WINDOW_S": window_s, "JOB_LEFT_S": left_s}
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(), Rank(environ=later)], seconds=1.0)
    job.begin()
    ((uuid, (least_j, most_j)),) = job.end().items()
    summary = summarise(tmp_path / "run")

    assert summary.reserved.device_s >= least_j / watts(uuid) - left_s
    assert recorded_j(summary)[uuid].low <= most_j
    assert summary.verification.ok
    assert len(summary.period.attempts) == 1


def test_time_before_local_rank_0_is_recorded_by_a_rank_that_decides_when_that_has_ended(seer, tmp_path):
    ranks = [Rank(late_s=2.0), Rank(environ={**AFTER_THE_FIRST, **A_LITTLE_LATER, "JOB_DECIDES_AT_ITS_END": 1})]
    job = Job(seer, tmp_path, tmp_path / "run", ranks, seconds=3.0)
    job.begin()
    ((uuid, (_, most_j)),) = job.end().items()
    (_, _, first_closing_s, _), (_, second_began_s, _, _) = job.times_s
    summary = summarise(tmp_path / "run")

    least_j = watts(uuid) * (first_closing_s - second_began_s)
    assert_recorded(recorded_j(summary), {uuid: (least_j, most_j)})
    assert summary.verification.ok
    assert not summary.coverage.side_by_side


def test_rank_that_ends_a_little_later_than_all_others_says_so_and_opens_no_meter_for_it(seer, tmp_path):
    later = {**AFTER_THE_FIRST, **A_LITTLE_LATER, "JOB_OPENS_NO_METER": 1}
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(), Rank(environ=later)], seconds=1.0)
    job.begin()
    ((uuid, (least_j, _)),) = job.end().items()
    summary = summarise(tmp_path / "run")

    assert summary.reserved.device_s >= 0.99 * least_j / watts(uuid)
    assert summary.reserved.before_first_record_s > 1
    assert len(summary.period.attempts) == 1
    assert summary.verification.ok


def test_ranks_that_end_one_after_the_other_say_how_much_later_the_last_one_ended(seer, tmp_path):
    ranks = [Rank(), *(Rank(environ={**A_LITTLE_LATER, "JOB_AFTER": f"closed-{before}"}) for before in (0, 1))]
    job = Job(seer, tmp_path, tmp_path / "run", ranks, seconds=1.0)
    job.begin()
    ((uuid, (least_j, _)),) = job.end().items()
    summary = summarise(tmp_path / "run")

    assert summary.reserved.device_s >= 0.99 * least_j / watts(uuid)
    assert len(summary.period.attempts) == 1
    assert summary.verification.ok


def test_rank_of_a_long_training_that_ends_a_little_later_writes_no_ledger(seer, tmp_path):
    # as if the training had lasted much longer, however late this rank begins on a busy machine
    later = {**AFTER_THE_FIRST, **A_LITTLE_LATER, "JOB_LEAST_LEFT_SHARE": 1e6}
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(), Rank(environ=later)], seconds=1.0)
    job.begin()
    job.end()

    # Where local rank 0 is held up at its start, the other one has a ledger of the time before.
    assert not any(manifest_of(file.records).follows for file in read_run(tmp_path / "run").files)


def test_rank_with_a_gpu_of_its_own_takes_over_the_host_of_one_that_has_ended(seer, tmp_path):
    later = {**WHEN_ASKED, "JOB_LEFT_S": 0.5}
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(seed=1), Rank(seed=2, environ=later)], seconds=1.0)
    job.begin()
    follows = tmp_path / "run" / "node-0.rank-1.attempt-1.jsonl"
    wait_until(lambda: follows.exists() and follows.read_bytes().count(b'"window"') >= 3)
    true_j = job.end()
    summary = summarise(tmp_path / "run")
    files = {file.path.name: file.records for file in read_run(tmp_path / "run").files}
    taken = [record for record in files["node-0.rank-1.attempt-1.jsonl"] if isinstance(record, Window)]

    assert files.keys() == {f"node-0.{name}.jsonl" for name in ("attempt-0", "rank-1.attempt-0", "rank-1.attempt-1")}
    assert any(energy.key.endswith("/host") for energy in taken[0].energies)
    assert_recorded(recorded_j(summary), true_j)
    assert summary.reserved.whole_host_s >= 0.95 * max(least_j / watts(uuid) for uuid, (least_j, _) in true_j.items())
    assert "another_job" not in summary.event_counts
    assert {window.phase for window in taken} == {"train"}
    assert summary.progress.steps == taken[-1].last_step
    assert len(summary.period.attempts) == 1
    assert summary.verification.ok


def test_rank_with_a_gpu_of_its_own_says_for_how_long_nobody_has_metered_the_host(seer, tmp_path):
    later = {**AFTER_THE_FIRST, **A_LITTLE_LATER}
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(seed=1), Rank(seed=2, environ=later)], seconds=1.0)
    job.begin()
    job.end()

    assert "CPU, memory and network of this host: not metered in the last" in job.errors
    assert summarise(tmp_path / "run").event_counts["left_unmetered"] == 1


def test_rank_that_takes_over_from_a_leader_that_was_killed_goes_on_in_its_attempt(seer, tmp_path):
    job = Job(seer, tmp_path, tmp_path / "run", [Rank(), Rank()], seconds=1.0, **WHEN_ASKED)
    job.begin()
    ledger, taken = (tmp_path / "run" / f"node-0.attempt-{number}.jsonl" for number in (0, 1))
    wait_until(lambda: ledger.exists() and b'"window"' in ledger.read_bytes())
    job.processes[0].kill()
    wait_until(lambda: taken.exists() and b'"window"' in taken.read_bytes())
    job.processes[1].kill()
    job.processes[1].wait()

    assert [attempt.attempt for attempt in summarise(tmp_path / "run").period.attempts] == [0]
