"""The end of a training hears the other ranks of its host, and says what it lacks of those that have not told yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.monitor import work
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.processes.leader import Claim, Election
from tests.monitor.launching import Launch, Start, wait_until
from tests.patience import PATIENCE_S

UNHEARD, BEING_WRITTEN = "without 1 other rank of this host, not heard of yet", "1 of 2 ledgers was still being written"


@pytest.mark.parametrize(
    ("file", "lacks"), [(None, UNHEARD), ("", ""), ("node-0.rank-1.attempt-0.jsonl", BEING_WRITTEN)]
)
def test_closing_line_says_what_it_lacks_of_a_rank_that_has_no_ledger_yet_or_only_an_empty_one(
    file: str | None,
    lacks: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    claims, other = Election.claims, Claim(rank=1, local_rank=1, sees=["GPU-1"], settled=True, file=file)
    monkeypatch.setattr(Election, "claims", lambda self, **which: [*claims(self, **which), other])
    monkeypatch.setattr(work, "SETTLE_S", 0.0)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    with caplog.at_level("INFO"), CarbonMonitor(run_dir=tmp_path / "run", site="FRA") as monitor:
        monitor.step_end()

    said = " ".join(caplog.messages)
    assert "and has used" in said
    assert [one for one in (UNHEARD, BEING_WRITTEN) if one in said] == ([lacks] if lacks else [])


@pytest.mark.parametrize("waits_s", [PATIENCE_S, 0.0])
def test_rank_that_tells_only_at_its_end_what_it_saw_is_heard_by_a_leader_that_ended_before_it(
    waits_s: float, seer: Start, tmp_path: Path
):
    (tmp_path / "host").mkdir()
    launch = Launch(
        lambda run_dir, folder, **variables: seer(run_dir, folder, 0.5, **variables),
        tmp_path / "run",
        WORLD_SIZE=2,
        LOCAL_WORLD_SIZE=2,
        TMPDIR=tmp_path / "host",
        JOB_GPUS="",
        JOB_WINDOW_S=3600,
        JOB_SETTLE_S=waits_s,
        JOB_LEAST_LEFT_SHARE=1e6,  # the second rank writes no ledger of its own, however long after the first it ends
    )
    launch.rank(RANK=0, LOCAL_RANK=0, JOB_AFTER="began-1", JOB_GRACE_S=0)
    launch.await_ready()
    launch.begin()
    wait_until(lambda: any((tmp_path / "run").glob("*.jsonl")))  # so that no ledger of the second rank tells of before
    # The second rank looks once the leader has begun to end, or has ended where that one waits for nobody.
    after = "closing-0" if waits_s else "closed-0"
    launch.rank(RANK=1, LOCAL_RANK=1, JOB_AFTER=after, JOB_LONGER_S=0.3, JOB_LOOKS_LATE=1)
    launch.end()

    (ledger,) = read_run(tmp_path / "run").files
    manifest = manifest_of(ledger.records)
    assert manifest is not None
    assert manifest.ranks_without_gpu == ([0, 1] if waits_s else [0])
    assert summarise(tmp_path / "run").coverage.ranks_unheard == (0 if waits_s else 1)
