"""`plan --search` through the real entry point."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_plugin.cli import main as cli

SPEC = """
name: small
model: llama3-8b
cluster: {accelerator: h100-sxm, nodes: 4}
training: {seq_len: 4096, global_batch_size: 256, steps: 50000}
site: {zone: FRA}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return str(path)


def test_written_specs_are_planned_with_the_numbers_of_the_search(spec, tmp_path: Path, capsys):
    folder = tmp_path / "found"
    assert cli.run(["plan", spec, "--search-nodes", "4,32", "--write-specs", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    written = [option for option in report["options"] if option["spec_file"]]
    assert len(written) >= 2
    assert sorted(map(str, folder.iterdir())) == sorted(option["spec_file"] for option in written)

    for option in written:
        assert cli.run(["plan", option["spec_file"], "--json"]) == 0
        forecast = json.loads(capsys.readouterr().out)
        assert forecast["prediction"]["step_time_s"] == option["step_time_s"]
        assert forecast["run_time_s"] == option["run_time_s"]
        assert forecast["footprint"]["total_kg"] == option["total_kg"]
        assert forecast["spec"]["layout"] == option["layout"]


def test_profiles_that_a_spec_names_are_searched_and_come_along(spec, tmp_path: Path, capsys):
    shipped = Path(__file__).parents[3] / "hardware_profiles" / "accelerators" / "h100-sxm.yaml"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "big.yaml").write_text(shipped.read_text().replace("name: h100-sxm", "name: big-h100", 1))
    path = tmp_path / "own.yaml"
    path.write_text(SPEC.replace("h100-sxm,", "big-h100, node: sxm-8, profiles: [mine],"))
    found = tmp_path / "elsewhere" / "found"
    assert cli.run(["plan", str(path), "--search", "--write-specs", str(found), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["options"][0]["spec_file"]
    assert cli.run(["plan", written, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["cluster"]["accelerator"]["name"] == "big-h100"


def test_the_table_names_the_front_its_layouts_and_what_was_left_out(spec, tmp_path: Path, capsys):
    found = tmp_path / "found.json"
    flags = ["--search-nodes", "1,4", "--search-zone", "FRA,SWE", "--deadline-days", "5", "-o", str(found)]
    assert cli.run(["plan", spec, *flags]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "search: small" in printed
    assert "layouts on 2 clusters" in printed
    assert "4 x dgx-h100, h100-sxm, SWE: " in printed
    assert "left out: 1 x dgx-h100 with 8 h100-sxm: deadline: " in printed
    assert json.loads(found.read_text())["deadline_s"] == 5 * 86400


@pytest.mark.parametrize(
    ("flags", "said", "code"),
    [
        (["--deadline-days", "0.01"], "deadline: the fastest of ", 3),
        (
            ["--search", "--global-batch-size", "1", "--nodes", "64", "--seq-len", "1001"],
            "batch: global_batch_size 1 is not a multiple",
            3,
        ),
        (["--search", "--model", "llama3-405b", "--nodes", "1"], "memory: none of ", 3),
        (["--search", "--tp", "3"], "layout: tp 3 does not divide the 32 devices", 3),
        (["--search-nodes", "8,x"], "--search-nodes is '8,x', expected", 2),
        (["--search", "--compare", "zone=SWE"], "two questions", 2),
    ],
)
def test_a_search_without_an_answer_is_one_line_and_says_by_its_code_why(spec, flags, said, code, capsys):
    assert cli.run(["plan", spec, *flags]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_search_keeps_to_the_degrees_that_are_stated(spec, capsys):
    assert cli.run(["plan", spec, "--search", "--tp", "8", "--recompute", "full", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert {(option["layout"]["tp"], option["layout"]["recompute"]) for option in options} == {(8, "full")}


def test_progress_is_shown_on_a_terminal_and_not_in_the_document(spec):
    master, terminal = pty.openpty()
    program = str(Path(sys.executable).parent / "carbon-plugin")
    done = subprocess.run(
        [program, "plan", spec, "--search", "--json"], stdout=subprocess.PIPE, stderr=terminal, check=True
    )
    os.close(terminal)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert "searching layouts" in shown
    assert json.loads(done.stdout)["options"]


def test_the_table_says_whose_energy_it_has(spec, capsys):
    assert cli.run(["plan", spec, "--search"]) == 0

    assert "Energy is that of the facility." in " ".join(capsys.readouterr().out.split())


def test_a_layout_that_is_predicted_faster_than_the_front_is_explained_by_what_is_expected(tmp_path: Path, capsys):
    path = tmp_path / "close.yaml"
    path.write_text(
        "model: qwen2.5-7b\ncluster: {accelerator: h100-sxm, nodes: 4}\n"
        "training: {seq_len: 4096, global_batch_size: 256, steps: 19074}\nsite: {zone: SWE}\n"
    )

    assert cli.run(["plan", str(path), "--search"]) == 0

    said = " ".join(capsys.readouterr().out.split())
    assert "No other layout beats one of these in expected time, energy and carbon" in said
    assert "a layout whose predicted time is a little shorter may not be here" in said
