"""Define the result of an audit as plain frozen values: the content of `report.json`. `audit.summary` computes it.

Energies are in J, times in s (Unix seconds for moments), and carbon in kgCO2e. `energy_j` fields are exact sums of the
windows. Ranges (`low_j`, `high_j`) add up the meters' own p10 and p90, whose errors are systematic.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from carbon_plugin.footprint.drivers import Driver
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.held.claims import Overlap
from carbon_plugin.ledger.records import Phase
from carbon_plugin.ledger.verification.file_check import FileCheck
from carbon_plugin.ledger.verification.verify import AnchorCheck, VerificationState
from carbon_plugin.spec.budget import BudgetLine
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.metered import DeviceIdentity, Rung

AUDIT_VERSION = 1

Quality = Literal["measured", "modelled", "mixed", "absent"]
Cause = Literal["spec drift", "step time", "power", "run length", "coverage", "grid", "waiting"]


class MeterQuality(Struct, frozen=True, kw_only=True):
    """How an energy is known, as shares of device time. They add up to 1, or are all 0 without any time."""

    measured: float
    modelled: float
    absent: float

    @property
    def quality(self) -> Quality:
        """Return the shares in one word."""
        if self.measured > 0:
            return "measured" if self.modelled == 0 and self.absent == 0 else "mixed"
        return "modelled" if self.modelled > 0 else "absent"


class Energy(Struct, frozen=True, kw_only=True):
    """An energy with its range, its measured part, the quality of its meters over time, and the operational carbon that
    it caused.

    It is the sum of `windows` readings of one device in one window each. The carbon is None without factors.
    `estimated_j` is the part that is estimated for a device with a meter while the meter could not tell, such as a GPU
    that was lost. The rest that was not measured is modelled because there is no meter.
    """

    energy_j: float
    measured_j: float
    low_j: float
    high_j: float
    device_s: float
    meters: MeterQuality
    operational_kg: float | None
    windows: int = 0
    estimated_j: float = 0.0


class BoundaryRung(Struct, frozen=True, kw_only=True):
    """One rung of the boundary, from the accelerators to the facility.

    It holds what the rung contains, how well it is covered, its energy, and by which meters or which model that is
    known. The energy is None where the rung is absent. That of the facility contains all others.
    """

    rung: Literal["gpu", "host", "network", "storage", "facility"]
    contains: str
    coverage: Quality
    energy_j: float | None
    how: str


class Run(Struct, frozen=True, kw_only=True):
    """The identity of a run, its size and software, and the effective spec with the source of each field."""

    run_id: str
    name: str
    programme: str | None
    role: str | None
    parent_run_id: str | None
    world_size: int
    versions: dict[str, str]
    effective: dict[str, Any]


class Attempt(Struct, frozen=True, kw_only=True):
    """One start of the job on all nodes, numbered from 0.

    `ended` is the reason of an orderly end on every node, or None if any node was killed.
    """

    attempt: int
    start_unix_s: float
    end_unix_s: float
    nodes: int
    world_size: int
    steps: int
    last_step: int
    redone_steps: int
    ended: str | None


class Gap(Struct, frozen=True, kw_only=True):
    """Time between attempts that no node recorded and no allocation covered. Its energy is unknown and in no total."""

    start_unix_s: float
    duration_s: float


class Period(Struct, frozen=True, kw_only=True):
    """The time of a run: `wall_s` from the first record to the last, of which some node recorded `active_s`.

    In `stalled_s` of the training no step ended, although many should have.
    """

    start_unix_s: float
    end_unix_s: float
    wall_s: float
    active_s: float
    attempts: list[Attempt]
    gaps: list[Gap]
    stalled_s: float = 0.0


class Coverage(Struct, frozen=True, kw_only=True):
    """Which part of the job the ledgers cover.

    `gpus` is how many GPUs there should be, `gpus_seen` how many a ledger names, `gpus_measured` how many of these have
    measured energy, and `gpu_slices` how many of these are MIG slices. `whole_gpus` is the sum over all `gpus`, with a
    slice as its share. `gpus_missing` GPUs must have been used by nodes whose ledgers are here, but no ledger names
    them; `missing` says how that is known, a sentence a launch. No rank of a launch computed on
    `gpus_without_rank` of the GPUs that it metered.

    `overlaps` are devices that two files metered at once. `clock_offsets_s` says by how many seconds the times of a
    ledger are ahead of those of the run, because clocks of nodes disagree or the clock of a host was set between two of
    its ledgers. `side_by_side` are the names of ledgers that two jobs wrote at the same time, each from the same place
    in its job.
    """

    nodes: int
    nodes_seen: int
    gpus: int
    gpus_seen: int
    gpus_measured: int
    gpu_slices: int
    whole_gpus: float
    overlaps: list[Overlap]
    clock_offsets_s: dict[str, float] = {}
    gpus_missing: int = 0
    missing: list[str] = []
    side_by_side: list[str] = []
    gpus_without_rank: int = 0


class Progress(Struct, frozen=True, kw_only=True):
    """What the energy was spent on: the `steps` and `tokens` that were executed, redone ones included, and the last
    step reached.

    `tokens_source` says how the tokens were counted.
    """

    steps: int
    last_step: int
    total_steps: int | None
    tokens: int
    tokens_source: str = "not recorded"


class Work(Struct, frozen=True, kw_only=True):
    """What was trained and on what, as far as the run knew.

    `hardware` is in words. The FLOPs are those of one optimizer step of the whole job as its prediction counts them
    (`model_...` without recompute, `hardware_...` with it).
    """

    model: str | None
    parameters: int | None
    trainable_fraction: float | None
    precision: str | None
    hardware: str
    model_flops_per_step: float | None
    hardware_flops_per_step: float | None
    attention_convention: str | None


class Sampling(Struct, frozen=True, kw_only=True):
    """How the ranges of the footprint were drawn. The same draws and seed give the same ranges."""

    draws: int
    seed: int


class Waste(Struct, frozen=True, kw_only=True):
    """Work that was done twice. It is part of all totals.

    It consists of steps (and the evaluations and checkpoints between them) that were repeated because the run had got
    further than the checkpoint that was loaded, and of start-ups after the first.
    """

    redone_steps: int
    redone_energy_j: float
    redone_operational_kg: float | None
    restart_energy_j: float
    restart_operational_kg: float | None


class Reserved(Struct, frozen=True, kw_only=True):
    """Device time that is charged with embodied carbon.

    `before_first_record_s` of it, in device-seconds, was covered by no record: it lies between allocation and the first
    record, or between attempts of one allocation. Of that, `modelled_idle_s` is in the energy of the run, modelled as
    idle with the profiles that `idle_model` names; the energy of the rest is unknown and in no total. `devices_from`
    says how the devices were counted. Time of devices that other runs used at the same time is shared as their energy
    is: `shared_s` is charged to the others and is in no other figure. `whole_device_s` and `whole_host_s` are the times
    for which devices and hosts were reserved before a run that has a part of them is charged that part.
    """

    device_s: float
    before_first_record_s: float
    host_s: float
    devices_from: str
    shared_s: float = 0.0
    whole_device_s: float = 0.0
    whole_host_s: float = 0.0
    modelled_idle_s: float = 0.0
    idle_model: str = ""

    @property
    def unknown_s(self) -> float:
        """Return the reserved device time, s, whose energy was neither recorded nor modelled."""
        return max(0.0, self.before_first_record_s - self.modelled_idle_s)


class Allocation(Struct, frozen=True, kw_only=True):
    """What the scheduler gave to one job or pod: a number of GPUs for a time, and the scheduler's word for how that
    ended.

    With `sized` a slice of a GPU counts as its share. Otherwise everything that the scheduler calls a GPU counts as
    one. `notes` name what is not a whole GPU of its own.
    """

    name: str
    state: str
    gpus: float
    duration_s: float
    sized: bool = False
    notes: list[str] = []


class Reconciliation(Struct, frozen=True, kw_only=True):
    """The scheduler's account beside that of the ledgers. Nothing of it is in the totals.

    `unobserved_device_s` is allocated time that no ledger observed. It is charged with idle power (`power_w`, a device
    with its part of host and network) and, for the `uncharged_device_s` whose manufacture is not in the totals, with
    embodied carbon. `footprint` is None where it cannot be modelled, and `not_modelled_reason` says why.
    """

    source: str
    allocations: list[Allocation]
    allocated_device_s: float
    observed_device_s: float
    unobserved_device_s: float
    uncharged_device_s: float
    power_w: Figure | None
    footprint: Footprint | None
    not_modelled_reason: str | None
    assumptions: list[Assumption]


class MonthEnergy(Struct, frozen=True, kw_only=True):
    """The energy of a run in one calendar month, UTC: of the machines, and of the facility with them, and the
    operational carbon, both None without factors. A window counts in the month in which it starts.

    `reserved_device_s` is the device time, s, that the run held in the month, recorded or not.
    """

    year: int
    month: int
    energy_j: float
    facility_j: float | None
    operational_kg: float | None
    reserved_device_s: float = 0.0


class StepComparison(Struct, frozen=True, kw_only=True):
    """Measured against predicted values on stretches between step boundaries of one node.

    The measured range is the error at the boundaries, and the predicted one the model's p10 to p90. Energies are those
    of one step on the GPUs of that node. `basis` says what the comparison rests on: spans that are long enough; short
    ones where a run has no other; or training windows, which do not end at step boundaries (`spans` is then 0). The
    error of the latter two is wider.
    """

    steps: int
    spans: int
    node: int
    measured_step_time_s: Figure
    predicted_step_time_s: Figure | None
    measured_gpu_energy_per_step_j: float | None
    predicted_gpu_energy_per_step_j: float | None
    basis: Literal["spans", "short spans", "windows"] = "spans"


class ErrorPart(Struct, frozen=True, kw_only=True):
    """One cause of the forecast's error: the factor by which it moved operational carbon, and its share in kg."""

    cause: Cause
    factor: float
    carbon_kg: float
    explanation: str


