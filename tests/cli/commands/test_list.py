"""The lists of what can be named: complete, filtered by a word, and every name in them is one that a plan takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_plugin.cli import main as cli
from carbon_plugin.cli.commands.list import ListedKind
from carbon_plugin.footprint.factors.grid import zone_intensity
from carbon_plugin.spec.frameworks import names_of_frameworks, planned_as
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node, load_stack
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.stack import STACKS

KNOWN = {
    ListedKind.models: load_preset,
    ListedKind.accelerators: load_accelerator,
    ListedKind.nodes: load_node,
    ListedKind.zones: zone_intensity,
    ListedKind.stacks: load_stack,
}


def listed(capsys, *arguments: str) -> list[dict]:
    assert cli.run(["list", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", KNOWN)
def test_every_listed_name_is_one_that_a_plan_takes(kind, capsys):
    names = [one["name"] for one in listed(capsys, kind)]

    assert len(names) == len(set(names)) > 5
    for name in names:
        KNOWN[kind](name)


def test_every_framework_that_a_plan_may_name_is_listed_with_the_stack_as_which_it_is_planned(capsys):
    planned = {one["name"]: one["facts"]["planned as"] for one in listed(capsys, "stacks")}

    assert set(planned) == {*STACKS, *names_of_frameworks()}
    assert {name for name, stack in planned.items() if not stack} == set(STACKS)
    for name, stack in planned.items():
        said = [item.value for item in planned_as(name, load_stack(name))]
        assert [text.split(" + ")[0] for text in said] == ([stack] if stack else [])


def test_a_stack_of_ones_own_is_listed_in_place_of_a_framework_of_its_name(tmp_path: Path, capsys):
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "axolotl.yaml").write_text("fused: true\n")

    (own,) = listed(capsys, "stacks", "axolotl", "--profiles", str(tmp_path))

    assert own["facts"] == {"planned as": "", "sets": "fused true"}


def test_every_other_name_of_an_accelerator_means_that_accelerator(capsys):
    for one in listed(capsys, "accelerators"):
        assert {load_accelerator(alias).name for alias in one["aliases"]} <= {one["name"]}


def test_every_framework_is_a_module_that_is_there(capsys):
    names = {one["name"] for one in listed(capsys, "frameworks")}
    folder = Path(__file__).parents[3] / "integrations"

    assert names == {path.stem for path in folder.glob("[!_]*.py")}
    assert all(one["facts"]["how"] for one in listed(capsys, "frameworks"))


@pytest.mark.parametrize(
    ("kind", "word", "names"),
    [
        (
            "zones",
            "texas",
            [
                "US-TX",
                "azure:southcentralus",
                "azure:usgovtexas",
                *(f"coreweave:us-central-0{number}" for number in (3, 4, 5)),
                *(f"lambda:us-south-{number}" for number in (1, 2, 3)),
            ],
        ),
        ("zones", "QUEBEC", ["CA-QC", "azure:canadaeast"]),
        ("zones", "québec", ["CA-QC", "azure:canadaeast"]),
        ("zones", "montreal", ["gcp:northamerica-northeast1", "aws:ca-central-1", "oci:ca-montreal-1"]),
        (
            "zones",
            "sao paulo",
            ["BR-CS", "gcp:southamerica-east1", "aws:sa-east-1", "azure:brazilsouth", "oci:sa-saopaulo-1"],
        ),
        ("accelerators", "h200", ["gh200", "gh200-quad", "h200-sxm"]),
        ("models", "openai/gpt-oss", ["gpt-oss-120b", "gpt-oss-20b"]),
        ("nodes", "nvl72", ["gb200-nvl72", "gb300-nvl72"]),
        ("stacks", "titan", ["torchtitan", "fms-fsdp", "lingua", "olmo-core"]),
        ("stacks", "Axolotl", ["axolotl"]),
        ("frameworks", "Hugging Face", ["transformers"]),
    ],
)
def test_a_filter_keeps_what_holds_its_word_in_any_name_or_fact(kind, word, names, capsys):
    assert [one["name"] for one in listed(capsys, kind, word)] == names


def test_the_table_has_a_row_for_each(capsys):
    assert cli.run(["list", "zones", "montr"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()

    assert head.split() == ["zone", "g/kWh", "year", "counts", "also"]
    assert [row.split()[0] for row in rows] == ["gcp:northamerica-northeast1", "aws:ca-central-1", "oci:ca-montreal-1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["accelerators", "h10x"], "unknown accelerator 'h10x'; nearest: "),
        (["zones", "Texsa"], "zone 'Texsa' is unknown; nearest: Texas (US-TX)"),
        (["models", "llama9"], "unknown model 'llama9'; nearest: "),
    ],
)
def test_a_filter_that_nothing_holds_names_what_is_near(arguments, said, capsys):
    assert cli.run(["list", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {said}")
    assert captured.err.count("\n") == 1


def test_a_kind_that_cannot_be_listed_names_those_that_can(capsys):
    assert cli.run(["list", "zonez"]) == 2
    said = capsys.readouterr().err
    assert [kind for kind in ListedKind if kind not in said] == []


def test_own_profiles_are_listed(tmp_path: Path, capsys):
    shipped = Path(__file__).parents[3] / "hardware_profiles" / "accelerators" / "h100-sxm.yaml"
    own = shipped.read_text().replace("name: h100-sxm", "name: our-h100", 1)
    (tmp_path / "our-h100.yaml").write_text("\n".join(line for line in own.splitlines() if "aliases:" not in line))

    assert [one["name"] for one in listed(capsys, "accelerators", "our-h100", "--profiles", str(tmp_path))] == [
        "our-h100"
    ]


def test_no_framework_is_loaded_to_list_the_frameworks():
    code = "import sys; from carbon_plugin.cli.main import run; run(['list', 'frameworks']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "'torch'" not in done.stdout.splitlines()[-1]
