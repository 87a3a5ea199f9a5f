"""`carbon-plugin export` and `carbon-plugin programme` as a user runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml

from carbon_plugin.cli.main import run
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site
from tests.ledger.builder import Job


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run in South Carolina, whose shipped intensity counts direct emissions."""
    factors = resolve_factors(Site(zone="egrid:SRVC", pue=1.2), None)
    kg = {scope: Figure(100.0, 50.0, 200.0, "kgCO2e", "assumed", "test") for scope in ("device", "host", "network")}
    factors = msgspec.structs.replace(factors, embodied_kg=kg)
    directory = tmp_path_factory.mktemp("runs") / "demo"
    job = Job(factors=msgspec.to_builtins(factors), intensity_g_per_kwh=factors.intensity.figure.value, pue=1.2)
    job.write(directory)
    return directory


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["sci"], "score"),
        (["eu-ai-act"], "training_energy"),
        (["ghg", "--organisational-boundary", "own", "--acquisition-year", "2025"], "lines"),
    ],
)
def test_export_is_one_json_document_on_standard_output(
    run_dir: Path, words: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(run_dir), "--format", *words]) == 0
    assert key in json.loads(capsys.readouterr().out)


def test_model_card_is_printed_or_written_into_a_readme(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run_dir), "--format", "model-card", "--training-type", "pre-training"]
    assert run(words) == 0
    fields = yaml.safe_load(capsys.readouterr().out)["co2_eq_emissions"]
    assert list(fields) == ["emissions", "source", "training_type", "geographical_location", "hardware_used"]
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit # ours\n---\n# Model\n")
    assert run([*words, "-o", str(card)]) == 0
    head, body = card.read_text().split("co2_eq_emissions:")
    assert head == "---\nlicense: mit # ours\n"
    assert body.endswith("\n---\n# Model\n")


def test_paragraph_is_written_to_a_file(run_dir: Path, tmp_path: Path) -> None:
    assert run(["export", str(run_dir), "--format", "paper", "-o", str(tmp_path / "paper.txt")]) == 0
    assert "PUE 1.2" in (tmp_path / "paper.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ghg"], "the organisational boundary is not stated"),
        (["ghg", "--organisational-boundary", "own"], "acquisition_year is not stated"),
        (["model-card"], "training_type is not known"),
        (["sci-ai"], "SCI for AI counts all of training"),
        (["sci-ai", "--covers", "all"], "has no FLOPs a step"),
    ],
)
def test_what_is_missing_is_one_line_and_exit_2(
    run_dir: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(run_dir), "--format", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_programme_is_a_table_with_its_notes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["programme", str(run_dir.parent)]) == 0
    printed = capsys.readouterr().out
    assert "programme simulated-llm" in printed
    ranges = re.findall(r"^ +(?:[\d.,]+–[\d.,]+ *){4}$", printed, re.MULTILINE)
    assert len(ranges) == 2, "the role and the whole have energy, operational, embodied and total carbon with a range"
    assert "development (all but the final runs): 0 % of the carbon" in printed
    assert "note: no run here has the role ablation" in printed


def test_programme_is_one_json_document(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["programme", str(run_dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [role["role"] for role in document["roles"]] == ["final"]


def test_several_runs_are_refused_where_only_one_makes_sense(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(run_dir), str(run_dir), "--format", "sci"]) == 2
    assert "sci is the score of one run" in capsys.readouterr().err
