"""What the probe reads about the machine, from trees shaped like the kernel's."""

from __future__ import annotations

from carbon_plugin.probe.machine import cpu_cores, cpu_name, cpu_power_limit_w, cpu_sockets


def powercap(root, domain: str, name: str, limit_uw: int | None) -> None:
    folder = root / domain
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    if limit_uw is not None:
        (folder / "constraint_0_power_limit_uw").write_text(f"{limit_uw}\n")


def test_power_limit_is_the_sum_of_the_packages_and_not_of_their_parts(tmp_path):
    powercap(tmp_path, "intel-rapl:0", "package-0", 125_000_000)
    powercap(tmp_path, "intel-rapl:1", "package-1", 125_000_000)
    powercap(tmp_path, "intel-rapl:0:0", "core", 90_000_000)
    powercap(tmp_path, "intel-rapl:2", "psys", 400_000_000)

    assert cpu_power_limit_w(tmp_path) == 250.0


def test_no_power_limit_is_none_and_never_zero(tmp_path):
    assert cpu_power_limit_w(tmp_path) is None
    powercap(tmp_path, "intel-rapl:0", "package-0", None)
    assert cpu_power_limit_w(tmp_path) is None
    powercap(tmp_path, "intel-rapl:1", "package-1", 0)
    assert cpu_power_limit_w(tmp_path) is None


def test_cpu_name_is_the_brand_string(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core Processor\n")

    assert cpu_name(cpuinfo) == "AMD EPYC 9654 96-Core Processor"


def test_cpu_name_without_a_brand_is_the_architecture(tmp_path):
    assert cpu_name(tmp_path / "missing").endswith(" CPU")


def test_sockets_are_counted_once(tmp_path):
    for cpu, package in ((0, 0), (1, 0), (2, 1), (3, 1)):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")

    assert cpu_sockets(tmp_path) == 2
    assert cpu_sockets(tmp_path / "cpu0") == 1


def test_this_machine_has_a_core():
    assert cpu_cores() >= 1
