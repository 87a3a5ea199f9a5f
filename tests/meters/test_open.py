"""All meters of a host together: each part of the energy in exactly one of them, and every choice a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.open import JobPart, KnownHardware, open_meters
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.numbers.figure import Figure, Sourced

MakeNode = Callable[..., Node]

# What this machine's own GPUs are must not matter where a test is about the host.
NO_GPUS = {"CUDA_VISIBLE_DEVICES": ""}

NODE = """
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.hardware.cluster import Host, Network, Node
def known(value): return Sourced(value, "test", "assumed")
node = Node(
    name="test-node", full_name="test", accelerator="h100-sxm", accelerators=4, sources={},
    host=Host(cpu="test", sockets=2, cpu_tdp_w=known(350.0), dram_bytes=known(1e12), ssd_bytes=known(1e12), nics=4,
              base_power_w=known(1000.0), overhead_fraction=known(0.10), embodied_kg=known(1000.0)),
    network=Network(technology="test", bandwidth_bytes_per_s=known(1e9), power_w_per_device=known(60.0),
                    embodied_kg_per_device=known(10.0)),
)
"""


def powercap(root: Path, *, dram: bool = True) -> Path:
    domains = {"intel-rapl:0": "package-0"} | ({"intel-rapl:0:0": "dram"} if dram else {})
    for folder, name in domains.items():
        (root / folder).mkdir(parents=True)
        for file, text in (("name", name), ("energy_uj", "0"), ("max_energy_range_uj", "262143328850")):
            (root / folder / file).write_text(text)
    return root


def opened(tmp_path: Path, **options: Any) -> MeterSet:
    defaults = {"boot_id": "boot-1", "environ": NO_GPUS, "powercap": tmp_path / "no-rapl"}
    job = JobPart(include_host=options.pop("include_host", True))
    names = ("node_profile", "accelerator", "gpu_power_w")
    known = KnownHardware(**{name: options.pop(name) for name in names if name in options})
    return open_meters(job, known, **{**defaults, **options})


def host_devices(meters: MeterSet) -> dict[str, tuple[str, str]]:
    return {d.key: (d.scope, d.energy_kind) for d in meters.devices if d.rung != "gpu"}


def test_a_laptop_without_rapl_has_a_modelled_cpu_and_dram(tmp_path: Path) -> None:
    meters = opened(tmp_path)
    assert host_devices(meters) == {"boot-1/cpu": ("package", "modelled"), "boot-1/dram": ("dram", "modelled")}
    readings = meters.read()
    assert [reading.key for reading in readings] == [device.key for device in meters.devices]
    assert {reading.kind for reading in readings} == {"modelled"}
    kinds = {note.kind for note in meters.notes}
    assert {"rapl_absent", "modelled"} <= kinds


def test_what_rapl_measures_is_not_modelled_again(tmp_path: Path) -> None:
    meters = opened(tmp_path, powercap=powercap(tmp_path))
    assert host_devices(meters) == {
        "boot-1/rapl-package-0": ("package", "counter"),
        "boot-1/rapl-dram-0": ("dram", "counter"),
    }
    assert meters.poll_interval_s == 10.0


def test_dram_without_a_counter_is_modelled_beside_a_measured_package(tmp_path: Path) -> None:
    meters = opened(tmp_path, powercap=powercap(tmp_path, dram=False))
    assert host_devices(meters) == {
        "boot-1/rapl-package-0": ("package", "counter"),
        "boot-1/dram": ("dram", "modelled"),
    }


def test_a_node_with_a_profile_is_modelled_by_it(tmp_path: Path, make_node: MakeNode) -> None:
    meters = opened(tmp_path, node_profile=make_node())
    assert host_devices(meters) == {"boot-1/host": ("host", "modelled"), "boot-1/network": ("network", "modelled")}
    assert {device.profile for device in meters.devices} == {"test-node"}


@pytest.mark.parametrize(("with_node", "tdp_w"), [(True, 700), (False, 90)], ids=["node profile", "device alone"])
def test_cpus_shared_by_ranks_draw_what_the_whole_node_states(
    tmp_path: Path, make_node: MakeNode, with_node: bool, tdp_w: int
) -> None:
    gpu = load_accelerator("h100-sxm")
    tdp, idle = Sourced(90.0, "test", "assumed"), Sourced(20.0, "test", "assumed")
    share_of_a_rank = structs.replace(gpu, kind="cpu", tdp_w=tdp, idle_power_w=idle, idle_context_power_w=None)
    meters = opened(tmp_path, accelerator=share_of_a_rank, node_profile=make_node() if with_node else None)
    (cpu,) = (device for device in meters.devices if device.scope == "package")
    assert cpu.note is not None
    assert cpu.note.startswith(f"TDP {tdp_w} W")


def test_beside_rapl_the_profile_gives_what_remains(tmp_path: Path, make_node: MakeNode) -> None:
    meters = opened(tmp_path, node_profile=make_node(), powercap=powercap(tmp_path))
    (host,) = (device for device in meters.devices if device.scope == "host")
    assert host.note == (
        "1250 W (450-1850) + 0.1 of GPU power, from the profile test-node, without the measured CPU and DRAM"
    )


def test_a_network_without_power_is_no_device(tmp_path: Path, make_node: MakeNode) -> None:
    assert "boot-1/network" not in host_devices(opened(tmp_path, node_profile=make_node(network_power_w=0.0)))


def test_a_rank_beside_the_node_leader_leaves_the_host_to_it(tmp_path: Path, make_node: MakeNode) -> None:
    assert host_devices(opened(tmp_path, node_profile=make_node(), include_host=False)) == {}


def test_gpus_without_a_meter_still_load_the_host_with_their_modelled_power(
    tmp_path: Path, make_node: MakeNode
) -> None:
    seconds = iter([0.0, 100.0])
    meters = opened(
        tmp_path,
        node_profile=make_node(),
        gpu_power_w=Figure(500.0, 100.0, 700.0, "W", "assumed", "test"),
        environ={"CUDA_VISIBLE_DEVICES": ""},
        clock=lambda: next(seconds, 100.0),
    )
    if not meters.gpus.answers:  # a machine with NVIDIA GPUs meters them instead
        host = meters.read()[0]
        assert host.power_w == pytest.approx(2000 + 0.10 * 8 * 500)


def test_closed_meters_read_nothing_and_may_be_closed_again(tmp_path: Path) -> None:
    meters = opened(tmp_path)
    meters.close()
    meters.close()
    assert meters.read() == []


def test_the_host_pays_overhead_on_what_its_gpus_are_measured_to_draw(metering: Callable[..., Any]) -> None:
    script = """
