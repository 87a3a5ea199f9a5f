"""Read the NVIDIA driver through the `pynvml` module: list its GPUs, and read their joules and watts.

Every error becomes a `GpuError` with one of a few codes. Nothing is remembered between reads: `meters.track` keeps the
energy, and `selection` decides which GPUs are the job's. NVML ignores CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from carbon_plugin.meters.gpu.context import GpuContext, reasons_of
from carbon_plugin.meters.gpu.driver import ErrorCode, Gpu, GpuError, GpuVendor, Inventory, MeteredPart, Slice
from carbon_plugin.threads.turns import give_way

# These values of the NVML interface are spelled out because older `pynvml` modules lack some of the names.
_CODES: dict[int, ErrorCode] = {
    1: "uninitialized",
    3: "not_supported",
    4: "permission",
    9: "driver_not_loaded",
    12: "no_library",
    13: "not_supported",
    15: "lost",
    16: "lost",
    18: "version_mismatch",
    28: "lost",
}
_FIELD_POWER_AVERAGE = 185
_FIELD_ENERGY = 191
_SCOPES: dict[MeteredPart, int] = {"gpu": 0, "module": 1}

_GRACE_PARTS = ("GH200", "GB200", "GB300", "GRACE")
_GRACE_W = 1000.0
"""The power in W that a module may draw beside its GPU (our convention)."""


class NvmlDriver:
    """One instance is an initialised NVML library. Raises `GpuError` where it cannot be had. Not for use
    after a fork.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._open = False
        self._handles: dict[str, Any] = {}
        try:
            # The import takes some 15 ms, and most users of this package never meter.
            self._nvml: Any = import_module("pynvml")
        except ImportError as error:
            raise GpuError(
                f"the Python module pynvml (package nvidia-ml-py) is missing: {error}", "no_library"
            ) from error
        self.reopen()

    def reopen(self) -> None:
        """Initialise the library, also again after other code in the process shut it down."""
        self._handles.clear()
        self._call(self._nvml.nvmlInit)
        self._open = True

    def close(self) -> None:
        """Release the library; a library that is already shut down needs no release."""
        if not self._open or os.getpid() != self._pid:
            return
        self._open = False
        self._handles.clear()
        try:
            self._call(self._nvml.nvmlShutdown)
        except GpuError as error:
            if error.code != "uninitialized":
                raise

    def inventory(self) -> Inventory:
        """List all GPUs that NVML shows to this process."""
        gpus: list[Gpu] = []
        problems: list[tuple[ErrorCode, str]] = []
        for index in range(self._call(self._nvml.nvmlDeviceGetCount)):
            give_way()
            try:
                gpus.append(self._describe(index))
            except GpuError as error:
                problems.append((error.code, f"GPU with NVML index {index} does not answer: {error}"))
        version = self._call(self._nvml.nvmlSystemGetDriverVersion)
        return Inventory(driver_version=version, gpus=tuple(gpus), problems=tuple(problems))

    def energy_j(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the joules on the hardware counter since the driver was loaded; it steps about every 100 ms.

        `scope` None is the classic call, whose scope the part decides; "gpu" and "module" ask for one by field.
        """
        if scope is None:
            return float(self._on(uuid, self._nvml.nvmlDeviceGetTotalEnergyConsumption)) * 1e-3
        return self._field(uuid, _FIELD_ENERGY, scope) * 1e-3

    def power_w(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the watts now, or as the mean of the last second: `Gpu.averaging` says which. `scope` is that of
        `energy_j`.
        """
        if scope is None:
            return float(self._on(uuid, self._nvml.nvmlDeviceGetPowerUsage)) * 1e-3
        return self._field(uuid, _FIELD_POWER_AVERAGE, scope) * 1e-3

    def context(self, uuid: str) -> GpuContext:
        """Return power limit, clock, throttle reasons and temperature. Raises `GpuError` only for a lost GPU."""
        nvml = self._nvml
        handle = self._handle(uuid)
        limit_mw = self._optional(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        default_mw = self._optional(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)
        bits = self._optional(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return GpuContext(
            power_limit_w=None if limit_mw is None else limit_mw * 1e-3,
            default_power_limit_w=None if default_mw is None else default_mw * 1e-3,
            sm_clock_mhz=self._optional(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            held_back_by=reasons_of(bits or 0),
            temperature_c=self._optional(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        )

    def _describe(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = self._call(nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = self._call(nvml.nvmlDeviceGetUUID, handle)
        self._handles[uuid] = handle
        limit_mw = self._optional(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        limits_mw = [
            limit_mw,
            self._optional(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
            *(self._optional(nvml.nvmlDeviceGetPowerManagementLimitConstraints, handle) or ()),
        ]
        memory = self._optional(nvml.nvmlDeviceGetMemoryInfo, handle)
        mode = self._optional(nvml.nvmlDeviceGetMigMode, handle)
        mig_enabled = mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE
        name = self._call(nvml.nvmlDeviceGetName, handle)
        has_grace = any(part in name.upper() for part in _GRACE_PARTS)
        return Gpu(
            index=index,
            uuid=uuid,
            name=name,
            minor=self._optional(nvml.nvmlDeviceGetMinorNumber, handle),
            compute_capability=self._optional(nvml.nvmlDeviceGetCudaComputeCapability, handle),
            power_limit_w=None if limit_mw is None else limit_mw * 1e-3,
            memory_bytes=None if memory is None else int(memory.total),
            most_power_w=max((limit * 1e-3 for limit in limits_mw if limit), default=None),
            mig_enabled=mig_enabled,
            slices=self._slices(handle) if mig_enabled else (),
            module_cpu="Grace CPU" if has_grace else None,
            module_cpu_w=_GRACE_W if has_grace else 0.0,
        )

    def _slices(self, parent: Any) -> tuple[Slice, ...]:
        nvml = self._nvml
        most = self._call(nvml.nvmlDeviceGetMaxMigDeviceCount, parent)
        found = []
        for position in range(most):
            try:
                handle = self._call(nvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, position)
                # A GPU divides into as many compute slices as it can have MIG devices (7 on A100 and H100, 4 on A30).
                attributes = self._call(nvml.nvmlDeviceGetAttributes, handle)
                share = (attributes.computeInstanceSliceCount or attributes.gpuInstanceSliceCount) / most
                uuid = self._call(nvml.nvmlDeviceGetUUID, handle)
                found.append(Slice(uuid, self._call(nvml.nvmlDeviceGetName, handle), share))
            except GpuError:
                continue  # MIG positions are sparse: an empty one answers "Not Found"
        return tuple(found)

    def _field(self, uuid: str, field: int, scope: MeteredPart) -> float:
        values = self._on(uuid, self._nvml.nvmlDeviceGetFieldValues, [(field, _SCOPES[scope])])
        value = values[0]
        if value.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._error(self._nvml.NVMLError(value.nvmlReturn))
        # The member of the union that is set differs by driver.
        wide = value.valueType in (
            self._nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
            self._nvml.NVML_VALUE_TYPE_UNSIGNED_LONG,
        )
        return float(value.value.ullVal if wide else value.value.uiVal)

    def _on(self, uuid: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._call(function, self._handle(uuid), *arguments)

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._call(self._nvml.nvmlDeviceGetHandleByUUID, uuid)
        return self._handles[uuid]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise self._error(error) from error
        except UnicodeDecodeError as error:
            # A text that is not UTF-8, such as the name of a board with a broken memory, must not stop metering.
            return error.object.decode(errors="replace")

    def _optional(self, function: Callable[..., Any], handle: Any, *arguments: Any) -> Any:
        """Return the answer, or None where the device cannot give it; a lost device still raises."""
        try:
            return self._call(function, handle, *arguments)
        except GpuError as error:
            if error.code == "lost":
                raise
            return None

    @staticmethod
    def _error(error: Any) -> GpuError:
        try:
            words = str(error)
        except UnicodeDecodeError as broken:
            words = broken.object.decode(errors="replace")
        return GpuError(f"NVML error {error.value}: {words}", _CODES.get(error.value, "error"))


VENDOR = GpuVendor(
    code="nvml",
    maker="NVIDIA",
    library="NVML",
    runtime="CUDA",
    meter="nvml",
    open_driver=NvmlDriver,
    visible_devices=(("CUDA_VISIBLE_DEVICES",),),
    container_variables=("NVIDIA_VISIBLE_DEVICES",),
    pci_vendor="0x10de",
    # These are VGA and 3D controllers; the audio part of a card has another class.
    pci_classes=("0x0300", "0x0302"),
    device_files=r"nvidia\d+",
    device_file_name="/dev/nvidiaN",
    accuracy_source="arXiv 2312.02741",
    counter_age_s=0.1,
    repeat_hides_all=True,
    order_variable=("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    part_name="MIG slice",
    look_with="nvidia-smi",
    advice={
        "no_library": "normal without NVIDIA GPUs; in a container, start it with the driver's utility capability "
        "(NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
        "driver_not_loaded": "load the NVIDIA kernel module (nvidia-smi shows whether it answers)",
        "version_mismatch": "the driver was updated under a running kernel module: reboot, or reload the module",
        "permission": "let this user read the /dev/nvidia* files, or start the container with the GPU devices",
    },
)
"""The vendor NVIDIA. The counter of its GPUs steps about every 100 ms."""
