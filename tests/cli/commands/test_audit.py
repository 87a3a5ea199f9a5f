"""`carbon-plugin audit` as a user runs it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from carbon_plugin.ledger.reader import read_ledger
from tests.launcher.client import CommandLine
from tests.ledger.builder import Job


@pytest.fixture
def audit(command_line: CommandLine) -> CommandLine:
    """Run the command: `audit(run_dir, "--json")`."""
    return partial(command_line, "audit")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    Job().write(tmp_path / "runs" / "demo")
    return tmp_path / "runs" / "demo"


def test_summary_is_printed_and_says_where_the_report_is(audit: CommandLine, run_dir: Path) -> None:
    done = audit(run_dir)
    assert done.returncode == 0, done.stderr
    assert "energy, machines" in done.stdout
    assert done.stdout.rstrip().endswith(f"report: {run_dir / 'report.html'}")
    assert (run_dir / "report.html").exists()


def test_json_is_one_document_and_nothing_else(audit: CommandLine, run_dir: Path, tmp_path: Path) -> None:
    done = audit(run_dir, "--json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["coverage"]["gpus_measured"] == 4
    assert (tmp_path / "out" / "report.json").read_text() == done.stdout


def test_verified_run_exits_0_and_tampered_run_1(audit: CommandLine, run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-1.jsonl"
    done = audit(run_dir, "--verify")
    assert done.returncode == 0, done.stderr
    assert "ledger: unsealed, 4 files: complete and consistent, but no anchor" in done.stdout
    # Node 1 has seen the ends of all other files, so that its head vouches for them too.
    head = read_ledger(run_dir / "node-1.attempt-1.jsonl").head
    done = audit(run_dir, "--verify", "--anchor", head)
    assert done.returncode == 0, done.stderr
    assert "ledger: verified, 4 files: 1 anchor matched" in done.stdout
    path.write_bytes(path.read_bytes().replace(b'"steps":20', b'"steps":21', 1))
    assert audit(run_dir).returncode == 0
    done = audit(run_dir, "--verify")
    assert done.returncode == 1
    assert "not verified: node-0.attempt-1.jsonl: line" in done.stderr


def test_anchor_that_does_not_match_exits_1(audit: CommandLine, run_dir: Path) -> None:
    done = audit(run_dir, "--anchor", "0" * 32)
    assert done.returncode == 1
    assert f"not verified: anchor {'0' * 32} is not in any ledger of this run" in done.stderr


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "no such run directory"),
        ("runs", "no ledger here (no file node-*.attempt-*.jsonl); did you mean"),
        ("runs/demo/node-0.attempt-0.jsonl", "cannot be listed: Not a directory"),
    ],
)
def test_wrong_directory_is_one_line_and_exit_2(audit: CommandLine, run_dir: Path, place: str, message: str) -> None:
    done = audit(run_dir.parent.parent / place)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_anchor_that_is_no_chain_is_one_line_and_exit_2(audit: CommandLine, run_dir: Path) -> None:
    done = audit(run_dir, "--anchor", "deadbeef")
    assert done.returncode == 2
    assert "expected 32 hex digits" in done.stderr


def test_names_in_a_ledger_cannot_steer_the_terminal(audit: CommandLine, run_dir: Path) -> None:
    identity = run_dir / "run.json"
    hostile = r"demo\u0007\u0000\u001b]0;owned\u0007\u001b[2J\u202e"
    identity.write_text(identity.read_text().replace('"simulated"', f'"{hostile}"'))
    path = run_dir / "node-0.attempt-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b"GPU-0000-0000", rb"GPU-\u0007\u0000\u001b[2J"))
    done = audit(run_dir, "--verify")
    for text in (done.stdout, done.stderr, (run_dir / "summary.txt").read_text()):
        assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert r"demo\x07\x00\x1b]0;owned\x07\x1b[2J\u202e" in done.stdout
    explained = audit(run_dir, "--explain").stdout
    assert not [letter for letter in explained if letter != "\n" and not letter.isprintable()]


def test_run_that_was_killed_is_audited_and_called_incomplete(audit: CommandLine, run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-1.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert audit(run_dir).returncode == 0
    done = audit(run_dir, "--verify")
    assert done.returncode == 3
    assert f"ledger: INCOMPLETE, 4 files: {path.name}: no closing record" in done.stdout
    assert (
        f"incomplete: {path.name}: no closing record: killed, cut off, on a full disk, or still running" in done.stderr
    )
    assert "the last line is incomplete" in (run_dir / "report.html").read_text()
