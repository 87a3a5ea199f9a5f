"""The bill of embodied carbon, and the model behind it beside published footprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.footprint.embodied.bill import DIFFERENCE, Bill, device_bill, host_bill, network_bill
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.hardware.profiles import default_node_for, list_accelerators, load_accelerator
from carbon_plugin.validate.embodied import markdown_table, validation_rows

DOC = Path(__file__).resolve().parents[3] / "docs" / "embodied.md"
BEGIN, END = "<!-- validation: begin -->\n", "<!-- validation: end -->"


def parts(bill: Bill) -> dict[str, float]:
    return {part.name: part.kg for part in bill.parts}


@pytest.mark.parametrize("accelerator", list_accelerators(), ids=lambda accelerator: accelerator.name)
def test_every_bill_adds_up_to_its_profile_and_every_line_has_range_and_source(accelerator: Accelerator) -> None:
    node = default_node_for(accelerator)

    for bill, published in (
        (device_bill(accelerator), accelerator.embodied_kg),
        (host_bill(node, accelerator.tdp_w.value), node.host.embodied_kg),
        (network_bill(node), node.network.embodied_kg_per_device),
    ):
        assert sum(part.kg for part in bill.parts) == pytest.approx(published.value)
        assert all(part.low_kg <= part.kg <= part.high_kg and part.source for part in bill.parts)
        assert (bill.total.value, bill.total.low, bill.total.high) == (published.value, published.low, published.high)


def test_dram_is_the_largest_part_of_a_dgx_h100() -> None:
    accelerator = load_accelerator("h100-sxm")
    bill = host_bill(default_node_for(accelerator), accelerator.tdp_w.value)

    # Recommended bill of a DGX H100: DRAM 1,434, SSD 691, supplies 436, chassis 300, NICs 150, boards 132, CPUs 81 kg.
    found = parts(bill)
    assert found["DRAM"] == pytest.approx(1434, abs=1)
    assert found["SSD"] == pytest.approx(691, abs=1)
    assert found["power supplies"] == pytest.approx(436, abs=1)
    assert found["CPU dies"] + found["CPU packages"] == pytest.approx(81, abs=1)
    assert max(found, key=lambda name: found[name]) == "DRAM"


def test_the_parts_of_an_h100_are_those_of_its_published_footprint() -> None:
    found = parts(device_bill(load_accelerator("h100-sxm")))

    assert found["memory"] == pytest.approx(546 / 8, rel=0.005)  # NVIDIA HGX H100 PCF
    assert abs(found[DIFFERENCE]) < 1


def test_a_device_without_known_dies_is_one_line() -> None:
    assert [part.name for part in device_bill(load_accelerator("tpu-v6e")).parts] == ["whole"]


def test_primary_data_are_met_within_20_percent_and_misses_are_shown() -> None:
    rows = {row.name: row for row in validation_rows()}

    for name in ("HGX B200, one of 8 GPUs", "A100 SXM 40 GB"):
        assert abs(rows[name].error) < 0.20
        assert rows[name].inside
        assert not rows[name].calibrated
    assert rows["H100, ADEME"].error < -0.3
    assert not rows["H100, ADEME"].inside


def test_the_table_in_the_docs_is_what_the_code_says() -> None:
    text = DOC.read_text(encoding="utf-8")

    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == markdown_table() + "\n"
