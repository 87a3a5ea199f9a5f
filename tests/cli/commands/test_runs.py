"""`carbon-plugin runs`, `compare` and `watch` as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.runs import state_of
from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.ledger.held.quiet import QUIET_S
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site
from tests.ledger.builder import Attempt, Job

STACK = {"population": "ordinary", "fused": False, "plain_modules": None}
EFFECTIVE = {"layout.tp": {"value": 4}, "same": {"value": 1}, "stack": {"value": STACK}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three directories: a run of 4 GPUs in France, a run of 2 without a site, and a ledger of an
    unknown version.
    """
    factors = resolve_factors(Site(zone="FRA", pue=1.2), None)
    kg = {scope: Figure(100.0, 50.0, 200.0, "kgCO2e", "assumed", "test") for scope in ("device", "host", "network")}
    known: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(factors, embodied_kg=kg))
    directory = tmp_path_factory.mktemp("runs")
    Job(factors=known, intensity_g_per_kwh=41.4, pue=1.2).write(directory / "four")
    Job(factors={}, intensity_g_per_kwh=None, pue=None, nodes=1, attempts=[Attempt(0, 6)]).write(directory / "two")
    (directory / "broken").mkdir()
    (directory / "broken" / "node-0.attempt-0.jsonl").write_bytes(b"no ledger\n")
    return directory


def test_runs_are_listed_with_what_they_used_and_how_they_stand(place, capsys):
    assert run(["runs", str(place), "--json"]) == 0

    listed = {Path(one["directory"]).name: one for one in json.loads(capsys.readouterr().out)}
    summary = summarise(place / "four")
    assert listed["four"]["energy_j"] == summary.energy.energy_j
    assert listed["four"]["total_kg"] == summary.footprint.total_kg.value
    assert listed["four"]["carbon_range_kg"] == [summary.footprint.total_kg.low, summary.footprint.total_kg.high]
    assert 0 < listed["four"]["measured_share"] <= 1
    assert listed["four"]["state"] == "finished"
    assert listed["two"]["total_kg"] is None
    assert listed["broken"]["problem"]


def test_run_in_a_directory_whose_name_is_no_unicode_is_listed(tmp_path, capsys):
    Job(nodes=1, attempts=[Attempt(0, 6)]).write(tmp_path / os.fsdecode(b"L\xe4ufe"))

    assert run(["runs", str(tmp_path), "--json"]) == 0

    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["directory"] == str(tmp_path / "L\\udce4ufe")
    assert listed["state"] == "finished"


def test_list_of_runs_names_each_directory_and_what_cannot_be_read(place, capsys):
    assert run(["runs", str(place)]) == 0

    printed = capsys.readouterr().out
    assert "four" in printed
    assert "final" in printed
    assert printed.count("not read:") == 1


def test_a_run_that_was_killed_before_its_first_window_is_listed(place, tmp_path, capsys):
    shutil.copytree(place / "two", tmp_path / "runs" / "two")
    (ledger,) = (tmp_path / "runs" / "two").glob("*.jsonl")
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])

    assert run(["runs", str(tmp_path / "runs")]) == 0

    (line,) = (line for line in capsys.readouterr().out.splitlines() if "two" in line)
    assert "unknown" in line


