"""`carbon-plugin profiles`: the list, one profile in full, JSON, and directories of the user."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from carbon_plugin.cli.main import run
from carbon_plugin.spec.hardware.profiles import (
    list_accelerators,
    list_nodes,
    load_accelerator,
    load_node,
    sourced_values,
)

SHIPPED = Path(str(files("carbon_plugin.hardware_profiles")))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Make a directory with one flat profile, `ours`, a copy of the H100."""
    text = (SHIPPED / "accelerators" / "h100-sxm.yaml").read_text()
    text = text.replace("name: h100-sxm", "name: ours").replace("aliases: [h100,", "aliases: [mine,")
    (tmp_path / "ours.yaml").write_text(text)
    return tmp_path


def printed(capsys, *arguments: str) -> str:
    assert run(["profiles", *arguments]) == 0
    return capsys.readouterr().out


def test_every_profile_is_listed_with_its_numbers(capsys):
    lines = printed(capsys).splitlines()

    (h100,) = (line for line in lines if line.startswith("h100-sxm "))
    for cell in ("989.4 bf16", "80", "3,350", "700", "164 (125 to 275)", "fitted"):
        assert cell in h100
    (v100,) = (line for line in lines if line.startswith("v100-sxm2-32gb "))
    assert "125 fp16" in v100
    (l40,) = (line for line in lines if line.startswith("l40 "))
    assert "by law" in l40
    names = {line.split("  ")[0] for line in lines}
    assert {device.name for device in list_accelerators()} | {node.name for node in list_nodes()} <= names


def test_the_list_as_json_is_every_profile_in_full(capsys):
    document = json.loads(printed(capsys, "--json"))

    assert {one["name"] for one in document["accelerators"]} == {one.name for one in list_accelerators()}
    (dgx,) = (one for one in document["nodes"] if one["name"] == "dgx-h100")
    assert dgx["host"]["base_power_w"]["low"] == 1200


def test_one_profile_is_shown_with_every_value_its_confidence_and_its_source(capsys):
    text = printed(capsys, "show", "h100")
    accelerator = load_accelerator("h100-sxm")

    for field, value in sourced_values(accelerator):
        (line,) = (line for line in text.splitlines() if line.startswith(f"{field} "))
        assert value.confidence in line
        assert value.source in line
    (legend,) = (line for line in text.splitlines() if line.startswith("confidence: "))
    assert {part.split(": ")[-2] for part in legend.split("; ")} == {
        value.confidence for _, value in sourced_values(accelerator)
    }
    for citation in accelerator.sources.values():
        assert citation in text
    for note in accelerator.notes:
        assert note in text


def test_an_accelerator_and_a_node_of_one_name_are_both_shown(capsys):
    text = printed(capsys, "show", "gb200-nvl72")
    document = json.loads(printed(capsys, "show", "gb200-nvl72", "--json"))

    assert "one GPU" in text
    assert "compute tray" in text
    assert set(document) == {"accelerator", "node"}
    assert document["node"]["accelerators"] == load_node("gb200-nvl72").accelerators


@pytest.mark.parametrize(
    "arguments", [("show", "mine", "--profiles", "{own}"), ("--profiles", "{own}", "show", "mine")]
)
def test_own_profiles_are_shown_wherever_the_directory_is_given(arguments, own: Path, capsys):
    assert "ours: NVIDIA H100" in printed(capsys, *(argument.format(own=own) for argument in arguments))


def test_own_profiles_are_listed(own: Path, capsys, monkeypatch):
    assert "\nours " in printed(capsys, "--profiles", str(own))
    monkeypatch.setenv("CARBON_PLUGIN_PROFILES", str(own))
    assert "\nours " in printed(capsys)


def test_an_unknown_profile_is_refused_with_the_nearest(capsys):
    assert run(["profiles", "show", "dgx-h10"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown profile 'dgx-h10'; nearest: dgx-h100")


def test_a_bad_own_profile_is_refused_with_file_and_line(own: Path, capsys):
    path = own / "ours.yaml"
    path.write_text(path.read_text().replace("vendor: nvidia", "vendor: 5"))

    assert run(["profiles", "show", "ours", "--profiles", str(own)]) == 2
    assert capsys.readouterr().err.endswith('ours.yaml:3: vendor: expected text, got 5; write it in quotes: "5"\n')


def test_the_bill_of_embodied_carbon_has_every_part_with_its_source(capsys):
    text = printed(capsys, "show", "h100-sxm", "--embodied")

    for word in ("logic dies", "memory", "DRAM", "SSD", "power supplies", "switches", "transceivers", "ISO/IEC 21031"):
        assert word in text
    document = json.loads(printed(capsys, "show", "dgx-h100", "--embodied", "--json"))
    device, host, _ = document["bills"]
    assert device["name"] == "h100-sxm"
    assert sum(part["kg"]["value"] for part in host["parts"]) == pytest.approx(5730)
    assert document["per_device_hour_g"]["value"] == pytest.approx((164 + 5730 / 8 + 25) * 1e3 / (5 * 8766), rel=0.01)


def test_a_node_for_any_accelerator_has_no_bill_of_its_own(capsys):
    assert run(["profiles", "show", "sxm-8", "--embodied"]) == 2
    assert "ask for the bill of an accelerator" in capsys.readouterr().err


def test_every_value_of_a_profile_has_its_unit_and_the_page_says_what_has_no_range(capsys):
    lines = [" ".join(line.split()) for line in printed(capsys, "show", "dgx-h100").splitlines()]
    lines += [" ".join(line.split()) for line in printed(capsys, "show", "h100-sxm").splitlines()]

    for start in (
        "peak_flops.bf16 989.4 TFLOP/s read",
        "memory_bytes 80 GiB read",
        "host.ssd_bytes 34.56 TB",
        "scaleup.bandwidth_bytes_per_s 450 GB/s",
        "idle_power_w 70 (68 to 74) W",
        "embodied_kg 164 (125 to 275) kgCO2e",
        "A value without a range is of a data sheet",
    ):
        assert any(line.startswith(start) for line in lines), start
