"""Who meters what: real processes, real locks, and whatever another user may have put into the temporary directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbon_plugin.monitor.processes import leader
from carbon_plugin.monitor.processes.launch import LAUNCH_VARIABLE, hand_down, launch_of, process_mark
from carbon_plugin.monitor.processes.leader import HOST, MEETINGS, Claim, Election
from carbon_plugin.monitor.processes.scratch import Folder, open_scratch

OURS = f"carbon-plugin-{os.geteuid()}"
HOLDER = """
import sys
from pathlib import Path
from carbon_plugin.monitor.processes.leader import HOST, Claim, Election
from carbon_plugin.monitor.processes.scratch import open_scratch
election = Election("launch", open_scratch(Path(sys.argv[1])), 1)
election.claim(Claim(rank=1, local_rank=1, sees=["GPU-1"]))
print(*election.take([HOST, "GPU-0", "GPU-1"], 7.0), flush=True)
if sys.stdin.readline().strip() == "end":
    election.end()
    print("ended", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().split() == [HOST, "GPU-0", "GPU-1"]
    yield process
    process.kill()
    process.communicate()


def joined(tmp_path: Path, launch: str = "launch", rank: int = 0) -> Election:
    election = Election(launch, open_scratch(tmp_path), rank)
    election.claim(Claim(rank=rank, local_rank=rank))
    return election


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def ended(process: subprocess.Popen[str]) -> None:
    print("end", file=process.stdin, flush=True)
    assert process.stdout.readline().strip() == "ended"


def test_what_a_living_process_meters_nobody_else_takes(holder, tmp_path):
    election = joined(tmp_path)

    assert election.take([HOST, "GPU-0", "GPU-2"], 8.0) == ("GPU-2",)
    assert election.held_since([HOST, "GPU-0", "GPU-2", "GPU-3"]) == {HOST: 7.0, "GPU-0": 7.0}
    assert election.held == ("GPU-2",)
    assert not election.follows


def test_another_launch_takes_the_same_gpus(holder, tmp_path):
    assert joined(tmp_path, "restart").take([HOST, "GPU-0"], 8.0) == (HOST, "GPU-0")


def test_second_process_of_a_rank_is_of_another_launch(holder, tmp_path):
    restarted = joined(tmp_path, rank=1)

    assert restarted.take([HOST, "GPU-0"], 8.0) == (HOST, "GPU-0")
    assert [claim.rank for claim in joined(tmp_path, rank=0).claims()] == [0, 1]
    assert [claim.rank for claim in joined(tmp_path, rank=0).claims()] == [0, 1]
    assert [claim.rank for claim in joined(tmp_path, rank=0).claims()] == [0]


def test_what_a_killed_process_has_metered_is_taken_over(holder, tmp_path):
    election = joined(tmp_path)
    killed(holder)

    assert election.held_since([HOST, "GPU-0"]) == {}
    assert election.take([HOST], 8.0) == (HOST,)
    assert election.follows, "what was before is in the ledger of the process that was lost"


def test_what_a_killed_process_has_metered_is_taken_together_though_its_locks_are_freed_one_after_the_other(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(leader, "DYING_S", 240.0)
    dying, election = joined(tmp_path, rank=1), joined(tmp_path)
    dying.take([HOST, "GPU-0", "GPU-1"], 7.0)
    os.close(dying._held.pop("GPU-0"))  # as the kernel does when it ends a process
    read = Folder.read

    def read_and_free_one(folder: Folder, name: str) -> bytes | None:
        """Free one lock more each time that somebody looks whose a lock is."""
        found = read(folder, name)
        if dying._held:
            os.close(dying._held.popitem()[1])
        return found

    monkeypatch.setattr(Folder, "read", read_and_free_one)

    assert sorted(election.take([HOST, "GPU-0", "GPU-1"], 8.0)) == ["GPU-0", "GPU-1", HOST]


def test_what_another_process_meters_is_not_waited_for(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(leader, "DYING_S", 240.0)
    lost, election = joined(tmp_path, rank=2), joined(tmp_path)
    lost.take(["GPU-2"], 7.0)
    lost.forget()  # as the kernel does for a process that is killed

    assert election.take([HOST, "GPU-2"], 8.0) == ("GPU-2",)


def test_what_was_given_up_in_order_stays_as_it_is(holder, tmp_path):
    election = joined(tmp_path)
    ended(holder)

    assert election.take([HOST, "GPU-0"], 8.0) == ()
    assert election.held_since([HOST, "GPU-0"]) == {}


def test_what_was_given_up_long_ago_is_taken_over(holder, tmp_path):
    election = joined(tmp_path)
    ended(holder)

    assert election.take([HOST, "GPU-0"], 8.0, left_s=86_400.0) == ()
    assert election.take([HOST, "GPU-0", "GPU-2"], 8.0, left_s=0.0, only_left=True) == (HOST, "GPU-0")
    assert election.follows


def test_at_the_end_nothing_is_taken_from_a_process_that_was_lost(holder, tmp_path):
    election = joined(tmp_path)
    killed(holder)

    assert election.take([HOST, "GPU-0"], 8.0, left_s=0.0, only_left=True) == ()


def test_claims_of_the_living_are_heard(holder, tmp_path):
    election = joined(tmp_path)
    assert [(claim.rank, claim.sees) for claim in election.claims()] == [(0, []), (1, ["GPU-1"])]

    killed(holder)

    assert [claim.rank for claim in election.claims()] == [0]


def test_claims_of_ranks_that_ended_early_are_heard_until_the_launch_ends(holder, tmp_path):
    election = joined(tmp_path)
    ended(holder)

    assert [(claim.rank, claim.sees) for claim in election.claims()] == [(0, []), (1, ["GPU-1"])]
    assert [claim.rank for claim in election.claims(living=True)] == [0]


def test_the_last_process_of_a_launch_removes_the_meeting_place(holder, tmp_path):
    election = joined(tmp_path)
    meetings = tmp_path / OURS / MEETINGS
    ended(holder)
    assert len(list(meetings.iterdir())) == 1

    election.end()

    assert list(meetings.iterdir()) == []


def test_meeting_places_of_killed_launches_are_removed_after_a_day(holder, tmp_path):
    meetings = tmp_path / OURS / MEETINGS
    (lived_in,) = meetings.iterdir()
    abandoned = joined(tmp_path, "killed")
    abandoned.take([HOST], 8.0)
    abandoned.forget()  # as the kernel does for a process that is killed
    for place in meetings.iterdir():
        os.utime(place, (0, 0))

    newest = joined(tmp_path, "newest")

    assert lived_in in meetings.iterdir()
    assert len(list(meetings.iterdir())) == 2
    newest.end()


def test_claim_that_is_no_claim_is_left_out(tmp_path):
    election = joined(tmp_path)
    (place,) = (tmp_path / OURS / MEETINGS).iterdir()
    (alive,) = place.glob("*.alive")
    (place / alive.with_suffix(".claim").name).write_text("{")
    (place / "stray.claim").write_text("{}")

    assert [claim.rank for claim in election.claims()] == [0]


def test_alone_a_process_takes_whatever_it_sees():
    election = Election("launch", None, 3)
    election.claim(Claim(rank=3, local_rank=3, sees=["GPU-0"]))

    assert election.alone
    assert election.take([HOST, "GPU-0"], 8.0) == (HOST, "GPU-0")
    assert [claim.rank for claim in election.claims()] == [3]
    election.end()


def planted(tmp_path: Path, kind: str, name: str = OURS) -> Path:
    """Make what somebody else has put where our directory should be, and a folder with something of value elsewhere."""
    valuable = tmp_path / "valuable"
    (valuable / "old run").mkdir(parents=True)
    (valuable / "old run" / "leader.lock").touch()
    os.utime(valuable / "old run", (0, 0))
    path = tmp_path / name
    if kind == "link":
        path.symlink_to(valuable)
    elif kind == "file":
        path.write_text("mine")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
        os.chown(path, 12345, 12345)
    return valuable


@pytest.mark.parametrize("kind", ["link", "file", "FIFO", "another user's"])
def test_what_others_put_under_our_name_is_neither_followed_nor_in_the_way(tmp_path, kind):
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    valuable = planted(tmp_path, kind)

    first, second = joined(tmp_path), joined(tmp_path, rank=1)

    assert not first.alone
    assert first.take([HOST], 8.0) == (HOST,)
    assert second.take([HOST], 9.0) == ()
    assert (valuable / "old run" / "leader.lock").exists()
    assert [path.name for path in valuable.iterdir()] == ["old run"]
    assert (tmp_path / f"{OURS}-1" / MEETINGS).is_dir()
    first.end()
    second.end()


def test_names_that_are_all_taken_leave_processes_alone(tmp_path):
    for number in range(8):
        (tmp_path / (OURS + (f"-{number}" if number else ""))).write_text("mine")

    assert open_scratch(tmp_path) is None
    assert joined(tmp_path).take([HOST], 8.0) == (HOST,)


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_locks_and_claims_are_plain_files_of_this_user(tmp_path, kind):
    election = joined(tmp_path)
    (place,) = (tmp_path / OURS / MEETINGS).iterdir()
    elsewhere = tmp_path / "elsewhere"
    for name in ("stray.alive", "stray.claim"):
        if kind == "link":
            elsewhere.write_text('{"rank":9,"local_rank":9}')
            (place / name).symlink_to(elsewhere)
        else:
            os.mkfifo(place / name)

    assert [claim.rank for claim in election.claims()] == [0]
    election.end()
    assert elsewhere.exists() == (kind == "link")


def test_directory_that_others_could_write_in_is_closed_to_them(tmp_path):
    (tmp_path / OURS).mkdir(mode=0o700)
    (tmp_path / OURS).chmod(0o777)

    election = joined(tmp_path)

    assert (tmp_path / OURS).stat().st_mode & 0o777 == 0o700
    election.end()


RANKED = {"RANK": "1", "WORLD_SIZE": "2"}


def test_each_process_without_a_launcher_is_a_launch_of_its_own():
    assert launch_of({}, alone=True) == f"process {process_mark(os.getpid())}"


def test_processes_of_a_launcher_share_its_launch_and_a_restart_is_another():
    first = launch_of(RANKED | {"TORCHELASTIC_RESTART_COUNT": "0"}, alone=False)

    assert process_mark(os.getppid()) in first
    assert first == launch_of(RANKED | {"RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}, alone=False)
    assert first != launch_of(RANKED | {"TORCHELASTIC_RESTART_COUNT": "1"}, alone=False)


def test_tasks_of_a_slurm_step_share_its_name_in_whatever_container():
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}

    assert launch_of(step, alone=False) == "SLURM_JOB_ID=7 SLURM_STEP_ID=0"


def test_shell_around_each_rank_is_not_the_launcher(tmp_path):
    script = (
        "import os; from carbon_plugin.monitor.processes.launch import launch_of; "
        "print(launch_of(os.environ, alone=False))"
    )
    environ = {name: value for name, value in os.environ.items() if name != LAUNCH_VARIABLE} | RANKED
    plain = [sys.executable, "-c", script]
    wrapped = ["bash", "-c", 'export CUDA_VISIBLE_DEVICES=1; "$@"; exit $?', "bash", *plain]

    launches = {
        subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        for command in (plain, wrapped)
    }

    assert len(launches) == 1
    assert process_mark(os.getpid()) in launches.pop()


def test_processes_that_a_training_starts_itself_belong_to_it():
    environ: dict[str, str] = {}
    hand_down(environ, alone=True)

    assert launch_of(environ, alone=True) == launch_of(environ, alone=False)
    inherited = {LAUNCH_VARIABLE: f"{os.getppid()}:theirs"}
    assert launch_of(inherited, alone=False) == "theirs"
    assert launch_of({LAUNCH_VARIABLE: "1:a stranger's"} | RANKED, alone=False) != "a stranger's"


def test_lock_is_free_the_moment_that_its_holder_dies_although_children_live(tmp_path):
    election = joined(tmp_path)
    election.take(["GPU-0"], time.monotonic())
    child = subprocess.Popen(["sleep", "30"])
    try:
        election.forget()
        assert joined(tmp_path, rank=1).take(["GPU-0"], time.monotonic()) == ("GPU-0",)
    finally:
        child.kill()
        child.wait()


def test_a_rank_that_comes_after_the_others_have_ended_finds_what_they_metered(tmp_path):
    first = Election("launch", open_scratch(tmp_path), 0, 2)
    first.claim(Claim(rank=0, local_rank=0))
    assert first.take([HOST, "GPU-0"], 1.0) == (HOST, "GPU-0")
    first.end()

    late = Election("launch", open_scratch(tmp_path), 1, 2)
    late.claim(Claim(rank=1, local_rank=1, sees=["GPU-0", "GPU-1"]))

    assert [claim.rank for claim in late.claims()] == [0, 1]
    assert late.take([HOST, "GPU-0", "GPU-1"], 2.0) == ("GPU-1",)  # which nobody has metered
    late.end()
    assert not list((tmp_path / OURS / MEETINGS).iterdir())


def test_who_comes_long_after_all_others_is_of_another_launch(tmp_path):
    first = Election("launch", open_scratch(tmp_path), 0, 2)
    first.take([HOST], 1.0)
    first.end()
    (meeting,) = (tmp_path / OURS / MEETINGS).iterdir()
    os.utime(meeting, (time.time() - 400, time.time() - 400))

    other = Election("launch", open_scratch(tmp_path), 1, 2)

    assert other.take([HOST], 2.0) == (HOST,)
    other.forget()