meters = open_meters(known=KnownHardware(node_profile=node), boot_id="boot-1")
rounds = watch(meters, 1.0)
show([meters.devices, rounds[0], rounds[-1], meters.notes, meters.host_share])
"""
    devices, first, last, notes, host_share = metering("gpus=4;power=500;speed=10", NODE + script)
    assert [device["rung"] for device in devices] == ["gpu"] * 4 + ["host", "network"]
    joules = [after["energy_j"] - before["energy_j"] for before, after in zip(first, last, strict=True)]
    seconds = last[4]["monotonic_s"] - first[4]["monotonic_s"]
    assert joules[4] == pytest.approx(1000 * seconds + 0.10 * sum(joules[:4]), rel=0.01)
    assert joules[5] == pytest.approx(4 * 60 * seconds, rel=0.01)
    assert host_share == 1.0
    assert any(kind == "assumption" and "all 4 GPUs" in message for kind, message in notes)


@pytest.mark.parametrize(
    ("spec", "variables", "share", "sentence"),
    [
        ("gpus=4", {"SLURM_JOB_GPUS": "0"}, 0.25, "the host is charged by its GPUs, 1 of 4"),
        ("gpus=1", {}, 0.25, "the host is charged by its GPUs, 1 of 4"),
        ("gpus=4", {"CUDA_VISIBLE_DEVICES": "0,1"}, 1.0, "the whole host is charged to this job"),
        ("gpus=4", {}, 1.0, None),
    ],
)
def test_the_share_of_a_host_follows_its_gpus_where_others_may_hold_the_rest(
    metering: Callable[..., Any], spec: str, variables: dict[str, str], share: float, sentence: str | None
) -> None:
    script = "meters = open_meters(known=KnownHardware(node_profile=node)); show([meters.host_share, meters.notes])"
    found, notes = metering(spec, NODE + script, **variables)
    assert found == share
    sentences = [message for kind, message in notes if kind == "assumption" and "host" in message]
    assert [message.startswith(sentence or "") for message in sentences] == ([True] if sentence else [])


@pytest.mark.parametrize(
    ("cpus", "share", "sentence"),
    [
        ("half", 0.5, "the host is charged by its CPUs"),
        ("all", 1.0, "the whole host is charged: all its CPUs"),
        ("many", 0.25, "the host is charged by its GPUs, 1 of 4"),
    ],
)
def test_the_cpus_that_slurm_gave_decide_before_the_gpus(
    metering: Callable[..., Any], cpus: str, share: float, sentence: str
) -> None:
    script = """
