"""Describe what the job runs on: a device, the node around it, the network between nodes, and their number.

Every number is a `Sourced`: value, source, confidence, and a range where the source has one. SI units.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.parsing.limits import check_not_negative, check_positive

MOST_NODES = 10**12
"""The most nodes of a cluster: more is a mistake, and nobody could wait for the search of its layouts."""
CONTEXT_POWER_W = 40.0
"""Power that an open context adds to idle, where only the figure of the empty board is known (26-66 W, arXiv
2605.23918)."""
MOST_SHARE = 10.0
"""The largest share of a datasheet's rate. Caches and clocks may bring a probed machine above 1; 77 that was written
for 0.77 is refused.
"""
OWN_RUNS = "user-calibration"
"""The key of a profile's sources that names the user's own runs to which its constants were fitted."""
_SHARES = (
    "gemm_share",
    "fp8_gemm_share",
    "memory_share",
    "scaleup_share",
    "scaleout_share",
    "all_to_all_share",
)
_COSTS = (
    "fp8_cast_bytes",
    "scaleup_latency_s",
    "scaleout_latency_s",
    "overlap_contention",
    "host_op_time_s",
    "kernel_time_s",
)


class ScaleUp(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance describes the fast links between nearby devices (NVLink, Infinity Fabric, PCIe).

    It holds the one-way bytes/s of a device and the number of devices, `domain`, that reach one another over them.
    """

    technology: str
    bandwidth_bytes_per_s: Sourced
    domain: int

    def __post_init__(self) -> None:
        check_positive(self, "bandwidth_bytes_per_s", "domain")


