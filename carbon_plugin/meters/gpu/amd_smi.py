"""Read the AMD driver through the `amdsmi` module: list its GPUs, and read their joules and watts.

A `Gpu` is one package, because the package has the energy counter. The two dies of an MI250X, and the compute
partitions of an MI300X, are separate devices to ROCm; here they are parts of their package. Every error becomes a
`GpuError`. AMD SMI ignores HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from carbon_plugin.meters.gpu.amd_packages import RocmDevice, has_two_dies, in_packages
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.gpu.driver import ErrorCode, Gpu, GpuError, GpuVendor, Inventory, MeteredPart, Slice
from carbon_plugin.threads.turns import give_way

_CODES: dict[int, ErrorCode] = {
    2: "not_supported",
    3: "not_supported",
    4: "driver_not_loaded",
    5: "version_mismatch",
    10: "permission",
    12: "lost",
    14: "not_supported",
    31: "lost",
    32: "uninitialized",
    34: "driver_not_loaded",
    40: "not_supported",
    51: "driver_not_loaded",
    52: "not_supported",
}
"""The status codes of AMD SMI. It has none for a GPU that is lost: then input and output fail, or the device is not
found.
"""

_NOT_AVAILABLE = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""The largest number of a field means "not available"; the module turns only some of these into "N/A"."""

_MOST_W = 100_000
"""A larger power cap is in microwatts: on bare metal the library gives microwatts, in a virtual machine watts."""

_APU = "MI300A"
"""The name of a GPU whose socket power also covers the CPU cores of the package."""

_RESIDENCIES = {
    "ppt_residency_acc": "power cap",
    "prochot_residency_acc": "temperature (hardware)",
    "socket_thm_residency_acc": "temperature (socket)",
    "vr_thm_residency_acc": "temperature (voltage regulators)",
    "hbm_thm_residency_acc": "temperature (memory)",
}
"""The counters of how long something has lowered the clocks, and what it is."""


_NEEDED = (
    "AmdSmiClkType",
    "AmdSmiException",
    "AmdSmiMemoryType",
    "amdsmi_get_clock_info",
    "amdsmi_get_energy_count",
    "amdsmi_get_gpu_asic_info",
    "amdsmi_get_gpu_device_bdf",
    "amdsmi_get_gpu_device_uuid",
    "amdsmi_get_gpu_driver_info",
    "amdsmi_get_gpu_memory_total",
    "amdsmi_get_gpu_metrics_info",
    "amdsmi_get_power_cap_info",
    "amdsmi_get_power_info",
    "amdsmi_get_processor_handles",
    "amdsmi_init",
)
"""The names of the module that are used here."""