from carbon_plugin.meters.host.machine import read_host_info
logical = read_host_info().logical_cores
cpus = {"half": logical // 2, "all": logical}.get(os.environ["CPUS"], "many")
meters = open_meters(known=KnownHardware(node_profile=node), environ={**os.environ, "SLURM_CPUS_ON_NODE": str(cpus)})
show([meters.host_share, meters.notes])
"""
    found, notes = metering("gpus=4", NODE + script, SLURM_JOB_GPUS="0", CPUS=cpus)
    assert found == pytest.approx(share, abs=0.17)  # half of an odd number of CPUs
    assert any(kind == "assumption" and message.startswith(sentence) for kind, message in notes)


METERED_NODE = """
from carbon_plugin.meters.node import meter as node_meter
from carbon_plugin.meters.node.address import parse_address
folder, start_s, pollers = os.environ["COUNTERS"], clock(), []
class AskedByTheTest(node_meter.NodePoller):
    def _run(self):  # a thread that asks once a second would ask whenever the machine lets it
        pollers.append(self)
        self.ask_once()
node_meter.NodePoller = AskedByTheTest
def write():
    for name, value, unit in (("power", 3000, "W"), ("energy", 3000 * (clock() - start_s), "J")):
        with open(f"{folder}/{name}.new", "w") as file:
            file.write(f"{value:.0f} {unit} 0 us")
        os.replace(f"{folder}/{name}.new", f"{folder}/{name}")
write()
address = parse_address(f"pm_counters://{folder}" + os.environ.get("OPTIONS", ""))
"""


def test_a_measured_node_replaces_the_modelled_host_and_contains_no_gpu_twice(
    metering: Callable[..., Any], tmp_path: Path
) -> None:
    script = """
meters = open_meters(known=KnownHardware(node_profile=node), boot_id="boot-1", node_address=address)
rounds = []
for pause_s in (0, 2.2):
    wait(pause_s)
    write()
    pollers[0].ask_once()
    rounds.append(meters.read())
show([meters.devices, *rounds])
"""
    spec = "gpus=4;power=500;counter_step=0.001"
    devices, first, last = metering(
        spec, NODE + METERED_NODE + script, CUDA_VISIBLE_DEVICES="0", COUNTERS=str(tmp_path)
    )
    # Three of the four GPUs are not the job's: the node meter contains them as well, and nobody here is charged.
    assert [(d["key"].partition("/")[2], d["rung"], d["energy_kind"]) for d in devices] == [
        ("", "gpu", "counter"),
        ("host", "host", "counter"),
        ("network", "network", "modelled"),
    ]
    assert devices[1]["scope"] == "node less GPUs"
    joules = last[1]["energy_j"] - first[1]["energy_j"]
    assert joules == pytest.approx((3000 - 4 * 500) * 2.2, rel=0.01)


def test_a_node_meter_with_hidden_gpus_of_others_is_not_used(metering: Callable[..., Any], tmp_path: Path) -> None:
    script = """
meters = open_meters(known=KnownHardware(node_profile=node), boot_id="boot-1", node_address=address)
show([[d.key for d in meters.devices], meters.notes])
"""
    keys, notes = metering("gpus=2", NODE + METERED_NODE + script, COUNTERS=str(tmp_path))
    # With a part of the host, its devices are named after the part: other containers may hold the rest.
    assert [(key.split("/")[0], key.split("/")[2]) for key in keys[2:]] == [("boot-1", "host"), ("boot-1", "network")]
    assert ["node_hidden_gpus", "the node meter cannot be used: it contains 4 GPUs, 2 of them visible"] in notes


def test_without_a_readable_gpu_the_host_is_all_of_the_node(metering: Callable[..., Any], tmp_path: Path) -> None:
    script = """
meters = open_meters(known=KnownHardware(node_profile=node), boot_id="boot-1", node_address=address)
show([d for d in meters.devices if d.rung == "host"])
"""
    spec = "fault=init:driver_not_loaded"
    (host,) = metering(spec, NODE + METERED_NODE + script, COUNTERS=str(tmp_path))
    assert host["scope"] == "node"
    assert host["note"] == f"all that pm_counters {tmp_path} reads; no GPU can be read apart"


def test_a_facility_meter_stands_beside_the_modelled_host(metering: Callable[..., Any], tmp_path: Path) -> None:
    script = """
meters = open_meters(known=KnownHardware(node_profile=node), boot_id="boot-1", node_address=address)
show([[d.rung, d.energy_kind] for d in meters.devices])
"""
    options = "?covers=facility&share=0.5"
    rungs = metering("gpus=4", NODE + METERED_NODE + script, COUNTERS=str(tmp_path), OPTIONS=options)
    assert rungs[4:] == [["facility", "counter"], ["host", "modelled"], ["network", "modelled"]]


def test_a_module_reading_covers_the_cpu_beside_it(metering: Callable[..., Any]) -> None:
    spec = "name=NVIDIA GH200 480GB;module_power=150;default_scope=module;fault=0:no_field"
    script = "from pathlib import Path; show(open_meters(powercap=Path('/nowhere')).devices)"
    devices = metering(spec, script)
    assert [device["scope"] for device in devices] == ["module"]


def test_after_a_fork_no_meter_reads(metering: Callable[..., Any]) -> None:
    script = """
meters = open_meters()
pid = os.fork()
if pid == 0:
    os._exit(len(meters.read()))
show(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert metering("gpus=2", script) == 0