class Die(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance describes one kind of logic die in the package: area in mm2, process name, and how many
    there are.
    """

    area_mm2: float
    process: str
    count: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "area_mm2", "count")


class Efficiency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the constants of the step-time model for one device; an absent one follows the sustained law
    in `predict`.

    `gemm_share` is the share of peak FLOP/s that large matrix products sustain, `fp8_gemm_share` that of the fp8 peak,
    and `memory_share` the share of HBM bandwidth that elementwise kernels sustain. `attention_flops` holds, by kernel
    class, the FLOP/s of the attention core, where causal attention counts half. `fp8_cast_bytes` are the bytes moved to
    cast an element. `scaleup_share` is the share of link bandwidth that collectives reach, and `scaleup_latency_s`
    their latency per collective and log2 of its ranks; `scaleout_share` and `scaleout_latency_s` (per log2 of its
    nodes) are those of the NICs. `overlap_contention` is the share of hidden FSDP traffic that still takes time.
    `all_to_all_share` is the share of link bandwidth that expert all-to-alls reach. `host_op_time_s` is the time to
    issue one operation, `kernel_time_s` the fixed device time of one kernel, and `sustained_power_w` the power under
    sustained work.
    """

    gemm_share: Sourced | None = None
    memory_share: Sourced | None = None
    attention_flops: dict[str, Sourced] = {}
    fp8_gemm_share: Sourced | None = None
    fp8_cast_bytes: Sourced | None = None
    scaleup_share: Sourced | None = None
    scaleup_latency_s: Sourced | None = None
    scaleout_share: Sourced | None = None
    scaleout_latency_s: Sourced | None = None
    overlap_contention: Sourced | None = None
    all_to_all_share: Sourced | None = None
    host_op_time_s: Sourced | None = None
    kernel_time_s: Sourced | None = None
    sustained_power_w: Sourced | None = None

    def __post_init__(self) -> None:
        check_positive(self, *_SHARES, "sustained_power_w")
        check_not_negative(self, *_COSTS)
        for kernel, rate in self.attention_flops.items():
            if rate.value <= 0:
                raise SpecError(f"attention_flops.{kernel} is {rate.value:g}, expected a positive number")
        for field in _SHARES:
            share = getattr(self, field)
            if share is not None and share.value > MOST_SHARE:
                raise SpecError(
                    f"{field} is {share.value:g}, expected at most {MOST_SHARE:g} (a share of the datasheet)"
                )


class OwnLayout(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance says how a layout deviated that the user ran.

    `place` says where it lies among layouts (`predict.own_runs.place_of`), and `deviation` is the logarithm of measured
    over predicted time of one step that the fitted constants leave, as a mean over `runs`.
    """

    place: dict[str, float]
    deviation: float
    runs: int = 1


class OwnLayouts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the layouts that the user ran in one software.

    All spreads are standard deviations of the logarithm of a time. `spread` is how far layouts deviate from the mean of
    the cluster, `smooth` that of the part which like layouts have in common, and `usual` that of the layouts of a usual
    cluster of the class. `repeated` is by how much runs of one layout differ.
    """

    spread: float
    smooth: float
    usual: float
    repeated: float
    layouts: tuple[OwnLayout, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= self.spread:
            raise SpecError(
                f"own_software: smooth is {self.smooth:g}, expected 0 to the spread between layouts, {self.spread:g}"
            )
        if not self.repeated > 0 < self.usual or any(one.runs < 1 for one in self.layouts):
            raise SpecError("own_software: usual and repeated must be above 0, and each layout have 1 run or more")
        if not self.layouts or any(one.place.keys() != self.layouts[0].place.keys() for one in self.layouts):
            raise SpecError("own_software: layouts must be one or more, and all must say the same of their places")


class OwnSoftware(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance says what the user's own runs of one software tell of the next one on the same cluster.

    `rows` measured step times were of that software, which a plan is of if its stack has this time to issue an
    operation, s, and this factor. `faster` and `slower` are how much of the spread between clusters those runs left, 0
    to 1, for steps that are shorter than predicted and for longer ones (`calibrate.transfer`). `like` are the
    layouts that ran, from which plans of like ones learn.
    """

    framework: str
    rows: int
    host_op_time_s: float | None = None
    framework_factor: float
    faster: float
    slower: float
    like: OwnLayouts | None = None

    def __post_init__(self) -> None:
        for field in ("faster", "slower"):
            if not 0 <= getattr(self, field) <= 1:
                raise SpecError(f"own_software: {field} is {getattr(self, field):g}, expected 0 to 1")
        if self.rows < 1:
            raise SpecError(f"own_software: rows is {self.rows}, expected at least 1")


class Accelerator(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One profile describes a device by its datasheet, its measurements and its calibration.

    `peak_flops` is dense FLOP/s by dtype (tensor units for tf32 and narrower). `idle_power_w` is the power without a
    device context, `idle_context_power_w` that with one open and no kernel running. `device_names` are the names that
    the driver gives it (NVML, or the CPU brand string). `embodied_kg` is cradle-to-gate kgCO2e of the device with its
    share of the baseboard. A `consumer` card is made for desktop computers and taken to stand in no data centre, so
    that no plant cools it (`footprint.factors.pue`). `own_software` is what the user's own runs on a cluster of it
    have told, by software.
    """

    name: str
    full_name: str
    vendor: str
    architecture: str
    kind: Literal["gpu", "cpu", "tpu"] = "gpu"
    aliases: list[str] = []
    device_names: list[str] = []
    released: str | None = None
    peak_flops: dict[str, Sourced]
    memory_bytes: Sourced
    memory_bandwidth_bytes_per_s: Sourced
    tdp_w: Sourced
    idle_power_w: Sourced
    idle_context_power_w: Sourced | None = None
    scaleup: ScaleUp
    scaleout_bandwidth_bytes_per_s: Sourced
    dies: list[Die] = []
    memory_type: str | None = None
    embodied_kg: Sourced
    efficiency: Efficiency = Efficiency()
    default_node: str | None = None
    consumer: bool = False
    own_software: tuple[OwnSoftware, ...] = ()
    sources: dict[str, str]
    notes: list[str] = []

    def __post_init__(self) -> None:
        check_positive(self, "memory_bytes", "memory_bandwidth_bytes_per_s", "tdp_w")
        check_positive(self, "scaleout_bandwidth_bytes_per_s")
        check_not_negative(self, "idle_power_w", "idle_context_power_w", "embodied_kg")
        for dtype, rate in self.peak_flops.items():
            if rate.value <= 0:
                raise SpecError(f"peak_flops.{dtype} is {rate.value:g}, expected a positive number")
        for field in ("idle_power_w", "idle_context_power_w"):
            idle = getattr(self, field)
            if idle is not None and idle.value >= self.tdp_w.value:
                raise SpecError(f"{field} is {idle.value:g}, expected below tdp_w {self.tdp_w.value:g}")

    @property
    def compiles_graphs(self) -> bool:
        """Return whether its runtime hands whole graphs to a compiler, which fuses chains of operations, whatever runs.

        XLA compiles what runs on TPUs, Neuron what runs on Trainium, and SynapseAI's graph compiler what runs on Gaudi,
        where PyTorch gathers operations until a value is needed (docs.habana.ai, "Intel Gaudi Software Suite").
        """
        return self.kind == "tpu" or self.architecture.startswith(("gaudi", "trainium"))

    @property
    def idle_with_context_w(self) -> float:
        """Return the power with a context open and nothing running, in W: the profile's, or for a GPU that of the empty
        board and `CONTEXT_POWER_W`, up to half of the limit where the empty board draws less than that.
        """
        if self.idle_context_power_w is not None:
            return self.idle_context_power_w.value
        idle = self.idle_power_w.value
        if self.kind != "gpu":
            return idle
        return max(idle, min(idle + CONTEXT_POWER_W, 0.5 * self.tdp_w.value))


class Host(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance describes the server around the devices.

    `base_power_w` is the power of CPUs, DRAM, disks and NICs under a training job; `overhead_fraction` is the power of
    fans, regulators and supply losses over that of the accelerators; `embodied_kg` excludes the accelerators.
    """

    cpu: str
    sockets: int
    cpu_tdp_w: Sourced
    dram_bytes: Sourced
    ssd_bytes: Sourced
    nics: int
    base_power_w: Sourced
    overhead_fraction: Sourced
    rated_power_w: Sourced | None = None
    embodied_kg: Sourced

    def __post_init__(self) -> None:
        check_not_negative(self, "sockets", "cpu_tdp_w", "dram_bytes", "ssd_bytes", "nics")
        check_not_negative(self, "base_power_w", "overhead_fraction", "rated_power_w", "embodied_kg")


class Network(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance describes the network between nodes.

    It holds the one-way bytes/s of NIC that a device has, how many devices share one NIC (`devices_per_nic`, 1 where
    each has its own or nobody counts them), the `oversubscription` above the leaf switches (1 = none), whether its
    switches reduce (`in_network_reduction`, SHARP), and the power and embodied carbon of switches and optics per
    device. `rails` is the number of leaf switches that the NICs of a node are spread over, so that devices of the same
    index in their nodes meet at one leaf; None where it is not known.
    """

    technology: str
    bandwidth_bytes_per_s: Sourced
    devices_per_nic: float = 1.0
    oversubscription: float = 1.0
    rails: int | None = None
    in_network_reduction: bool = False
    power_w_per_device: Sourced
    embodied_kg_per_device: Sourced

    def __post_init__(self) -> None:
        check_positive(self, "bandwidth_bytes_per_s", "rails")
        check_not_negative(self, "power_w_per_device", "embodied_kg_per_device")
        if not self.devices_per_nic >= 1:
            raise SpecError(f"devices_per_nic is {self.devices_per_nic:g}, expected 1 or more (1 = a NIC for each)")
        if not self.oversubscription >= 1:
            raise SpecError(f"oversubscription is {self.oversubscription:g}, expected 1 or more (1 = none)")


class Node(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One profile describes a server model: so many devices of one kind, a host, and the network it is usually cabled
    to.

    `accelerator` is the name of the device's profile, or "*" for a generic node that takes any.
    """

    name: str
    full_name: str
    accelerator: str
    accelerators: int
    aliases: list[str] = []
    cooling: Literal["air", "liquid"] = "air"
    host: Host
    network: Network
    sources: dict[str, str]
    notes: list[str] = []

    def __post_init__(self) -> None:
        check_positive(self, "accelerators")
        rails = self.network.rails
        if rails is not None and self.accelerators % rails:
            possible = [count for count in range(1, self.accelerators + 1) if self.accelerators % count == 0]
            raise SpecError(
                f"rails is {rails}, expected a number that divides the {self.accelerators} devices of node "
                f"{self.name}: {', '.join(map(str, possible))}"
            )


class Cluster(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One cluster holds `nodes` nodes, in each of which `devices_per_node` devices are used.

    `power_cap_w` is a limit that is set below the devices' own. `scaleup` and `network` are the words in which a spec
    stated links in place of the profiles'; `accelerator` and `node` already hold the links that they state. Raises
    `SpecError` for impossible numbers.
    """

    accelerator: Accelerator
    node: Node
    nodes: int
    devices_per_node: int
    power_cap_w: float | None = None
    scaleup: str | None = None
    network: str | None = None

    def __post_init__(self) -> None:
        check_positive(self, "nodes", owner="cluster: ")
        if self.nodes > MOST_NODES:
            raise SpecError(f"cluster: nodes is {self.nodes}, expected at most {MOST_NODES:.0e}")
        if not 1 <= self.devices_per_node <= self.node.accelerators:
            raise SpecError(
                f"cluster: devices_per_node is {self.devices_per_node}, "
                f"expected 1 to {self.node.accelerators} (node {self.node.name})"
            )
        idle = self.accelerator.idle_with_context_w
        limit = self.accelerator.tdp_w.value
        if self.power_cap_w is not None and not idle < self.power_cap_w <= limit:
            raise SpecError(
                f"cluster: power_cap_w is {self.power_cap_w:g}, expected above {idle:g} and at most {limit:g} "
                f"(idle power with an open context and limit of {self.accelerator.name})"
            )

    @property
    def power_limit_w(self) -> float:
        """Return the most that one device may draw, in W."""
        return self.accelerator.tdp_w.value if self.power_cap_w is None else self.power_cap_w

    @property
    def devices(self) -> int:
        """Return the number of devices of the job."""
        return self.nodes * self.devices_per_node
