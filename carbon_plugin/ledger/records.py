"""Define the records of a ledger as versioned structs. They hold joules, seconds and factors, and never only carbon.

One line of a ledger file is one record. `LEDGER_VERSION` rises when a field changes meaning, and readers keep every
earlier version. Times are Unix seconds of the node's clock. Durations come from a monotonic clock.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from carbon_plugin.spec.metered import DeviceIdentity, EnergyKind
from carbon_plugin.spec.numbers.range import Range

LEDGER_VERSION = 1

Phase = str
"""What a job does: one of `KNOWN_PHASES`, or a name of its own such as "rollout"."""
KNOWN_PHASES = ("startup", "train", "evaluation", "checkpoint", "data_wait", "idle")
OTHER_PHASE = "other"

BELOW_GPUS_EVENT = "meter_below_gpus"
"""The event of a node meter that told less than the GPUs inside the node: "meter_" and the fault of its reading."""

HEADS_EVENT = "ledger_heads"
"""The event of a node that has looked at other ledgers, with data {"heads": {file name: chain}}. One anchor of its own
file then stands for all of them, up to that moment. With "complete": true the heads are those of all lines that the
files had."""

GRID_EVENT = "grid_intensity"
"""The event of a change of the source of the grid intensity. With that of the site's series it holds under `BY_HOUR`
the mean intensity of each hour of the day, UTC, g/kWh, None for hours that the series does not know."""
BY_HOUR = "g_per_kwh_by_hour"

RESUMED_EVENT = "resumed"
"""The event of a node whose job has loaded a checkpoint while training. Its steps may go back once."""

SUSPECT_EVENT = "suspect"
"""The event of a node on which a GPU or a rank differs from its peers while the node's step time or power deviates.
Rank 0 names it in the alert of the run."""

MACHINE = "machine"
"""The key among the parts of a window for what no meter reads by itself: the manufacture of the host and the
network."""

IntensityOrigin = Literal["live", "ageing", "static", "series"]


class RunIdentity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Holds the content of `run.json`, which the ranks and attempts of one run agree on."""

    version: int
    run_id: str
    created_unix_s: float
    name: str
    programme: str | None = None
    role: str | None = None
    parent_run_id: str | None = None


class Manifest(Struct, frozen=True, kw_only=True, tag="manifest"):
    """The first record of a file. It says who measures which devices, under which spec and assumptions.

    `effective` maps each spec field to `{"value", "source", "planned", "declared", "detected"}`. `spec` is the
    effective `RunSpec` as plain data, or None while too little is known for a prediction. `forecast` and `prediction`
    are the documents of `plan` and `predict` as plain data. `factors` are the carbon factors in force:
    `footprint.account.Factors` as plain data, empty when no site was given.

    `host_key` is the boot id, and `host_share` the part of that host which the job has reserved, 0 to 1.
    `started_boot_s` is the moment of `started_unix_s` in seconds since that boot. By it, files of one boot can be
    ordered whatever was done to the wall clock. `seen_gpus` are the GPUs that the processes of the job on this host
    see, whichever process meters them, and `ranks_without_gpu` the ranks that compute on a CPU. `file` is the name that
    the file was given, and is empty in older ledgers. A copy under another name is no second ledger. `budget` is what
    the run may use at most, and `configuration` maps each field of the configuration to `{"value", "source"}`.
    `follows` names files of the same launch whose writers were lost or have ended, and whose devices this one has taken
    over.

    `tags` say who answers for the run: "team", "project", "owner", "cost_centre" and "user", as far as they are known.

    A file may hold several manifests, because a layout can be detected only after the first step. Each one replaces the
    one before it, and the file begins with one.
    """

    version: int
    run_id: str
    attempt: int
    node: int
    nodes: int
    host_key: str
    hostname: str
    world_size: int
    started_unix_s: float
    reserved_since_unix_s: float | None
    devices: list[DeviceIdentity]
    effective: dict[str, Any]
    factors: dict[str, Any]
    versions: dict[str, str]
    total_steps: int | None = None
    tokens_per_step: int | None = None
    forecast: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    assumptions: list[dict[str, str]] = []
    host_share: float = 1.0
    spec: dict[str, Any] | None = None
    started_boot_s: float | None = None
    seen_gpus: list[str] = []
    ranks_without_gpu: list[int] = []
    file: str = ""
    budget: dict[str, Any] | None = None
    configuration: dict[str, Any] = {}
    tags: dict[str, str] = {}
    follows: list[str] = []


