"""One leader a host: real processes and a real lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_plugin.monitor.leader import Claim, Election

HOLDER = """
import sys
from pathlib import Path
from carbon_plugin.monitor.leader import Claim, Election
election = Election("run", "boot", Path(sys.argv[1]))
print(election.try_lead(), flush=True)
election.claim(Claim(rank=1, local_rank=1, pid=__import__("os").getpid(), uuids=["GPU-1"]))
election.announce(["GPU-0", "GPU-1"])
print("ready", flush=True)
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
    assert process.stdout.readline().strip() == "True"
    assert process.stdout.readline().strip() == "ready"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def election(tmp_path) -> Election:
    return Election("run", "boot", tmp_path)


def test_second_process_of_a_host_does_not_lead(holder, election):
    assert not election.try_lead()
    assert election.announced() == ["GPU-0", "GPU-1"]


def test_another_run_on_the_host_has_a_leader_of_its_own(holder, tmp_path):
    assert Election("other run", "boot", tmp_path).try_lead()


def test_lead_passes_on_when_the_leader_is_killed(holder, election):
    holder.kill()
    holder.wait()

    assert election.try_lead()
    assert election.follows, "what was before is in the ledger of the leader that was lost"
    assert election.announced() is None


def test_first_leader_of_a_launch_follows_nobody(tmp_path):
    first = Election("run", "boot", tmp_path)
    first.try_lead()
    first.forget()

    again = Election("run", "boot", tmp_path)

    assert not first.follows
    assert again.try_lead()
    assert not again.follows, "the leader before was of an earlier launch"


def test_leader_that_was_never_met_alive_is_known_by_its_mark(tmp_path):
    waiting, leading = (Election("run", "boot", tmp_path) for _ in range(2))
    assert not waiting.had_a_leader()
    leading.try_lead()
    leading.forget()

    assert waiting.had_a_leader()
    assert waiting.try_lead()
    assert waiting.follows


def test_next_monitor_of_a_process_follows_nobody(tmp_path):
    first = Election("run", "boot", tmp_path)
    first.try_lead()
    first.announce(["GPU-0"])
    first.end()

    second = Election("run", "boot", tmp_path)

    assert second.announced() is None
    assert second.try_lead()
    assert not second.follows


def test_nobody_follows_a_leader_that_ended_in_order(holder, election):
    print("end", file=holder.stdin, flush=True)
    assert holder.stdout.readline().strip() == "ended"

    assert not election.try_lead()


def test_next_attempt_leads_although_the_last_one_ended_in_order(holder, tmp_path):
    print("end", file=holder.stdin, flush=True)
    assert holder.stdout.readline().strip() == "ended"

    assert Election("run", "boot", tmp_path).try_lead()


def test_claims_of_the_living_are_heard(holder, election):
    election.claim(Claim(rank=0, local_rank=0, pid=os.getpid(), cuda_visible_devices="0"))

    assert [claim.rank for claim in election.claims()] == [0, 1]

    holder.kill()
    holder.wait()
    assert [claim.rank for claim in election.claims()] == [0]


def test_meeting_places_that_nobody_uses_any_more_are_removed(holder, tmp_path):
    abandoned = Election("old run", "boot", tmp_path)
    abandoned.try_lead()
    abandoned.end()
    places = [path for path in tmp_path.iterdir() if path.is_dir()]
    for place in places:
        os.utime(place, (0, 0))

    Election("new run", "boot", tmp_path)

    left = [place for place in places if place.exists()]
    assert len(places) == 2
    assert len(left) == 1  # that of the living leader
    assert Election("run", "boot", tmp_path).announced() == ["GPU-0", "GPU-1"]


def test_half_written_claim_is_left_out(election, tmp_path):
    (folder,) = [path for path in Path(tmp_path).iterdir() if path.is_dir()]
    (folder / "rank-7.json").write_text("{")

    assert election.claims() == []
