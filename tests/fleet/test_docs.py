"""The page of the fleet: what it shows runs as it is written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmarks.fleet_generator import write_fleet
from carbon_plugin.cli.main import run as command_line
from carbon_plugin.fleet.report import Asked, report
from tests.pages import blocks_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [block.code for block in blocks_of("docs/fleet.md", language)]


def test_commands_and_code_of_the_page_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_fleet(tmp_path / "runs", 4)

    for block in blocks("python"):
        exec(compile(block, "docs/fleet.md", "exec"), {})
    told = capsys.readouterr().out
    for line in blocks("bash")[0].splitlines():
        name, *arguments = shlex.split(line)
        assert (name, command_line(arguments)) == ("carbon-plugin", 0)

    assert "language 0." in told
    assert (tmp_path / "fleet.html").exists()
    assert (tmp_path / "fleet.csv").read_text().startswith("team,programme,month,")


def test_the_factors_of_the_page_are_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_fleet(tmp_path / "runs", 12)  # in all regions
    command_line(["fleet", "ingest", "runs", "--into", "store"])
    (tmp_path / "factors.yaml").write_text(blocks("yaml")[0])

    restated = report("store", Asked(factors="factors.yaml")).restatement

    assert restated is not None
    assert set(restated.of("location-based").by_factor_kg) == {"intensity", "PUE", "idle power"}
    assert {"embodied device", "lifetime"} <= set(restated.of("embodied").by_factor_kg)
