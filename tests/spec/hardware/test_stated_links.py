"""Links and NICs of one's own cluster in the run spec: parsed with their units, shared out, and written back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.hardware.stated_links import with_scaleup
from carbon_plugin.spec.loading import build_run_spec, load_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.writing import write_run_spec


def run(layout: dict[str, int] | None = None, **cluster: Any) -> RunSpec:
    return build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "a100-sxm-80gb", "node": "dgx-a100", "nodes": 4, **cluster},
            "layout": layout or {"tp": 8, "dp_shard": 4, "zero_stage": 3},
            "training": {"seq_len": 2048, "global_batch_size": 64, "steps": 10},
            "site": {"zone": "FRA"},
        }
    )


def links(spec: RunSpec) -> float:
    return spec.cluster.accelerator.scaleup.bandwidth_bytes_per_s.value


def nic(spec: RunSpec) -> float:
    return spec.cluster.node.network.bandwidth_bytes_per_s.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVLink3 (4 links)", 100e9),
        ("NVLink3, 4 of 12 links", 100e9),
        ("100 GB/s", 100e9),
        ("800 Gb/s", 100e9),
        ("NVLink (600 GB/s)", 300e9),
    ],
)
def test_links_of_a_device_replace_those_of_its_profile(text, expected) -> None:
    assert links(run(scaleup=text)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8x 200 Gb/s", 25e9),
        ("8x25 GB/s", 25e9),
        ("1x 100Gb/s", 12.5e9 / 8),
        ("3.2 Tb/s per node", 50e9),
        ("400Gb/s per GPU", 50e9),
        ("4x NDR400", 25e9),
    ],
)
def test_nics_of_a_node_are_shared_by_its_devices(text, expected) -> None:
    assert nic(run(network=text)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "shared"),
    [("8x 200 Gb/s", 1), ("4x NDR400", 2), ("1x 100Gb/s", 8), ("3.2 Tb/s per node", 1), ("2x 200 Gb/s per GPU", 1)],
)
def test_counted_nics_say_how_many_devices_share_one(text, shared) -> None:
    assert run(network=text).cluster.node.network.devices_per_nic == shared


@pytest.mark.parametrize(("node", "devices"), [("pcie-8", 4), ("pcie-8", 8), ("dgx-a100", 4), ("workstation", 1)])
def test_nics_of_a_generic_server_are_shared_by_the_devices_it_holds(node, devices) -> None:
    layout = {"tp": devices, "dp_shard": 4, "zero_stage": 3}
    spec = run(node=node, devices_per_node=devices, network="1x 25GbE", layout=layout)

    assert nic(spec) == pytest.approx(25e9 / 8 / (8 if node == "dgx-a100" else devices))


def test_a_rate_that_names_no_owner_is_refused_with_the_text_for_one_nic() -> None:
    with pytest.raises(SpecError, match=r"got '25GbE'; a node with one such NIC has 1x 25GbE$"):
        run(network="25GbE")


@given(
    rate=st.integers(1, 900),
    prefix=st.sampled_from(["M", "G", "T"]),
    count=st.integers(1, 16),
    space=st.sampled_from(["", " "]),
)
def test_units_and_counts_of_nics_mean_the_same_at_any_size(rate, prefix, count, space) -> None:
    bits = nic(run(network=f"{count}x{space}{rate} {prefix}b/s"))
    size = {"M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert bits == pytest.approx(count * rate * size / 8 / 8)
    assert nic(run(network=f"{count}x{space}{rate}{space}{prefix}B/s")) == pytest.approx(8 * bits)
    assert nic(run(network=f"{count * rate} {prefix}b/s per node")) == pytest.approx(bits)
    assert nic(run(network=f"{rate} {prefix}b/s per GPU")) == pytest.approx(8 * bits / count)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("scaleup", "quick"),
        ("scaleup", "400"),
        ("scaleup", "NVLink9 (4 links)"),
        ("scaleup", "NVLink3 (13 links)"),
        ("scaleup", "NVLink3 (0 links)"),
        ("network", "400 Gb/s"),
        ("network", "InfiniBand"),
        ("network", "8x 4 furlongs"),
        ("network", "400 Gb/s per GPU; fast"),
    ],
)
def test_words_that_state_no_rate_or_not_of_what_are_refused_by_field(field, text) -> None:
    with pytest.raises(SpecError, match=rf"cluster\.{field}: .*expected") as refused:
        run(**{field: text})
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_oversubscription_below_one_is_refused() -> None:
    with pytest.raises(SpecError, match=r"oversubscription is 0\.5, expected 1 or more"):
        run(oversubscription=0.5)


@pytest.mark.parametrize(
    ("slower", "term"),
    [
        ({"scaleup": "NVLink3 (4 links)"}, "tp"),
        ({"network": "1x 100 Gb/s"}, "dp_shard"),
        ({"oversubscription": 8}, "dp_shard"),
    ],
)
def test_slower_links_lengthen_the_traffic_that_they_carry(slower, term) -> None:
    usual, stated = predict_step(run()).breakdown_s, predict_step(run(**slower)).breakdown_s
    assert stated[term] > 1.2 * usual[term]


@pytest.mark.parametrize("rails", [0, -1, 3, 16])
def test_rails_that_do_not_divide_the_devices_of_a_node_are_refused(rails) -> None:
    with pytest.raises(SpecError, match=rf"rails is {rails}, expected a") as refused:
        run(rails=rails)
    assert "\n" not in str(refused.value)


def test_a_narrow_network_says_what_it_assumes_of_the_way_between_nodes() -> None:
    def said(**fields) -> dict[str, str]:
        return {one.field: one.value for one in predict_step(run(**fields)).assumptions if "network" in one.field}

    assert said() == said(rails=8) == {}
    assert said(oversubscription=2) == {"network.rails": "unknown"}
    # 64 ports are 42 down and 21 up at 2 : 1, and on eight rails a node takes one port of a leaf.
    assert said(oversubscription=2, rails=8) == {"network.leaf_nodes": "42"}
    assert said(oversubscription=2, rails=1) == {"network.leaf_nodes": "5"}


def test_data_parallel_traffic_of_nodes_under_one_leaf_does_not_meet_the_oversubscription() -> None:
    wide, narrow, railed = (
        predict_step(run(**fields)).breakdown_s["dp_shard"]
        for fields in ({}, {"oversubscription": 8}, {"oversubscription": 8, "rails": 8})
    )

    assert railed == wide < narrow


def test_a_run_with_stated_links_is_read_back_as_it_was_written(tmp_path) -> None:
    spec = run(scaleup="NVLink3 (4 links)", network="4x 200 Gb/s", oversubscription=2, rails=4)
    write_run_spec(spec, tmp_path / "run.yaml")
    again = load_run_spec(tmp_path / "run.yaml")
    assert (links(again), nic(again)) == (100e9, 12.5e9)
    assert again.cluster == spec.cluster


def test_another_accelerator_by_flag_makes_the_links_of_a_file_void(tmp_path) -> None:
    write_run_spec(run(scaleup="NVLink3 (4 links)", network="4x 200 Gb/s"), tmp_path / "run.yaml")
    other = load_run_spec(tmp_path / "run.yaml", overrides={"cluster": {"accelerator": "h100-sxm"}})
    assert (links(other), nic(other)) == (450e9, 50e9)


@pytest.mark.parametrize(
    ("device", "both", "one"),
    [("h100-sxm", "900 GB/s", 450), ("a100-sxm-80gb", "600GB/s", 300), ("b200-sxm", "1.8 TB/s", 900)],
)
def test_a_bare_rate_of_both_directions_is_refused_with_that_of_one(device: str, both: str, one: int) -> None:
    """A rate beside the word NVLink counts both directions, and so it is the same device that this word describes."""
    accelerator = load_accelerator(device)

    with pytest.raises(SpecError, match=rf"carry in both together: write {one} GB/s, or NVLink {both}"):
        with_scaleup(accelerator, both)
    for text in (f"{one} GB/s", f"NVLink {both}"):
        assert with_scaleup(accelerator, text).scaleup.bandwidth_bytes_per_s.value == one * 1e9


def test_links_of_pcie_may_be_twice_as_fast_as_those_of_the_profile() -> None:
    card = load_accelerator("l40s")
    own = card.scaleup.bandwidth_bytes_per_s.value

    assert with_scaleup(card, f"{2 * own / 1e9:g} GB/s").scaleup.bandwidth_bytes_per_s.value == pytest.approx(2 * own)
