"""RAPL through folders shaped like the kernel's powercap tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.meters.protocol import Unavailable
from carbon_plugin.meters.rapl import RaplMeter, find_domains, open_rapl_meter
from carbon_plugin.meters.share import HostShare, fixed

AddDomain = Callable[..., Path]
WRAP_UJ = 262_143_328_850


@pytest.fixture
def domain(tmp_path: Path) -> AddDomain:
    """Add one domain folder: `domain("intel-rapl:0", "package-0", 1000)` with microjoules."""

    def add(folder: str, name: str, energy_uj: int, wrap_uj: int = WRAP_UJ) -> Path:
        path = tmp_path / folder
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
        return path

    return add


def opened(root: Path, share: float = 1.0) -> RaplMeter:
    charged = HostShare(value=share, low=share, high=share, sentence="for the test")
    meter = open_rapl_meter("boot-1", root=root, share=fixed(charged), note=f"{share} of the host")
    assert isinstance(meter, RaplMeter)
    return meter


def test_packages_and_dram_are_read_and_nothing_that_overlaps_them(domain: AddDomain, tmp_path: Path) -> None:
    (tmp_path / "intel-rapl").mkdir()  # the control type, which has no counter
    for package in (0, 1):
        domain(f"intel-rapl:{package}", f"package-{package}", 0)
        domain(f"intel-rapl:{package}:0", "core", 0)
        domain(f"intel-rapl:{package}:1", "uncore", 0)
        domain(f"intel-rapl:{package}:2", "dram", 0)
    domain("intel-rapl:2", "psys", 0)
    meter = opened(tmp_path)
    assert {(device.key, device.scope) for device in meter.devices} == {
        ("boot-1/rapl-package-0", "package"),
        ("boot-1/rapl-package-1", "package"),
        ("boot-1/rapl-dram-0", "dram"),
        ("boot-1/rapl-dram-1", "dram"),
    }
    assert {device.rung for device in meter.devices} == {"host"}
    assert {device.energy_kind for device in meter.devices} == {"counter"}


def test_a_package_that_shows_as_mmio_and_as_msr_counts_once(domain: AddDomain, tmp_path: Path) -> None:
    domain("intel-rapl:0", "package-0", 0)
    domain("intel-rapl:0:0", "dram", 0)
    domain("intel-rapl-mmio:0", "package-0", 0)
    domains = {one.label: one.folder.name for one in find_domains(tmp_path)}
    assert domains == {"package-0": "intel-rapl-mmio:0", "dram-0": "intel-rapl:0:0"}


def test_dies_of_a_package_are_domains_of_their_own(domain: AddDomain, tmp_path: Path) -> None:
    domain("intel-rapl:0", "package-0-die-0", 0)
    domain("intel-rapl:1", "package-0-die-1", 0)
    domain("intel-rapl:1:0", "dram", 0)
    assert {one.label for one in find_domains(tmp_path)} == {"package-0-die-0", "package-0-die-1", "dram-0-die-1"}


def test_energy_is_what_was_counted_since_the_meter_opened(domain: AddDomain, tmp_path: Path) -> None:
    package = domain("intel-rapl:0", "package-0", 7_000_000)
    meter = opened(tmp_path)
    (package / "energy_uj").write_text("507000000\n")
    (reading,) = meter.read()
    assert (reading.energy_j, reading.kind, reading.fault) == (pytest.approx(500), "counter", None)
    assert (reading.low_j, reading.high_j) == (pytest.approx(475), pytest.approx(525))


@given(st.lists(st.floats(0, WRAP_UJ * 1e-6 - 1), min_size=1, max_size=8))
def test_a_counter_that_wraps_goes_on(tmp_path_factory: pytest.TempPathFactory, stretches_j: list[float]) -> None:
    root = tmp_path_factory.mktemp("powercap")
    package = root / "intel-rapl:0"
    package.mkdir()
    start_uj = raw_uj = WRAP_UJ - 1_000_000
    for name, text in (("name", "package-0"), ("energy_uj", str(raw_uj)), ("max_energy_range_uj", str(WRAP_UJ))):
        (package / name).write_text(text)
    meter = opened(root)
    for joules in stretches_j:
        raw_uj += int(joules * 1e6)
        (package / "energy_uj").write_text(str(raw_uj % WRAP_UJ))
        (reading,) = meter.read()
    assert reading.energy_j == pytest.approx((raw_uj - start_uj) * 1e-6, abs=1e-3)


def test_a_counter_is_polled_before_it_can_wrap_twice(domain: AddDomain, tmp_path: Path) -> None:
    domain("intel-rapl:0", "package-0", 0)
    domain("intel-rapl:0:0", "dram", 0, wrap_uj=65_712_999_613)
    assert opened(tmp_path).poll_interval_s == pytest.approx(65.7, rel=0.01)


def test_a_shared_host_is_charged_by_its_share(domain: AddDomain, tmp_path: Path) -> None:
    package = domain("intel-rapl:0", "package-0", 0)
    meter = opened(tmp_path, share=0.25)
    (package / "energy_uj").write_text("400000000")
    assert meter.read()[0].energy_j == pytest.approx(100)
    assert meter.devices[0].note == "0.25 of the host"


def test_a_folder_without_rapl_is_a_reason(tmp_path: Path) -> None:
    answer = open_rapl_meter("boot-1", root=tmp_path / "missing")
    assert isinstance(answer, Unavailable)
    assert answer.kind == "rapl_absent"


def test_counters_for_root_only_are_a_reason_with_the_command_that_helps(
    domain: AddDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = domain("intel-rapl:0", "package-0", 0)
    deny(package / "energy_uj", monkeypatch)
    answer = open_rapl_meter("boot-1", root=tmp_path)
    assert isinstance(answer, Unavailable)
    assert answer.kind == "rapl_permission"
    assert answer.advice is not None
    assert "chmod a+r" in answer.advice


def test_a_counter_that_becomes_unreadable_holds_its_energy_as_absent(
    domain: AddDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = domain("intel-rapl:0", "package-0", 0)
    meter = opened(tmp_path)
    (package / "energy_uj").write_text("9000000")
    meter.read()
    deny(package / "energy_uj", monkeypatch)
    (reading,) = meter.read()
    assert (reading.energy_j, reading.kind, reading.fault) == (pytest.approx(9), "absent", "permission")


def test_a_closed_meter_reads_nothing(domain: AddDomain, tmp_path: Path) -> None:
    domain("intel-rapl:0", "package-0", 0)
    meter = opened(tmp_path)
    meter.close()
    meter.close()
    assert meter.read() == []


def deny(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one file unreadable, for root too, whom no file mode stops."""
    real = Path.read_text

    def read_text(path: Path, *arguments: str, **options: str) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
