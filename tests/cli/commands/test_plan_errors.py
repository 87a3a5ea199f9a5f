"""`carbon-plugin plan` without a run, with a part of one, or with another document: one line that says what to give."""

from __future__ import annotations

import pytest

from carbon_plugin.cli.main import run

RUN = """
model: llama3-8b
cluster: {accelerator: h100-sxm, nodes: 1}
training: {seq_len: 8192, global_batch_size: 64, steps: 1000}
site: {zone: FRA}
"""
EXAMPLE = "expected a spec such as run.yaml, or all of --model llama3-8b --accelerator h100-sxm --nodes 1 --steps 1000"
FLAGS = ("--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "1", "--steps", "10", "--zone", "FRA")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((), "--model, --accelerator, --nodes, --steps or --tokens, --zone are missing; "),
        (("--tp", "3"), "--model, --accelerator, --nodes, --steps or --tokens, --zone are missing; "),
        (("--model", "llama3-8b", "--zone", "FRA"), "--accelerator, --nodes, --steps or --tokens are missing; "),
        (FLAGS[:-2], "--zone is missing; "),
    ],
)
def test_what_is_missing_is_named_at_once(arguments, missing, capsys):
    assert run(["plan", *arguments]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: command line: no run spec is given, and {missing}{EXAMPLE}")


@pytest.mark.parametrize("amount", ["--steps", "--tokens"])
def test_a_length_of_nothing_is_refused_and_not_called_missing(amount, capsys):
    assert run(["plan", *FLAGS[:6], amount, "0", *FLAGS[-2:]]) == 2

    assert f"training: {amount.strip('-')} is 0, expected a positive" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("run.yaml", "--tp", "3"), (*FLAGS, "--tp", "3")])
def test_degrees_that_do_not_fit_the_cluster_are_named_with_what_would(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)

    assert run(["plan", *arguments]) == 3

    (line,) = capsys.readouterr().err.splitlines()
    assert "tp 3" in line
    assert ("give degrees whose product is 8, or `layout: auto`" if "run.yaml" in arguments else "1, 2, 4 or 8") in line


@pytest.mark.parametrize("command", [["plan"], ["when", "--forecast", "grid.csv"]])
def test_a_forecast_is_no_spec_and_that_is_said(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    assert run(["plan", "run.yaml", "-o", "forecast.json"]) == 0
    capsys.readouterr()

    assert run([command[0], "forecast.json", *command[1:]]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: forecast.json: is a forecast that `plan -o` has written, expected a run spec")
