"""Define the result of an audit: the content of `report.json`, whose parts are in `audit.findings`. `audit.summary`
computes it.

Energies are in J, times in s (Unix seconds for moments), and carbon in kgCO2e. `energy_j` fields are exact sums of the
windows. The range (`low_j`, `high_j`) of several devices together is that of `footprint`, which is sampled; that of
one device adds up its meter's own p10 and p90, whose errors are systematic.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.audit.findings.comparison import ForecastComparison, StepComparison
from carbon_plugin.audit.findings.energy import BoundaryRung, Energy, MonthEnergy, Waste
from carbon_plugin.audit.findings.reserved import Reconciliation, Reserved
from carbon_plugin.audit.findings.run import Coverage, Period, Progress, Run, Work
from carbon_plugin.audit.findings.series import Series
from carbon_plugin.footprint.drivers import Driver
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.records import Phase
from carbon_plugin.ledger.verification.file_check import FileCheck
from carbon_plugin.ledger.verification.verify import AnchorCheck, VerificationState
from carbon_plugin.spec.budget import BudgetLine
from carbon_plugin.spec.metered import DeviceIdentity, Rung
from carbon_plugin.spec.numbers.figure import Assumption

AUDIT_VERSION = 1


class Sampling(Struct, frozen=True, kw_only=True):
    """One instance says how the ranges of the footprint were sampled. The same number of draws and the same seed give
    the same ranges.
    """

    draws: int
    seed: int


class Device(Struct, frozen=True, kw_only=True):
    """One metered device with its energy over all attempts. `notes` are the messages of its meter. For `shared_s` of
    its recorded time, a GPU is charged to other runs, which used it at the same time.
    """

    identity: DeviceIdentity
    hostname: str
    energy: Energy
    mean_power_w: float | None
    notes: list[str]
    shared_s: float = 0.0


class EventNote(Struct, frozen=True, kw_only=True):
    """An event of a ledger, with the node and attempt that recorded it."""

    node: int
    attempt: int
    at_unix_s: float
    kind: str
    message: str
    data: dict[str, Any]


class Verification(Struct, frozen=True, kw_only=True):
    """One instance says whether the ledgers can be believed, with every reason for and against.

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
    """One summary is the complete result of an audit.

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
