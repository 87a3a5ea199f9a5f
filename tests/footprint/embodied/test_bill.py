"""The bill of embodied carbon, and the model behind it beside published footprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.footprint.embodied.bill import DIFFERENCE, Bill, device_bill, host_bill, network_bill
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.hardware.profiles import (
    default_node_for,
    list_accelerators,
    list_nodes,
    load_accelerator,
    load_node,
)
from carbon_plugin.validate.hardware.embodied import markdown_table, validation_rows
from tools import host_model

ROOT = Path(__file__).resolve().parents[3]
DOC = ROOT / "docs" / "embodied.md"
BEGIN, END = "<!-- validation -->\n", "<!-- end -->"


def parts(bill: Bill) -> dict[str, float]:
    return {part.name: part.kg.value for part in bill.parts}


@pytest.mark.parametrize("accelerator", list_accelerators(), ids=lambda accelerator: accelerator.name)
def test_every_bill_adds_up_to_its_profile_and_every_line_has_range_and_source(accelerator: Accelerator) -> None:
    node = default_node_for(accelerator)

    for bill, published in (
        (device_bill(accelerator), accelerator.embodied_kg),
        (host_bill(node, accelerator.tdp_w.value), node.host.embodied_kg),
        (network_bill(node), node.network.embodied_kg_per_device),
    ):
        assert sum(part.kg.value for part in bill.parts) == pytest.approx(published.value)
        assert all(part.kg.low <= part.kg.value <= part.kg.high and part.source for part in bill.parts)
        assert (bill.total.value, bill.total.low, bill.total.high) == (published.value, published.low, published.high)


def test_dram_is_the_largest_part_of_a_dgx_h100() -> None:
    accelerator = load_accelerator("h100-sxm")
    found = parts(host_bill(default_node_for(accelerator), accelerator.tdp_w.value))

    assert found["DRAM"] == pytest.approx(1.65 * 2048)
    assert found["SSD"] == pytest.approx(0.0173 * 34_560)
    assert found["power supplies"] == pytest.approx(6 * 3300 * 0.022)  # four for 10.2 kW, and two spare ones
    assert found["chassis"] == pytest.approx(25 * 0.82 * 10.2)
    assert max(found, key=lambda name: found[name]) == "DRAM"


@pytest.mark.parametrize("node", list_nodes(), ids=lambda node: node.name)
def test_a_modelled_host_is_the_sum_of_its_parts(node: Node) -> None:
    if node.host.embodied_kg.source != "host-model":
        pytest.skip("another source")
    stated = node.host.embodied_kg

    assert (stated.low, stated.value, stated.high) == host_model.modelled_kg(node)


@pytest.mark.parametrize(
    ("one", "other"), [("mi250x-4", "mi250x-gcd-8"), ("aurora-6", "aurora-12"), ("trn1-16", "trn1-32")]
)
def test_one_server_has_one_footprint_however_its_devices_are_counted(one: str, other: str) -> None:
    assert load_node(one).host.embodied_kg == load_node(other).host.embodied_kg


def test_the_parts_of_an_h100_are_those_of_its_published_footprint() -> None:
    found = parts(device_bill(load_accelerator("h100-sxm")))

    assert found["memory"] == pytest.approx(546 / 8, rel=0.005)  # NVIDIA HGX H100 PCF
    assert abs(found[DIFFERENCE]) < 1


def test_a_device_without_known_dies_is_one_line() -> None:
    assert [part.name for part in device_bill(load_accelerator("tpu-v6e")).parts] == ["whole"]


def test_primary_data_are_met_within_25_percent_and_misses_are_shown() -> None:
    rows = {row.name: row for row in validation_rows()}

    for name in ("HGX B200, one of 8 GPUs", "A100 SXM 40 GB, module without baseboard"):
        assert abs(rows[name].error) < 0.25
        assert rows[name].inside
        assert not rows[name].calibrated
    assert abs(rows["AWS p5.48xlarge without its GPUs"].error) < 0.25
    assert rows["H100, ADEME"].error < -0.3
    assert not rows["H100, ADEME"].inside


def test_the_table_in_the_docs_is_what_the_code_says() -> None:
    text = DOC.read_text(encoding="utf-8")

    assert text.partition(BEGIN)[2].partition(END)[0] == markdown_table() + "\n"