class ForecastComparison(Struct, frozen=True, kw_only=True):
    """The forecast from before launch against the actual run.

    The factors of `parts` multiply to actual over forecast operational carbon. Their `carbon_kg` and `embodied_kg` add
    up to actual minus forecast total. The parts are empty, and `no_parts_reason` says why, where a split is not
    possible.
    """

    created_unix_s: float
    plugin_version: str
    run_time_s: Figure
    total_steps: int
    device_hours: Figure
    footprint: Footprint
    step_time_s: Figure
    parts: list[ErrorPart]
    embodied_kg: float | None
    no_parts_reason: str | None


class Device(Struct, frozen=True, kw_only=True):
    """One metered device with its energy over all attempts. `notes` are the messages of its meter."""

    identity: DeviceIdentity
    hostname: str
    energy: Energy
    mean_power_w: float | None
    notes: list[str]


class EventNote(Struct, frozen=True, kw_only=True):
    """An event of a ledger, with the node and attempt that recorded it."""

    node: int
    attempt: int
    at_unix_s: float
    kind: str
    message: str
    data: dict[str, Any]


class StepSeries(Struct, frozen=True, kw_only=True):
    """The step time over the run, downsampled to the mean of the steps in each bin. `at_s` is the middle of the bin,
    from the start."""

    at_s: list[float]
    measured_s: list[float]
    predicted_s: list[float | None]


