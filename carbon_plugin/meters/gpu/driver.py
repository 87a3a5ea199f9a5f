"""Define the interface between the GPU meter and the drivers of GPU vendors.

A vendor is one module that gives a `GpuVendor`; `meters.gpu.vendors` lists them. Its driver lists GPUs and reads their
joules, watts and clocks; everything else (energy bookkeeping, faults, estimates, selection) is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from carbon_plugin.errors import MeterError
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.track import Averaging

ErrorCode = Literal[
    "lost",
    "not_supported",
    "permission",
    "uninitialized",
    "no_library",
    "driver_not_loaded",
    "version_mismatch",
    "error",
]
MeteredPart = Literal["gpu", "module"]


class GpuError(MeterError):
    """A call on a driver failed; `code` is the class of failure, and the message has the driver's own words."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message)
        self.code = code


class Slice(Struct, frozen=True):
    """One slice is a part of a GPU that a job can have for itself: a MIG device, a die of a package or a compute
    partition.

    `share` is its part of the compute units of the whole GPU. `index` is its number among the vendor's devices where
    parts are numbered like GPUs, None where only a UUID names it (MIG). One MIG instance may hold several compute
    instances, each of which is a MIG device.
    """

    uuid: str
    name: str
    share: float
    index: int | None = None


class Gpu(Struct, frozen=True, kw_only=True):
    """One instance is a physical GPU as its driver lists it: what one energy counter covers.

    `index` is the vendor's number (PCI order), `minor` that of its device file. `compute_capability` is None where the
    driver does not tell it or the vendor has none; `slices` are its parts, empty where it is one device.
    `power_limit_w` is the limit in force, `most_power_w` the highest that can be set or is usual. `vendor` is the code
    of its `GpuVendor`. `module_cpu` names the CPU that a power reading of the same module may cover, and `module_cpu_w`
    what that CPU can draw beside the GPU's limit. `divided_evenly` says that the slices are always all of the GPU, so
    that a job with all of them has the whole of it.
    """

    index: int
    uuid: str
    name: str
    minor: int | None
    compute_capability: tuple[int, int] | None
    power_limit_w: float | None
    memory_bytes: int | None
    most_power_w: float | None = None
    mig_enabled: bool = False
    slices: tuple[Slice, ...] = ()
    vendor: str = "nvml"
    module_cpu: str | None = None
    module_cpu_w: float = 0.0
    divided_evenly: bool = False

    @property
    def averaging(self) -> Averaging:
        """Return what the power reading means: a trailing mean or an instantaneous value.

        It is the mean of the last second on NVIDIA GPUs from Ampere on, except GA100 (8.0). It is instantaneous there,
        on older parts (NVML API reference), and where nothing says otherwise.
        """
        if self.compute_capability is None or self.compute_capability <= (8, 0):
            return "instant"
        return "trailing_mean"

    @property
    def devices(self) -> tuple[tuple[int, str], ...]:
        """Return the number and UUID of each device that a framework sees: the GPU, or each of its parts if these are
        numbered.
        """
        if not self.divided_evenly:
            return ((self.index, self.uuid),)
        return tuple((part.index, part.uuid) for part in self.slices if part.index is not None)


class Inventory(Struct, frozen=True, kw_only=True):
    """One instance holds what a driver lists: its version, the GPUs that answered, and one line for each
    that did not.
    """

    driver_version: str
    gpus: tuple[Gpu, ...]
    problems: tuple[tuple[ErrorCode, str], ...] = ()


class GpuDriver(Protocol):
    """One instance is an opened library of a vendor. Every call raises `GpuError` where it fails, and may hang."""

    def reopen(self) -> None:
        """Initialise the library, also again after other code in the process shut it down."""

    def close(self) -> None:
        """Release the library."""

    def inventory(self) -> Inventory:
        """List all GPUs that the driver shows to this process."""
        ...

    def energy_j(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the joules on the hardware counter of a GPU. `scope` None asks for the driver's usual scope."""
        ...

    def power_w(self, uuid: str, scope: MeteredPart | None) -> float:
        """Return the watts that a GPU draws; `Gpu.averaging` says over which stretch."""
        ...

    def context(self, uuid: str) -> GpuContext:
        """Return power limit, clock, and what limits a GPU now."""
        ...


class GpuVendor(Struct, frozen=True, kw_only=True):
    """One instance holds what must be known about a vendor besides its driver.

    `code` begins the kinds of its events. `library` and `runtime` are its names in sentences ("NVML", "CUDA"), `meter`
    its name in the ledger. `visible_devices` are the variables that select devices: each group applies to what the
    groups before it left over, and within a group the first that is set counts. `container_variables` also tell which
    GPUs a job was given, without selecting any. `device_files` is a pattern of the names in `/dev` of its GPUs, empty
    where they cannot be told from those of other vendors; `pci_vendor` and `pci_classes` are what its GPUs show on the
    bus. `counter_age_s` is how old the value of the counter can be, and `accuracy_source` says where its error is from.
    `repeat_hides_all` says that a device that is named twice leaves none; `order_variable` must have its value if the
    runtime is to number devices as the driver does. `advice` is what the user can do about an error.
    """

    code: str
    maker: str
    library: str
    runtime: str
    meter: str
    open_driver: Callable[[], GpuDriver]
    visible_devices: tuple[tuple[str, ...], ...]
    pci_vendor: str
    pci_classes: tuple[str, ...]
    accuracy_source: str
    counter_age_s: float
    device_files: str = ""
    device_file_name: str = ""
    container_variables: tuple[str, ...] = ()
    repeat_hides_all: bool = False
    order_variable: tuple[str, str] | None = None
    part_name: str = "slice"
    look_with: str = "the vendor's tools"
    advice: Mapping[ErrorCode, str] = {}

    @property
    def hangs(self) -> str:
        """Return the kind of problem that stands for a driver that has not answered yet."""
        return f"{self.code}_hangs"