class AmdSmiDriver:
    """One instance is an initialised AMD SMI library. Raises `GpuError` where it cannot be had. Not for use after a
    fork.
    """

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._without_counter: set[str] = set()
        self._residencies: dict[str, dict[str, int]] = {}
        self._smi = _load_module()
        self._call(self._smi.amdsmi_init)

    def reopen(self) -> None:
        """Initialise the library again after other code in the process shut it down, and list the GPUs again."""
        self._call(self._smi.amdsmi_init)
        self.inventory()

    def close(self) -> None:
        """Forget the GPUs.

        The library stays initialised: PyTorch uses it in the same process, and it does not count its users.
        """
        self._handles.clear()

    def inventory(self) -> Inventory:
        """List the packages that the library shows to this process, with their dies or partitions."""
        self._handles.clear()
        devices: list[RocmDevice] = []
        problems: list[tuple[ErrorCode, str]] = []
        handles = self._call(self._smi.amdsmi_get_processor_handles)
        for position, handle in enumerate(handles):
            give_way()
            try:
                devices.append(self._describe(position, handle))
            except GpuError as error:
                problems.append((error.code, f"GPU number {position} of AMD SMI does not answer: {error}"))
        gpus = [self._gpu(package) for package in in_packages(devices)]
        version = self._optional(self._smi.amdsmi_get_gpu_driver_info, handles[0]) if handles else None
        return Inventory(
            driver_version=str((version or {}).get("driver_version", "of unknown version")),
            gpus=tuple(gpus),
            problems=tuple(problems),
        )

    def energy_j(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the joules that a package has counted: its accumulator times the resolution, which is in
        uJ a count.
        """
        if scope is not None or uuid in self._without_counter:
            raise GpuError("AMD SMI has no such energy counter", "not_supported")
        return self._energy_j(self._handle(uuid))

    def power_w(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the watts of a package: the current socket power, or on older parts the average that they tell."""
        if scope is not None:
            raise GpuError("AMD SMI has one power a socket", "not_supported")
        return self._power_w(self._handle(uuid))

    def context(self, uuid: str) -> GpuContext:
        """Return power cap, clock, and the reasons that have lowered the clocks since the last call."""
        handle = self._handle(uuid)
        cap = self._optional(self._smi.amdsmi_get_power_cap_info, handle) or {}
        clock = self._optional(self._smi.amdsmi_get_clock_info, handle, self._smi.AmdSmiClkType.GFX) or {}
        return GpuContext(
            power_limit_w=_watts(cap.get("power_cap")),
            default_power_limit_w=_watts(cap.get("default_power_cap")),
            sm_clock_mhz=_number(clock.get("clk")),
            held_back_by=self._held_back_by(uuid, handle),
        )

    def _held_back_by(self, uuid: str, handle: Any) -> tuple[str, ...]:
        # The violation status would say it at once, but its call takes a tenth of a second a GPU.
        metrics = self._optional(self._smi.amdsmi_get_gpu_metrics_info, handle) or {}
        now = {name: value for name in _RESIDENCIES if (value := _number(metrics.get(name))) is not None}
        before, self._residencies[uuid] = self._residencies.get(uuid, now), now
        return tuple(_RESIDENCIES[name] for name, value in now.items() if value > before.get(name, value))

    def _describe(self, position: int, handle: Any) -> RocmDevice:
        smi = self._smi
        address = self._call(smi.amdsmi_get_gpu_device_bdf, handle)
        asic = self._call(smi.amdsmi_get_gpu_asic_info, handle)
        numbers = self._optional(getattr(smi, "amdsmi_get_gpu_enumeration_info", None), handle) or {}
        index, uuid = _number(numbers.get("hip_id")), str(numbers.get("hip_uuid", ""))
        if not uuid.startswith("GPU-"):
            uuid = f"GPU-{self._call(smi.amdsmi_get_gpu_device_uuid, handle)}"
        return RocmDevice(
            handle=handle,
            index=position if index is None else index,
            uuid=uuid,
            name=str(asic.get("market_name", "AMD GPU")),
            address=address,
            measures=self._positive(self._energy_j, handle) or self._positive(self._power_w, handle),
        )

    def _gpu(self, package: list[RocmDevice]) -> Gpu:
        smi = self._smi
        # One of several devices of a package tells the energy of all; the others answer 0 or nothing.
        teller = next((device for device in package if device.measures), package[0])
        several = len(package) > 1
        uuid = f"PKG-{package[0].uuid.removeprefix('GPU-')}" if several else teller.uuid
        self._handles[uuid] = teller.handle
        if not self._positive(self._energy_j, teller.handle):
            self._without_counter.add(uuid)
        cap = self._optional(smi.amdsmi_get_power_cap_info, teller.handle) or {}
        limits_w = [_watts(cap.get(name)) for name in ("power_cap", "default_power_cap", "max_power_cap")]
        memory = [
            self._optional(smi.amdsmi_get_gpu_memory_total, device.handle, smi.AmdSmiMemoryType.VRAM)
            for device in package
        ]
        part = "die" if has_two_dies(teller) else "partition"
        return Gpu(
            index=min(device.index for device in package),
            uuid=uuid,
            name=teller.name,
            minor=None,
            compute_capability=None,
            power_limit_w=limits_w[0],
            memory_bytes=sum(memory) if all(memory) else None,
            most_power_w=max((limit for limit in limits_w if limit), default=None),
            slices=tuple(
                Slice(device.uuid, f"{device.name} {part} {number}", 1 / len(package), device.index)
                for number, device in enumerate(package)
            )
            if several
            else (),
            vendor=VENDOR.code,
            module_cpu="the CPU cores of its package" if _APU in teller.name else None,
            divided_evenly=several,
        )

    def _energy_j(self, handle: Any) -> float:
        told = self._call(self._smi.amdsmi_get_energy_count, handle)
        # Modules before ROCm 6.2 call the accumulator "power".
        count = _number(told.get("energy_accumulator", told.get("power")))
        resolution_uj = float(told.get("counter_resolution") or 0.0)
        if count is None or not resolution_uj > 0:
            raise GpuError("AMD SMI has no energy counter for this GPU", "not_supported")
        return count * resolution_uj * 1e-6

    def _power_w(self, handle: Any) -> float:
        told = self._call(self._smi.amdsmi_get_power_info, handle)
        names = ("current_socket_power", "average_socket_power", "socket_power")
        values_w = [value for name in names if (value := _number(told.get(name))) is not None]
        if not values_w:
            raise GpuError("AMD SMI has no power for this GPU", "not_supported")
        return float(next((value for value in values_w if value), 0))

    def _positive(self, read: Callable[[Any], float], handle: Any) -> bool:
        try:
            return read(handle) > 0
        except GpuError:
            return False

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            raise GpuError(f"AMD SMI does not list {uuid}", "lost")
        return self._handles[uuid]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._smi.AmdSmiException as error:
            code = getattr(error, "err_code", None)
            words = getattr(error, "err_info", None) or error
            raise GpuError(f"AMD SMI error {code}: {words}", _CODES.get(code or 0, "error")) from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # The module reads texts and numbers of the library without expecting that they are missing.
            raise GpuError(f"the module amdsmi cannot read an answer: {error!r}", "error") from error

    def _optional(self, function: Callable[..., Any] | None, *arguments: Any) -> Any:
        """Return the answer, or None where the device cannot give it; the calls that identify a device say what is
        wrong.
        """
        if function is None:
            return None
        try:
            return self._call(function, *arguments)
        except GpuError:
            return None


def _load_module() -> Any:
    """Import `amdsmi`. The library is looked for first: without it the module prints to standard output and fails."""
    if not _library_is_there():
        raise GpuError("libamd_smi.so is not on this machine", "no_library")
    if find_spec("amdsmi") is None:
        raise GpuError("the Python module amdsmi is missing", "no_library")
    try:
        module = import_module("amdsmi")
    except Exception as error:  # a library of another version may lack functions
        raise GpuError(f"the module amdsmi does not fit the library: {error!r}", "version_mismatch") from error
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise GpuError(f"the module amdsmi is too old: it lacks {', '.join(missing)}", "version_mismatch")
    return module


def _library_is_there() -> bool:
    """Return whether the library can be loaded from one of the places where the module looks for it."""
    rocm = os.environ.get("ROCM_HOME", os.environ.get("ROCM_PATH", "/opt/rocm"))
    for place in (os.path.join(rocm, "lib/libamd_smi.so"), "libamd_smi.so"):
        try:
            ctypes.CDLL(place)
        except OSError:
            continue
        return True
    return False


def _number(value: Any) -> int | None:
    """Return a number of the library, or None where it says in one of its ways that there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value in _NOT_AVAILABLE:
        return None
    return int(value)


def _watts(value: Any) -> float | None:
    number = _number(value)
    if not number:
        return None
    return number * 1e-6 if number > _MOST_W else float(number)


VENDOR = GpuVendor(
    code="amd_smi",
    maker="AMD",
    library="AMD SMI",
    runtime="HIP",
    meter="amd smi",
    open_driver=AmdSmiDriver,
    visible_devices=(("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
    pci_vendor="0x1002",
    # These are accelerators only. Desktop and laptop GPUs are VGA controllers, need no ROCm and rarely train.
    pci_classes=("0x0380", "0x1200"),
    accuracy_source="assumed, as for NVIDIA's counter: nobody has published a check of AMD's that we know",
    counter_age_s=0.1,
    part_name="package",
    look_with="amd-smi",
    advice={
        "no_library": "install ROCm's library amd-smi-lib, and the module that fits it: pip install "
        "/opt/rocm/share/amd_smi, or carbon-plugin[amd]",
        "driver_not_loaded": "load the kernel module amdgpu (amd-smi shows whether it answers)",
        "version_mismatch": "install the module of the same ROCm release as the library: pip install "
        "/opt/rocm/share/amd_smi",
        "permission": "add this user to the groups render and video, or start the container with /dev/kfd and /dev/dri",
    },
)
