"""`carbon-plugin scale`: one answer, a range with its files, and questions that cannot be asked."""

from __future__ import annotations

import csv
import json
from xml.etree import ElementTree

import pytest

from carbon_plugin.cli.main import run


def test_a_compute_budget_is_answered_with_model_cluster_time_and_carbon(capsys):
    assert run(["scale", "--compute", "1e23", "--zone", "FRA", "--pue", "1.2"]) == 0

    printed = capsys.readouterr().out
    for words in (
        "29.5 B parameters",
        "critical batch",
        "h100-sxm",
        "MFU",
        ") of the facility",
        "embodied",
        "in FRA",
        "deadline: 90 days",
    ):
        assert words in printed


def test_a_loss_is_answered_in_json(capsys):
    assert run(["scale", "--loss", "2.2", "--law", "moe", "--accelerator", "b200", "--zone", "WORLD", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    (point,) = document["points"]
    assert point["loss"] == pytest.approx(2.2)
    assert point["accelerator"] == "b200-sxm"
    assert point["parameters"] > 20 * point["active_parameters"]
    assert point["total_kg"]["low"] < point["total_kg"]["value"] < point["total_kg"]["high"]


def test_a_range_writes_table_document_and_charts(capsys, tmp_path):
    asked = ["--compute", "1e21:1e23", "--points", "3", "--accelerator", "h100", "--zone", "SWE", "--zone", "IND"]
    assert run(["scale", *asked, "-o", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr().out
    assert "carbon goes as reducible loss" in printed
    with (tmp_path / "out" / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["zone"] for row in rows] == ["SWE", "IND"] * 3
    document = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert len(document["points"]) == 6
    for name in ("carbon-against-loss.svg", "embodied-share.svg"):
        assert ElementTree.parse(tmp_path / "out" / name).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give compute or loss, one of them"),
        (["--compute", "1e23", "--loss", "2"], "give compute or loss, one of them"),
        (["--compute", "much"], "compute is 'much', expected a positive number or a range first:last"),
        (["--compute", "1e23:1e23"], "expected a range with different ends"),
        (["--loss", "1.5"], "is not above 1.8172"),
        (["--loss", "1.8173"], "expected 1e+32 at most"),
        (["--compute", "1e40"], "compute: 1e+40 FLOP, expected 1e+15 to 1e+32"),
        (["--compute", "1e23", "--law", "chinchila"], "unknown law 'chinchila'"),
        (["--compute", "1e23", "--zone", "Atlantis"], "zone 'Atlantis' is unknown"),
        (["--compute", "1e23:1e24", "--points", "1"], "points is 1, expected 2 to 1,000"),
        (["--compute", "1e23:1e24", "--points", "10000000"], "points is 10,000,000, expected 2 to 1,000"),
        (["--compute", "1e23"], "zone is not given, expected --zone with one, or WORLD"),
        (["--compute", "1e27", "--accelerator", "t4", "--zone", "SWE"], "fits on none of the clusters of t4"),
    ],
)
def test_a_bad_question_ends_with_one_line(arguments, message, capsys):
    assert run(["scale", *arguments]) == 2

    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
