"""`run.json`: many starters, one run id."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.identity import agree_run, read_identity


def _agree(run_dir: str, answers: multiprocessing.SimpleQueue[str]) -> None:
    answers.put(agree_run(run_dir, name="race").run_id)


def test_ranks_that_start_together_agree_on_one_id(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    ranks = [context.Process(target=_agree, args=(str(tmp_path / "run"), answers)) for _ in range(8)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len({answers.get() for _ in ranks}) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_restarted_run_keeps_its_id_and_name(tmp_path: Path) -> None:
    first = agree_run(tmp_path, name="llama", programme="llama-4", role="final")
    again = agree_run(tmp_path, name="renamed")
    assert again == first
    assert read_identity(tmp_path) == first


def test_given_id_is_used_and_must_fit_the_directory(tmp_path: Path) -> None:
    assert agree_run(tmp_path, name="llama", run_id="slurm-1234").run_id == "slurm-1234"
    assert agree_run(tmp_path, name="llama", run_id="slurm-1234").run_id == "slurm-1234"
    with pytest.raises(LedgerError, match=r"holds run_id slurm-1234, but this job was given run_id slurm-5"):
        agree_run(tmp_path, name="llama", run_id="slurm-5")


def test_directory_without_a_run_has_no_identity(tmp_path: Path) -> None:
    assert read_identity(tmp_path) is None


def test_file_system_without_hard_links_still_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    first = agree_run(tmp_path, name="fuse")
    assert agree_run(tmp_path, name="fuse") == first
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_half_written_identity_is_waited_for(tmp_path: Path) -> None:
    whole = json.dumps({"version": 1, "run_id": "late", "created_unix_s": 1.0, "name": "slow"})
    path = tmp_path / "run.json"
    path.write_text(whole[:20])

    def finish() -> None:
        time.sleep(0.2)
        path.write_text(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    assert agree_run(tmp_path, name="other").run_id == "late"
    writer.join()


def test_identity_that_stays_broken_is_one_readable_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"version": 1, "run_id"')
    with pytest.raises(LedgerError, match=r"run\.json: no run identity after 0\.1 s"):
        agree_run(tmp_path, name="other", wait_s=0.1)
    with pytest.raises(LedgerError, match=r"run\.json: not a run identity"):
        read_identity(tmp_path)