class Series(Struct, frozen=True, kw_only=True):
    """The run over time, downsampled to equal bins of `width_s` from the start on.

    It holds the energy by rung (J), the mean power of a few single GPUs while they were read (W, None where they were
    not), the operational carbon (kg), and the energy of the IT rungs by phase (J).
    """

    width_s: float
    rung_energy_j: dict[Rung, list[float]]
    gpu_power_w: dict[str, list[float | None]]
    operational_kg: list[float]
    steps: StepSeries
    phase_energy_j: dict[Phase, list[float]] = {}


class Verification(Struct, frozen=True, kw_only=True):
    """Whether the ledgers can be believed, and every reason for and against.

    `state` says how far they can be believed. `ok` means only that nothing contradicts them. `missing` are ends, files
    and nodes that should be there; honest runs that were killed lack them too.
    """

    ok: bool
    problems: list[str]
    files: list[FileCheck]
    anchors: list[AnchorCheck]
    state: VerificationState = "unsealed"
    missing: list[str] = []


class AuditSummary(Struct, frozen=True, kw_only=True):
    """Everything that an audit found.

    `energy` is the IT energy: all rungs but the facility, which `footprint` derives by PUE. `footprint` is None without
    factors, and `no_carbon_reason` says why. `drivers` are the uncertain inputs, and the one that moves the total most
    comes first. `budget` is what the run has used beside each limit that it was given. `unobserved` is the modelled
    idle energy, by rung, of reserved device time that no record covers; `by_rung` and `by_phase` hold it too.
    """

    version: int
    plugin_version: str
    created_unix_s: float
    run: Run
    period: Period
    coverage: Coverage
    progress: Progress
    energy: Energy
    by_rung: dict[Rung, Energy]
    by_phase: dict[Phase, Energy]
    waste: Waste
    reserved: Reserved
    footprint: Footprint | None
    factors: Factors | None
    drivers: list[Driver]
    no_carbon_reason: str | None
    steps: StepComparison | None
    forecast: ForecastComparison | None
    devices: list[Device]
    events: list[EventNote]
    event_counts: dict[str, int]
    assumptions: list[Assumption]
    series: Series
    verification: Verification
    work: Work | None = None
    sampling: Sampling | None = None
    reconciliation: Reconciliation | None = None
    ladder: list[BoundaryRung] = []
    budget: list[BudgetLine] = []
    months: list[MonthEnergy] = []
    unobserved: dict[Rung, Energy] = {}
