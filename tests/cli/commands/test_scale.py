"""`carbon-plugin scale`: one answer, a range with its files, and questions that cannot be asked."""

from __future__ import annotations

import csv
import json
import math
import re
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
    assert re.search(r"^step +[\d.]+ s \([\d.]+ to [\d.]+\); MFU", printed, re.MULTILINE)


def test_a_batch_stands_beside_the_critical_one_of_each_law_and_says_how_it_was_rounded(capsys):
    assert run(["scale", "--compute", "1e22", "--zone", "SWE", "--json"]) == 0
    (point,) = json.loads(capsys.readouterr().out)["points"]
    laws = {law: one["critical_batch"] for law, one in point["by_batch_law"].items()}
    middle = sorted(laws.values())[1]

    assert run(["scale", "--compute", "1e22", "--zone", "SWE"]) == 0

    printed = " ".join(capsys.readouterr().out.split())
    assert f"{middle / 1e6:.2f} M ({next(law for law in laws if laws[law] == middle)})" in printed
    assert "each rounded down to a power of two of sequences" in printed
    tried = [2 ** math.floor(math.log2(share * middle / 4096)) * 4096 for share in (1, 0.5, 0.25)]
    assert point["batch"] in tried


def test_a_loss_is_answered_in_json(capsys):
    assert run(["scale", "--loss", "2.2", "--law", "moe", "--accelerator", "b200", "--zone", "WORLD", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    (point,) = document["points"]
    assert point["loss"] == pytest.approx(2.2)
    assert point["accelerator"] == "b200-sxm"
    assert point["parameters"] > 20 * point["active_parameters"]
    for name in ("step_time_s", "time_s", "device_hours", "facility_energy_j", "total_kg"):
        assert point[name]["low"] < point[name]["value"] < point[name]["high"], name
        assert point[name]["kind"] == "modelled", name
    steps = point["tokens"] / point["batch"]
    assert point["best_case_time_s"] == pytest.approx(
        steps * point["step_time_s"]["value"] / point["goodput"], rel=0.01
    )
    # What real runs take beyond their best case is 1.00 times it for mixtures in ordinary software.
    assert point["time_s"]["value"] >= point["best_case_time_s"]
    assert point["device_hours"]["value"] == pytest.approx(point["devices"] * point["time_s"]["value"] / 3600)


def test_a_range_writes_table_document_and_charts(capsys, tmp_path):
    asked = ["--compute", "1e21:1e23", "--points", "3", "--accelerator", "h100", "--zone", "SWE", "--zone", "IND"]
    assert run(["scale", *asked, "-o", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr().out
    assert "carbon goes as reducible loss" in printed
    with (tmp_path / "out" / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["zone"] for row in rows] == ["SWE", "IND"] * 3
    for name in ("step_time_s", "time_days", "total_t"):
        assert all(float(row[f"{name}_p10"]) < float(row[name]) < float(row[f"{name}_p90"]) for row in rows), name
    document = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert len(document["points"]) == 6
    for name in ("carbon-against-loss.svg", "embodied-share.svg"):
        assert ElementTree.parse(tmp_path / "out" / name).getroot().tag.endswith("svg")


def test_a_range_leaves_out_the_devices_that_lack_the_precision_and_says_so_once(capsys, tmp_path):
    asked = ["--compute", "1e21:1e22", "--points", "2", "--accelerator", "v100", "--accelerator", "h100"]
    assert run(["scale", *asked, "--precision", "bf16", "--zone", "SWE", "-o", str(tmp_path)]) == 0

    printed = capsys.readouterr().out
    assert printed.count("left out: training: precision bf16 is not supported by v100-sxm2-32gb") == 1
    document = json.loads((tmp_path / "scaling.json").read_text())
    assert {point["accelerator"] for point in document["points"]} == {"h100-sxm"}


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
        (
            ["--compute", "1e22", "--zone", "FRA", "--stack", "megatronn"],
            "unknown stack 'megatronn'; nearest:",
        ),
        (["--compute", "1e22", "--zone", "FRA", "--precision", "bf17"], "precision: expected one of bf16, fp16"),
        (["--compute", "1e22", "--zone", "FRA", "--seq-len", "0"], "seq_len is 0, expected a positive integer"),
        (
            ["--compute", "1e22", "--zone", "FRA", "--accelerator", "v100", "--precision", "fp8"],
            "precision fp8 is not supported by v100-sxm2-32gb",
        ),
        (["--compute", "1e27", "--accelerator", "t4", "--zone", "SWE"], "fits on none of the clusters of t4"),
    ],
)
def test_a_bad_question_ends_with_one_line(arguments, message, capsys):
    assert run(["scale", *arguments]) == 2

    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("command", ["plan", "when", "scale"])
def test_every_command_that_plans_a_run_takes_the_same_of_software_place_and_hardware(command, capsys):
    assert run([command, "--help"]) == 0

    words = capsys.readouterr().out.split()
    shared = {"--accelerator", "--profiles", "--zone", "--intensity", "--pue", "--stack", "--precision", "--seq-len"}
    assert shared | {"--seed", "--json"} <= set(words)


def test_what_is_stated_of_the_training_is_planned_and_no_longer_assumed(capsys):
    def point_and_assumed(*flags):
        assert run(["scale", "--compute", "1e21", "--zone", "FRA", "--json", *flags]) == 0
        document = json.loads(capsys.readouterr().out)
        return document["points"][0], {item["field"]: item["value"] for item in document["assumptions"]}

    usual, assumed = point_and_assumed()
    tuned, with_stack = point_and_assumed("--stack", "megatron-core")
    _, with_all = point_and_assumed("--stack", "tuned", "--precision", "fp8", "--seq-len", "2048")

    assert tuned["mfu"] > 1.2 * usual["mfu"]
    assert (assumed["stack"], assumed["sequence"]) == ("ordinary software, plain PyTorch", "4,096 tokens")
    assert "stack" not in with_stack
    assert point_and_assumed("--stack", "pai-megatron")[1]["stack.preset"] == "megatron-core"
    assert not {"stack", "sequence", "training.precision"} & with_all.keys()


def test_the_software_of_a_device_that_compiles_graphs_is_that_of_a_plan(capsys):
    assert run(["scale", "--compute", "1e21", "--zone", "FRA", "--accelerator", "tpu-v5p", "--json"]) == 0

    assumed = {item["field"]: item["value"] for item in json.loads(capsys.readouterr().out)["assumptions"]}
    assert assumed["stack"] == "ordinary software, compiled"


def test_a_grid_intensity_of_ones_own_needs_no_zone(capsys):
    def operational_kg(*place):
        assert run(["scale", "--compute", "1e21", "--json", *place]) == 0
        (point,) = json.loads(capsys.readouterr().out)["points"]
        return point["operational_kg"]["value"]

    assert operational_kg("--intensity", "200") == pytest.approx(2 * operational_kg("--intensity", "100"), rel=1e-6)
