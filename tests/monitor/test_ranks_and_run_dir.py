"""Who this process is, and which directory all processes of a launch agree on."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.ledger.records import Event
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.processes.launch import process_mark
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ, ranks_of_group
from carbon_plugin.monitor.run.directory import INHERITED_VARIABLE, choose_run_dir
from tests.ledgers import ledger_of

IN_SRUN = {
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip
IN_MPIRUN_OF_SLURM = {
    # of the daemon that srun started on the second node
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    # of the rank that the daemon started
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}  # fmt: skip
TWO_BY_HAND = Ranks(rank=1, local_rank=1, world_size=2, local_world_size=2, untold=True)
NODE_OF_TWO = Ranks(rank=1, world_size=2, node=1, nodes=2, untold=True)
SECOND_OF_TWO = Ranks(rank=5, local_rank=1, world_size=8, local_world_size=4, node=1, nodes=2)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Ranks()),
        (
            {
                "RANK": "11", "LOCAL_RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1",
                "GROUP_WORLD_SIZE": "2",
            },
            Ranks(rank=11, local_rank=3, world_size=16, local_world_size=8, node=1, nodes=2),
        ),
        (
            {
                "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
                "SLURM_NODEID": "1",
            },
            Ranks(rank=5, local_rank=1, world_size=8, local_world_size=4, node=1, nodes=2),
        ),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, Ranks()),
        (
            {
                "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Ranks(rank=3, local_rank=1, world_size=4, local_world_size=2, node=1, nodes=2),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, TWO_BY_HAND),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, TWO_BY_HAND),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "PET_NNODES": "2", "PET_NODE_RANK": "1"},
            NODE_OF_TWO,
        ),
        ({"RANK": "x", "WORLD_SIZE": ""}, Ranks()),
        (
            {
                "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4", "CROSS_RANK": "1",
                "CROSS_SIZE": "2",
            },
            Ranks(rank=5, local_rank=1, world_size=8, local_world_size=4, node=1, nodes=2),
        ),
        (IN_SRUN | {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, SECOND_OF_TWO),
        (IN_SRUN | {"RANK": "5", "WORLD_SIZE": "8"}, SECOND_OF_TWO),
        (
            IN_SRUN | {"SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "4,3", "RANK": "5", "WORLD_SIZE": "7"},
            Ranks(rank=5, local_rank=1, world_size=7, local_world_size=3, node=1, nodes=2),
        ),
        (
            # srun has started one torchrun on each of two nodes, which numbers eight processes on each of them
            {
                "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
                "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "RANK": "11", "LOCAL_RANK": "3",
                "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
            },
            Ranks(rank=11, local_rank=3, world_size=16, local_world_size=8, node=1, nodes=2),
        ),
        (
            {
                "PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4", "RANK": "5",
                "WORLD_SIZE": "8",
            },
            SECOND_OF_TWO,
        ),
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4"}, SECOND_OF_TWO),
        (IN_MPIRUN_OF_SLURM, SECOND_OF_TWO),
        (IN_MPIRUN_OF_SLURM | {"RANK": "5", "WORLD_SIZE": "8"}, SECOND_OF_TWO),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_SIZE": "640"},
            Ranks(rank=1, local_rank=1, world_size=2, local_world_size=2),
        ),
    ],
    ids=[
        "alone", "torchrun", "srun", "batch script without srun", "mpirun", "set by hand", "set by hand here",
        "kubeflow", "broken", "deepspeed",
        "set in srun", "set in srun without a local rank", "uneven tasks", "torchrun in srun", "set in mpiexec",
        "cray's launcher", "mpirun in slurm", "set in mpirun in slurm", "another's LOCAL_SIZE",
    ],
)  # fmt: skip
def test_ranks_are_read_from_the_launcher(environ, expected):
    assert ranks_from_environ(environ) == expected


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("job-master-0", NODE_OF_TWO),
        ("10.255.255.1", NODE_OF_TWO),
        (socket.gethostname(), TWO_BY_HAND),
        (f"{socket.gethostname()}.cluster.local", TWO_BY_HAND),
    ],
)
def test_two_numbers_alone_are_those_of_nodes_where_rank_0_is_on_another_host_and_the_doubt_is_told(address, place):
    found = ranks_from_environ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": address})

    assert msgspec.structs.replace(found, doubt="") == place
    assert address.lower() in found.doubt
    assert "LOCAL_WORLD_SIZE" in found.doubt


def test_a_child_of_a_script_that_numbers_its_processes_is_on_the_host_of_the_script():
    environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0"}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ranks_from_environ, (environ,)) == TWO_BY_HAND


ONE_TASK_A_NODE = Ranks(rank=1, world_size=2, node=1, nodes=2)
TWO_TASKS_A_NODE = Ranks(rank=3, local_rank=1, world_size=4, local_world_size=2, node=1, nodes=2)


@pytest.mark.parametrize(
    ("launched", "rank", "world", "expected"),
    [
        (Ranks(), 3, 4, Ranks(rank=3, local_rank=3, world_size=4, local_world_size=4)),
        (SECOND_OF_TWO, 5, 8, SECOND_OF_TWO),
        # RANK and WORLD_SIZE number the nodes, and each of them has started eight processes
        (NODE_OF_TWO, 11, 16, Ranks(rank=11, local_rank=3, world_size=16, local_world_size=8, node=1, nodes=2)),
        (TWO_BY_HAND, 11, 16, Ranks(rank=11, local_rank=3, world_size=16, local_world_size=8, node=1, nodes=2)),
        (TWO_BY_HAND, 3, 16, Ranks(rank=3, local_rank=3, world_size=16, local_world_size=16)),
        (TWO_BY_HAND, 1, 2, TWO_BY_HAND),
        (ONE_TASK_A_NODE, 11, 16, Ranks(rank=11, local_rank=3, world_size=16, local_world_size=8, node=1, nodes=2)),
        (TWO_TASKS_A_NODE, 13, 16, Ranks(rank=13, local_rank=5, world_size=16, local_world_size=8, node=1, nodes=2)),
        # the script numbers its processes in another way, or starts fewer than its launcher did
        (ONE_TASK_A_NODE, 3, 16, Ranks(rank=3, local_rank=3, world_size=16, local_world_size=16)),
        (ONE_TASK_A_NODE, 1, 3, Ranks(rank=1, local_rank=1, world_size=3, local_world_size=3)),
        (ONE_TASK_A_NODE, 0, 1, Ranks()),
    ],
    ids=[
        "spawned", "launched", "spawned by a numbered node", "by one of two numbers", "within one of two numbers",
        "two numbers", "spawned by a task a node", "by two tasks", "otherwise", "uneven", "alone",
    ],
)  # fmt: skip
def test_processes_that_a_script_starts_are_on_the_node_of_the_task_that_started_them(launched, rank, world, expected):
    assert ranks_of_group(launched, rank=rank, world=world) == expected


TWO = Ranks(world_size=2, local_world_size=2)
FAR = Ranks(world_size=16, local_world_size=8, nodes=2)


@pytest.mark.parametrize(
    ("ranks", "environ", "expected"),
    [
        (FAR, {"CARBON_PLUGIN_RUN_DIR": "/shared/here", "SLURM_JOB_ID": "7"}, "/shared/here"),
        (FAR, {"SLURM_JOB_ID": "7"}, "runs/train-7"),
        (FAR, {"TORCHELASTIC_RUN_ID": "job-9"}, "runs/train-job-9"),
        (TWO, {INHERITED_VARIABLE: f"{os.getppid()}:/a/dir"}, "/a/dir"),
    ],
)
def test_named_directory_is_the_same_on_every_rank(ranks, environ, expected):
    assert choose_run_dir("train", ranks, environ) == Path(expected)


def test_nodes_with_nothing_in_common_must_be_told():
    with pytest.raises(SpecError, match=r"run_dir: the 2 nodes.*--rdzv-id"):
        choose_run_dir("train", FAR, {"TORCHELASTIC_RUN_ID": "none"})


SIBLING = """
import os, sys
from carbon_plugin.monitor.ranks import ranks_from_environ
from carbon_plugin.monitor.run.directory import choose_run_dir
print(choose_run_dir("train", ranks_from_environ(os.environ), os.environ))
"""


def siblings(folder: Path, **environ: str) -> list[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC", "CARBON"))
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SIBLING],
            env=clean | {"RANK": str(rank), "WORLD_SIZE": "3", "TMPDIR": str(folder)} | environ,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    return [process.communicate()[0].strip() for process in running]


def test_ranks_of_one_launcher_agree_on_a_dated_directory(tmp_path):
    made_up = "0b1f7f0e-3c5a-4a64-9d0b-6f0d2f3f9a11"

    found = siblings(tmp_path, TORCHELASTIC_RUN_ID=made_up)

    assert len(set(found)) == 1
    assert Path(found[0]).parent == tmp_path / "runs"


def launch_files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("carbon-plugin-*/launch-*")]


def test_what_a_launch_agreed_on_is_removed_at_its_end(tmp_path):
    found = siblings(tmp_path)

    assert len(set(found)) == 1
    assert launch_files(tmp_path) == []


def test_launcher_that_may_start_its_ranks_again_finds_the_same_directory(tmp_path):
    again = [siblings(tmp_path, TORCHELASTIC_MAX_RESTARTS="3") for _ in range(2)]

    assert len({path for found in again for path in found}) == 1


def test_planted_launch_file_sends_the_ledger_nowhere(tmp_path):
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / f"launch-{process_mark(os.getpid())}-train").write_text(str(tmp_path / "chosen"))
    (tmp_path / f"carbon-plugin-{os.geteuid()}").symlink_to(planted)

    found = siblings(tmp_path)

    assert len(set(found)) == 1
    assert Path(found[0]).parent == tmp_path / "runs"


def test_ranks_without_any_directory_of_their_own_still_agree(tmp_path):
    for number in range(8):
        (tmp_path / (f"carbon-plugin-{os.geteuid()}" + (f"-{number}" if number else ""))).write_text("another user's")

    found = siblings(tmp_path)

    assert set(found) == {f"runs/train-{process_mark(os.getpid())}"}


def test_what_killed_launches_left_behind_is_removed_later(tmp_path):
    siblings(tmp_path)
    (scratch,) = tmp_path.glob("carbon-plugin-*")
    old, young = scratch / "launch-999999999-1-train", scratch / "launch-999999998-1-train"
    living = scratch / f"launch-{process_mark(os.getpid())}-other"
    for file in (old, young, living):
        file.write_text("/a/dir")
    for file in (old, living):
        os.utime(file, (0, 0))

    siblings(tmp_path)

    assert (old.exists(), young.exists(), living.exists()) == (False, True, True)


def test_second_run_of_a_process_gets_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(INHERITED_VARIABLE, raising=False)
    first = choose_run_dir("train", Ranks(), {})
    first.mkdir(parents=True)

    second = choose_run_dir("train", Ranks(), dict(os.environ))

    assert second != first
    assert os.environ[INHERITED_VARIABLE] == f"{os.getpid()}:{second.absolute()}"


def test_what_is_in_doubt_of_ranks_is_told_once_and_recorded(tmp_path, caplog):
    doubt = "nothing tells how many of the 2 ranks of WORLD_SIZE a node has"
    with CarbonMonitor(run_dir=tmp_path / "run", ranks=Ranks(untold=True, doubt=doubt)):
        pass

    events = [record for record in ledger_of(tmp_path / "run").records if isinstance(record, Event)]
    assert [event.message for event in events if event.kind == "ranks"] == [doubt]
    assert [record.getMessage() for record in caplog.records if doubt in record.getMessage()] == [
        f"carbon_plugin: {doubt}"
    ]
