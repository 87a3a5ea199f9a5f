"""The scale-out network: its power by the tiers that a job's nodes need, and how far up traffic goes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.predict.rates.islands import island_size, joined_devices
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.spec.hardware.cluster import Cluster, Node
from carbon_plugin.spec.hardware.fabric import fabric_factor, leaf_nodes, narrowing, nic_share, tiers
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.stack import Stack


@pytest.mark.parametrize(
    ("endpoints", "count"), [(1, 1), (64, 1), (65, 2), (2048, 2), (2049, 3), (65_536, 3), (65_537, 4)]
)
def test_a_clos_of_64_ports_joins_64_then_2048_then_65536_endpoints(endpoints: int, count: int) -> None:
    assert tiers(endpoints) == count


@given(fewer=st.integers(1, 10_000), more=st.integers(0, 100_000))
def test_the_network_of_a_larger_job_never_draws_less_a_device(fewer: int, more: int) -> None:
    node = load_node("dgx-h100")

    assert fabric_factor(node, fewer) <= fabric_factor(node, fewer + more)


def test_the_network_of_a_node_lies_in_what_was_measured_on_fabrics_of_two_and_three_tiers() -> None:
    node = load_node("dgx-h100")
    kw = [
        fabric_factor(node, nodes) * node.network.power_w_per_device.value * node.accelerators / 1e3
        for nodes in (8, 64, 2048)
    ]

    assert 0.93 <= kw[1] < kw[2] <= 2.0
    assert kw[0] < kw[1]


def test_an_oversubscribed_fabric_has_fewer_ports_above_the_leaf() -> None:
    node = load_node("dgx-h100")
    narrow = msgspec.structs.replace(node, network=msgspec.structs.replace(node.network, oversubscription=4.0))

    assert fabric_factor(narrow, 8) == fabric_factor(node, 8)
    assert fabric_factor(narrow, 2048) < fabric_factor(node, 2048)


def cabled(rails: int | None, oversubscription: float) -> Node:
    node = load_node("dgx-h100")
    network = msgspec.structs.replace(node.network, rails=rails, oversubscription=oversubscription)
    return msgspec.structs.replace(node, network=network)


RAILS = st.sampled_from([None, 1, 2, 4, 8])


@given(rails=RAILS, oversubscription=st.floats(1, 32), nodes=st.integers(2, 10_000), more=st.integers(0, 1000))
def test_traffic_along_rails_is_narrowed_no_more_than_across_them_and_neither_beyond_the_oversubscription(
    rails: int | None, oversubscription: float, nodes: int, more: int
) -> None:
    along, across = narrowing(cabled(rails, oversubscription), nodes)
    later = narrowing(cabled(rails, oversubscription), nodes + more)

    assert 1 <= along <= across * (1 + 1e-12)
    assert across <= oversubscription * (1 + 1e-12)
    assert along <= later[0]
    assert across <= later[1]


@given(rails=RAILS, nodes=st.integers(2, 10_000))
def test_rails_change_nothing_where_the_network_does_not_narrow(rails: int | None, nodes: int) -> None:
    assert narrowing(cabled(rails, 1.0), nodes) == (1, 1)


@given(oversubscription=st.floats(1, 32), nodes=st.integers(2, 10_000))
def test_more_rails_join_more_nodes_at_a_leaf_and_send_more_of_an_exchange_to_the_spine(
    oversubscription: float, nodes: int
) -> None:
    reach = [leaf_nodes(cabled(rails, oversubscription), rails) for rails in (1, 2, 4, 8)]
    found = [narrowing(cabled(rails, oversubscription), nodes) for rails in (1, 2, 4, 8)]

    assert reach == sorted(reach)
    assert [along for along, _ in found] == sorted((along for along, _ in found), reverse=True)
    if nodes <= reach[0]:
        assert [across for _, across in found] == sorted(across for _, across in found)
        assert found[0] == (1, 1)


def test_eight_rails_join_32_nodes_at_a_leaf_of_64_ports_and_one_rail_joins_four() -> None:
    assert (leaf_nodes(cabled(8, 1.0), 8), leaf_nodes(cabled(1, 1.0), 1)) == (32, 4)


def test_nodes_of_one_superchip_reach_one_another_by_the_network_alone() -> None:
    """GH200 in single-superchip nodes has no NVLink to the next node; NVL32 is for the user to state."""
    device, node = load_accelerator("gh200"), load_node("gh200-1")

    assert island_size(Cluster(accelerator=device, node=node, nodes=8, devices_per_node=1)) == 1


@pytest.mark.parametrize(("nodes", "alike"), [(16, 64), (18, 72), (32, 64), (36, 72), (73, 72), (25, 72), (2, 8)])
def test_a_job_on_several_racks_has_as_many_devices_in_each_unless_they_cannot_be_shared_out(nodes, alike) -> None:
    device, node = load_accelerator("gb200-nvl72"), load_node("gb200-nvl72")

    assert node.accelerators == 4
    assert island_size(Cluster(accelerator=device, node=node, nodes=nodes, devices_per_node=4)) == alike


@pytest.mark.parametrize(
    ("name", "node", "joined"), [("h100-pcie", "h100-pcie-8", 2), ("l40s", "pcie-8", 1), ("h100-sxm", "dgx-h100", 8)]
)
def test_cards_in_a_node_reach_one_another_without_the_network(name, node, joined) -> None:
    cluster = Cluster(accelerator=load_accelerator(name), node=load_node(node), nodes=2, devices_per_node=8)

    assert (island_size(cluster), joined_devices(cluster)) == (8, joined)


@pytest.mark.parametrize(
    ("name", "node", "devices", "said"),
    [
        ("l40s", "pcie-8", 8, {"bus": "14 GB/s"}),
        ("h100-pcie", "h100-pcie-8", 8, {"bus": "28 GB/s", "scaleup_share": "0.77"}),
        ("l40s", "pcie-8", 1, {"scaleup_share": "0.77"}),
        ("a100-sxm-40gb", "dgx-a100-40gb", 8, {"scaleup_share": "0.77"}),
    ],
)
def test_a_prediction_says_what_it_takes_between_cards_that_no_link_joins(name, node, devices, said) -> None:
    cluster = Cluster(accelerator=load_accelerator(name), node=load_node(node), nodes=1, devices_per_node=devices)

    _, assumptions = resolve_rates(cluster, Stack(), "bf16")

    fields = (f"{name}.bus", f"{name}.scaleup_share")
    assert {one.field.split(".")[1]: one.value for one in assumptions if one.field in fields} == said


def test_what_was_measured_of_the_lanes_of_a_card_counts_as_it_is() -> None:
    card = load_accelerator("l40s")
    share = Sourced(0.7, "a measurement", "measured")
    known = msgspec.structs.replace(card, efficiency=msgspec.structs.replace(card.efficiency, scaleup_share=share))

    assert joined_devices(Cluster(accelerator=known, node=load_node("pcie-8"), nodes=1, devices_per_node=8)) == 8


@pytest.mark.parametrize("name", ["mi300a-4", "jetson-1"])
def test_a_node_of_modules_with_their_own_cpu_has_no_cpu_and_no_memory_beside_them(name: str) -> None:
    host = load_node(name).host

    assert (host.sockets, host.cpu_tdp_w.value, host.dram_bytes.value) == (0, 0, 0)


@pytest.mark.parametrize(
    ("chip", "host", "chip_w", "machine_w"),
    [
        ("tpu-v4", "tpu-host-4", 170, 378.5),  # Jouppi 2023: mean of production workloads; Patterson 2022: system
        ("tpu-v6e", "tpu-host-8", 153, 272),  # Schneider 2025: mean of the fleet, chip and machine
    ],
)
def test_a_tpu_and_its_share_of_the_machine_draw_what_was_published(
    chip: str, host: str, chip_w: float, machine_w: float
) -> None:
    sustained, node = load_accelerator(chip).efficiency.sustained_power_w, load_node(host)
    assert sustained is not None
    nic_w = nic_share(node, 1) * node.network.power_w_per_device.value  # no measurement of machines holds switches
    shared_w = node.host.base_power_w.value / node.accelerators + nic_w

    assert sustained.value == pytest.approx(chip_w, rel=0.07)
    assert sustained.value + shared_w == pytest.approx(machine_w, rel=0.04)


def test_the_nics_draw_a_smaller_part_of_the_network_where_it_has_more_tiers() -> None:
    node = load_node("dgx-h100")
    nics_w = [nic_share(node, nodes) * fabric_factor(node, nodes) for nodes in (1, 128, 4096)]

    assert nics_w == pytest.approx([nics_w[0]] * 3)
    assert nic_share(node, 1) == pytest.approx(25 / 56.6)
    assert nic_share(node, 4096) < nic_share(node, 128) < nic_share(node, 1)
