"""List the vendors of GPUs that can be metered. To add one, write a module with a `VENDOR` and add its name to the
list.
"""

from __future__ import annotations

from importlib import import_module

from carbon_plugin.meters.gpu.driver import GpuVendor

VENDORS = ["carbon_plugin.meters.gpu.nvml", "carbon_plugin.meters.gpu.amd_smi"]
"""The modules of the vendors, in the order in which their GPUs are listed. None of them loads a vendor's library before
a driver is opened.
"""


def gpu_vendors() -> list[GpuVendor]:
    """Return all vendors."""
    return [import_module(module).VENDOR for module in VENDORS]


def vendor_of(code: str) -> GpuVendor:
    """Return the vendor with the code of a `Gpu`, or with the one that begins the kind of a problem or event.

    A code that belongs to no vendor is treated as the first vendor's.
    """
    vendors = gpu_vendors()
    return next((v for v in vendors if code == v.code or code.startswith(f"{v.code}_")), vendors[0])


gpu_vendors()  # Their modules are imported with this one, so that nothing is imported while a job trains.