class DeviceEnergy(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Holds the energy of one device in one window. `energy_j` is None only when `kind` is "absent".

    `estimated_j` is the part of `energy_j` that the meter could not tell, and that is estimated for a GPU that was
    lost, a driver that hung or a figure that is physically impossible. None means no such part. It is below zero in the
    window in which a meter answers again and its measurement replaces what earlier windows had estimated. So for any
    set of windows the sum of `energy_j` less the sum of `estimated_j` is what was measured.
    """

    key: str
    energy_j: float | None
    kind: EnergyKind
    low_j: float | None = None
    high_j: float | None = None
    note: str | None = None
    estimated_j: float | None = None

    @property
    def energy(self) -> Range | None:
        """Return the energy with its range, J, or None where it is unknown. An end that the record leaves out, or that
        lies on the wrong side of the energy, is the energy itself."""
        return None if self.energy_j is None else Range.of(self.energy_j, self.low_j, self.high_j)


class Window(Struct, frozen=True, kw_only=True, tag="window", gc=False):
    """Holds the energy between two moments of one node, in one phase. Windows of a file do not overlap and leave no
    gap.

    `steps` optimizer steps with `tokens` tokens ended in the window. The last of them has the number `last_step` in the
    whole run, which is given also when `steps` is 0. These are figures of the whole job, the same on every node, and
    are never added over nodes.

    `intensity_g_per_kwh` and `pue` are the factors in force, or None when no site was given. `intensity_origin` says
    where the intensity is from: "static" is that of the manifest's factors, "live" that of the service which an event
    `grid_intensity` names, "ageing" lies between the two, and None is found in older ledgers. `marginal_g_per_kwh` is
    what one kWh more would have caused, where a source tells it, and is in no total.

    `parts` says which part of a device, by its key, and of the machine (`MACHINE`) was this run's where others used it
    too, 0 to 1. The energy of the window is that part already, but its time is not. None, and a key that is absent,
    mean all of it.
    """

    index: int
    phase: Phase
    start_unix_s: float
    duration_s: float
    energies: list[DeviceEnergy]
    steps: int
    last_step: int
    tokens: int
    intensity_g_per_kwh: float | None
    pue: float | None
    marginal_g_per_kwh: float | None = None
    intensity_origin: IntensityOrigin | None = None
    parts: dict[str, float] | None = None


class Span(Struct, frozen=True, kw_only=True, tag="span"):
    """Compares what was measured between step boundaries with what was predicted.

    A `short` span has fewer steps or less time than a comparison should have. It stands in for one where a run, or each
    of its stretches of training, ended before. The energies are of the GPUs of this node, measured and predicted.
    `boundary_error_s` bounds the queue lag between host and device at the two edges together.
    """

    first_step: int
    last_step: int
    start_unix_s: float
    duration_s: float
    step_time_s: float
    predicted_step_time_s: float | None
    gpu_energy_per_step_j: float | None
    predicted_gpu_energy_per_step_j: float | None
    boundary_error_s: float
    short: bool = False


class Event(Struct, frozen=True, kw_only=True, tag="event"):
    """Records something that a reader of the numbers must know: a difference, a fault, a fallback, a warning."""

    at_unix_s: float
    kind: str
    message: str
    data: dict[str, Any] = {}


class Projection(Struct, frozen=True, kw_only=True, tag="projection"):
    """Holds what is spent plus what remains for the full run, over all nodes that were seen.

    Carbon is operational and embodied together, or None where one of them is not known. Before anything was measured,
    what remains is planned as that of a real run. `best_case_remaining_s` is then its time in the best case of the
    layout.
    """

    at_unix_s: float
    step: int
    total_steps: int | None
    nodes_seen: int
    nodes: int
    spent_energy_j: float
    spent_carbon_kg: float | None
    energy_j: tuple[float, float, float] | None
    carbon_kg: tuple[float, float, float] | None
    remaining_s: float | None
    best_case_remaining_s: float | None = None

    @property
    def energy(self) -> Range | None:
        """Return the energy of the full run with its range, J. The record has low, central and high in this order."""
        return None if self.energy_j is None else Range(self.energy_j[1], self.energy_j[0], self.energy_j[2])

    @property
    def carbon(self) -> Range | None:
        """Return the carbon of the full run with its range, kg. The record has low, central and high in this order."""
        return None if self.carbon_kg is None else Range(self.carbon_kg[1], self.carbon_kg[0], self.carbon_kg[2])


class Sums(Struct, frozen=True, kw_only=True):
    """Holds the totals of a file beside its energy, so that no single figure of a window can be changed alone.

    `emitting` is the sum of energy times PUE times intensity, J g/kWh, where a window states both.
    """

    tokens: int
    duration_s: float
    low_j: float
    high_j: float
    estimated_j: float
    emitting: float


class Close(Struct, frozen=True, kw_only=True, tag="close"):
    """The last record of a file that was ended in an orderly way. A ledger without one was killed, and everything in it
    still counts.

    `steps`, `windows` and `energy_j` (over all devices, absent ones left out) are totals of this file, and so are its
    `sums`, which are None in older ledgers.
    """

    at_unix_s: float
    reason: str
    steps: int
    windows: int
    energy_j: float
    sums: Sums | None = None


Record = Manifest | Window | Span | Event | Projection | Close
