"""A further vendor of GPUs: one module, and its name in the list."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from carbon_plugin.cli.commands import doctor
from carbon_plugin.meters.gpu import meter, vendors
from carbon_plugin.meters.gpu.open import open_gpu_meters
from carbon_plugin.meters.open import JobPart, open_meters

VENDOR_MODULE = '''
"""A vendor with one GPU of 250 W and a counter."""

from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.gpu.driver import Gpu, GpuError, GpuVendor, Inventory

now_s = 0.0


class AcmeDriver:
    def reopen(self):
        pass

    def close(self):
        pass

    def inventory(self):
        gpu = Gpu(index=0, uuid="GPU-acme0", name="Acme One", minor=None, compute_capability=None, power_limit_w=300.0,
                  memory_bytes=1 << 34, vendor="acme")
        return Inventory(driver_version="1.0", gpus=(gpu,))

    def energy_j(self, uuid, scope):
        if scope is not None:
            raise GpuError("one counter", "not_supported")
        return 250.0 * now_s

    def power_w(self, uuid, scope):
        return 250.0

    def context(self, uuid):
        return GpuContext(power_limit_w=300.0, default_power_limit_w=300.0, sm_clock_mhz=1000, held_back_by=())


VENDOR = GpuVendor(
    code="acme", maker="Acme", library="ACME-SMI", runtime="ACME", meter="acme", open_driver=AcmeDriver,
    visible_devices=(("ACME_VISIBLE_DEVICES",),), pci_vendor="0xacme", pci_classes=("0x0380",),
    accuracy_source="the maker", counter_age_s=0.0,
)
'''


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_gpus.py").write_text(VENDOR_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(vendors, "VENDORS", [*vendors.VENDORS, "acme_gpus"])
    monkeypatch.setattr(meter, "READ_WAIT_S", 60.0)  # a busy machine keeps a driver that is well, too
    yield
    sys.modules.pop("acme_gpus", None)


def test_a_vendor_that_was_added_to_the_list_is_metered_and_named(acme: None) -> None:
    acme_gpus = vars(import_module("acme_gpus"))
    environ = {"ACME_VISIBLE_DEVICES": "0"}
    meters = open_meters(JobPart(include_host=False), environ=environ, clock=lambda: acme_gpus["now_s"])
    first = next(reading for reading in meters.read() if reading.key == "GPU-acme0")
    acme_gpus["now_s"] += 0.5
    last = next(reading for reading in meters.read() if reading.key == "GPU-acme0")
    meters.close()
    assert first.energy_j is not None
    assert last.energy_j is not None
    assert last.energy_j - first.energy_j == pytest.approx(250 * 0.5)
    assert (last.kind, last.fault) == ("counter", None)
    device = next(device for device in meters.devices if device.key == "GPU-acme0")
    assert (device.meter, device.accuracy and device.accuracy.source) == ("acme energy counter", "the maker")


def test_the_doctor_names_it_without_knowing_it(acme: None) -> None:
    texts = [finding.text for finding in doctor.diagnose(environ={}).findings if finding.area == "GPUs"]
    assert any("Acme driver 1.0" in text for text in texts)
    assert any(text.startswith("Acme One GPU-acme0: by its energy counter, 250 W now") for text in texts)


def test_its_variable_selects_its_gpus(acme: None) -> None:
    meters = open_gpu_meters(environ={"ACME_VISIBLE_DEVICES": ""})
    meters.close()
    assert "GPU-acme0" not in {device.key for device in meters.devices}