@pytest.mark.parametrize("command", ["runs", "programme"])
def test_a_link_to_itself_is_one_line(command, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")

    assert run([command, str(tmp_path / "loop")]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "loop" in error


def test_directory_without_runs_is_one_line(tmp_path, capsys):
    assert run(["runs", str(tmp_path)]) == 2
    assert "no run directory here or below" in capsys.readouterr().err


def test_comparison_has_one_unit_a_row_and_the_numbers_of_the_audits(place, capsys):
    assert run(["compare", str(place / "four"), str(place / "two"), "--json"]) == 0

    rows = {one["name"]: one for one in json.loads(capsys.readouterr().out)["quantities"]}
    four, two = summarise(place / "four"), summarise(place / "two")
    assert rows["energy of the machines"]["values"] == [four.energy.energy_j, two.energy.energy_j]
    assert rows["energy a token"]["values"][1] == two.energy.energy_j / two.progress.tokens
    assert rows["total carbon"]["values"] == [four.footprint.total_kg.value, None]
    assert rows["GPUs"]["values"] == [4, 2]

    page = place / "pages" / "compare.html"
    assert run(["compare", str(place / "four"), str(place / "two"), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "energy of the machines, Wh" in printed
    assert "no carbon is stated" in printed
    assert str(four.footprint.total_kg.value) in page.read_text(encoding="utf-8")


def test_what_no_profile_or_no_run_tells_is_unknown_and_not_zero(place, tmp_path, capsys):
    factors: dict[str, Any] = msgspec.to_builtins(resolve_factors(Site(zone="FRA", pue=1.2), None))
    Job(factors=factors, intensity_g_per_kwh=41.4, pue=1.2).write(tmp_path / "bare")
    bare = summarise(tmp_path / "bare")
    progress = msgspec.structs.replace(bare.progress, tokens=0)
    (tmp_path / "bare.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(bare, progress=progress)))

    assert run(["compare", str(place / "four"), str(tmp_path / "bare.json"), "--json"]) == 0

    rows = {one["name"]: one["values"] for one in json.loads(capsys.readouterr().out)["quantities"]}
    assert rows["embodied carbon"] == [summarise(place / "four").footprint.embodied_kg.value, None]
    assert rows["manufacture in no total"] == [None, "accelerators and hosts"]
    assert rows["tokens"][1] is None
    assert rows["total carbon"][1] is None
    assert rows["operational carbon"][1] == bare.footprint.operational_kg.value

    assert run(["whatif", str(tmp_path / "bare"), "zone=SWE"]) == 0
    assert capsys.readouterr().out.count("unknown") == 4  # embodied and total of the run and of the alternative


def test_comparison_names_fields_of_the_spec_that_differ(place, tmp_path, capsys):
    summary = summarise(place / "four")
    other = msgspec.structs.replace(
        summary, run=msgspec.structs.replace(summary.run, effective=EFFECTIVE | {"layout.tp": {"value": 8}})
    )
    mine = msgspec.structs.replace(
        summary,
        run=msgspec.structs.replace(summary.run, effective=EFFECTIVE | {"stack": {"value": STACK | {"fused": True}}}),
    )
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, one in zip(files, (mine, other), strict=True):
        path.write_bytes(msgspec.json.encode(one))

    assert run(["compare", *map(str, files), "--json"]) == 0

    spec = json.loads(capsys.readouterr().out)["spec"]
    assert [(one["name"], one["values"]) for one in spec] == [
        ("layout.tp", ["4", "8"]),
        ("stack.fused", ["true", "false"]),
    ]


def test_comparison_marks_defaults_and_gives_no_source_of_a_number_that_nobody_stated(place, tmp_path, capsys):
    summary = summarise(place / "four")
    site = msgspec.to_builtins(Site(zone="FRA"))
    assert site["pue_source"] == "stated by the user"
    specs: list[dict[str, Any]] = [
        {"training.optimizer": {"value": "adamw", "source": "default"}, "site": {"value": None, "source": "unknown"}},
        {"training.optimizer": {"value": "sgd", "source": "declared"}, "site": {"value": site, "source": "declared"}},
    ]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, effective in zip(files, specs, strict=True):
        one = msgspec.structs.replace(summary, run=msgspec.structs.replace(summary.run, effective=effective))
        path.write_bytes(msgspec.json.encode(one))

    assert run(["compare", *map(str, files), "--json"]) == 0

    spec = json.loads(capsys.readouterr().out)["spec"]
    assert [(one["name"], one["values"]) for one in spec] == [
        ("training.optimizer", ["adamw (default)", "sgd"]),
        ("site.zone", [None, "FRA"]),
    ]


def test_comparison_leaves_out_a_field_that_reads_empty_in_all_runs(place, tmp_path, capsys):
    summary = summarise(place / "four")
    models: list[dict[str, Any]] = [
        {"model": {"value": {"name": "a", "blocks": [], "layers": 4}}},
        {"model": {"value": {"name": "b", "forward_flops_per_sample": 1e9}}},
    ]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, effective in zip(files, models, strict=True):
        one = msgspec.structs.replace(summary, run=msgspec.structs.replace(summary.run, effective=effective))
        path.write_bytes(msgspec.json.encode(one))

    assert run(["compare", *map(str, files), "--json"]) == 0

    spec = json.loads(capsys.readouterr().out)["spec"]
    assert [one["name"] for one in spec] == ["model.name", "model.layers", "model.forward_flops_per_sample"]


def test_losses_that_are_stated_stand_beside_what_they_took(place, capsys):
    runs = [str(place / "four"), str(place / "four")]
    assert run(["compare", *runs, "--loss", "2.31,2.50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["quantities"][-1]["values"] == [2.31, 2.5]
    assert any("different losses" in caution for caution in document["cautions"])

    assert run(["compare", *runs, "--loss", "2.31"]) == 2
    assert "states 1 loss for 2 runs" in capsys.readouterr().err
    for losses in ("low,lower", "nan,1", "2.31,", "1e999,2"):
        assert run(["compare", *runs, "--loss", losses]) == 2
        assert "expected numbers with commas" in capsys.readouterr().err


def test_one_run_cannot_be_compared(place, capsys):
    assert run(["compare", str(place / "four")]) == 2
    assert "1 run given, expected two or more" in capsys.readouterr().err


def test_watch_shows_a_run_that_has_ended_and_leaves(place, capsys):
    assert run(["watch", str(place / "four")]) == 0

    printed = capsys.readouterr().out
    assert "finished" in printed
    assert "440 of 1,000" in printed
    assert "none, because the run has ended" in printed
    assert "to go" not in printed


def test_watch_gives_the_same_as_one_document(place, capsys):
    assert run(["watch", str(place / "four"), "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "finished"
    assert ["step", "440 of 1,000"] in document["rows"]


def test_watch_redraws_itself_in_a_terminal_that_no_name_can_steer(tmp_path):
    run_dir = tmp_path / "run"
    Job(nodes=1, attempts=[Attempt(0, 6, closed=False)]).write(run_dir, start_unix_s=time.time() - 70)
    identity = {"version": 1, "run_id": "a" * 32, "created_unix_s": 0.0, "name": "\x1b[2Jevil", "programme": None}
    (run_dir / "run.json").write_bytes(msgspec.json.encode(identity))
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).parent / "carbon-plugin"), "watch", str(run_dir), "--interval", "0.5"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)

    shown = b""
    while shown.count(b"recorded") < 3:  # two redrawings
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=240)
    os.close(ours)

    assert b"\x1b[1A\x1b[2K" in shown  # up a line, and clear it
    assert b"\\x1b[1A" not in shown
    assert b"\x1b[2J" not in shown
    assert b"\\x1b[2Jevil" in shown


def test_interval_that_cannot_be_is_refused(place, capsys):
    assert run(["watch", str(place / "four"), "--interval", "0"]) == 2
    assert "expected more than 0" in capsys.readouterr().err


def test_run_without_an_end_runs_while_its_ledgers_grow(tmp_path):
    Job(nodes=1, attempts=[Attempt(0, 6, closed=False)]).write(tmp_path)
    summary = summarise(tmp_path)
    last_s = summary.period.end_unix_s

    assert state_of(summary, last_s + QUIET_S) == "running"
    assert state_of(summary, last_s + QUIET_S + 1) == "killed"
    assert state_of(summary, time.time()) == "killed"


def test_every_compared_number_has_its_range_and_says_how_it_is_known(place, capsys):
    runs = [str(place / "four"), str(place / "two")]
    assert run(["compare", *runs, "--json"]) == 0
    rows = {one["name"]: one for one in json.loads(capsys.readouterr().out)["quantities"]}
    assert run(["compare", *runs]) == 0
    printed = capsys.readouterr().out
    summary = summarise(place / "four")

    energy, carbon, pue = (rows[name] for name in ("energy of the machines", "total carbon", "PUE"))
    assert energy["ranges"][0] == [summary.energy.low_j, summary.energy.high_j]
    assert energy["known_by"][0].endswith("measured")
    assert carbon["ranges"] == [[summary.footprint.total_kg.low, summary.footprint.total_kg.high], None]
    assert carbon["known_by"] == ["modelled", None]
    assert pue["known_by"] == ["declared", None]
    assert rows["optimizer steps"]["ranges"] == [None, None]
    assert "measured" in printed
    assert " to " in printed
