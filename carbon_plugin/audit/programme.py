"""Add up the whole footprint of a released model: all runs of its programme, each once, by role.

Development, failures and evaluation can be most of it (Olmo 3 reports 82 % of its compute), so a single run never
stands for a model.

Carbon of several runs is the sum of their means. The central value of a run is a median, and medians of skewed
quantities do not add up to the median of their sum: a sum of them is too low. Runs that count lifecycle and direct
emissions of their grids are turned into one of the two before they are added.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from msgspec import Struct

import carbon_plugin
from carbon_plugin.audit.counted_twice import twice_counted
from carbon_plugin.audit.findings.energy import Energy
from carbon_plugin.audit.programme_runs import AuditedRun, distinct_runs, summaries_of
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.run_carbon import RunCarbon, carbon_in, common_scope
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.values import Basis, EmissionScope
from carbon_plugin.ledger.verification.verify import VerificationState
from carbon_plugin.spec.loading import Role
from carbon_plugin.spec.numbers.amounts import either, percent, plural, verb
from carbon_plugin.spec.numbers.figure import Figure, Kind
from carbon_plugin.spec.numbers.range import Range

ROLES: tuple[str, ...] = get_args(Role)
FINAL = "final"
UNSTATED = "unstated"
SUM_OF_CENTRAL_VALUES = "carbon is the sum of the central values that the runs' own audits state"
"""What the carbon of several runs is beside the numbers of their own audits."""


class ProgrammeRun(Struct, frozen=True, kw_only=True):
    """One run of a programme, or the part of a run that continued in another directory.

    `energy_j` is that of the machines, or None where none of it was measured or modelled. `facility_j` is that of the
    facility with the machines, or None where the run stated no site. Carbon is on the basis of the programme, and None
    where it is not known; `total_kg` is None where the operational or the embodied carbon is. `stated_operational_kg`
    is that of the run's own audit, whose basis is `basis`. `turned` says how the carbon was converted to the basis of
    the programme, if it was.
    """

    run_id: str
    name: str
    directory: str
    role: str
    steps: int
    tokens: int | None
    device_s: float
    energy_j: Figure | None
    facility_j: Figure | None
    operational_kg: Figure | None
    embodied_kg: Figure | None
    total_kg: Figure | None
    stated_operational_kg: Figure | None
    basis: Basis | None
    ledger_state: VerificationState
    turned: str | None = None

    @property
    def counted_kg(self) -> Figure | None:
        """Return the known carbon: the total, or the operational carbon where only that is known."""
        return self.operational_kg if self.total_kg is None else self.total_kg


class RoleTotal(Struct, frozen=True, kw_only=True):
    """The sums over all runs of one role, made like those of `Programme`. `energy_j` is that of the machines.

    `share` is the role's share of the programme's carbon, or of its energy where the carbon of some run is unknown.
    """

    role: str
    runs: int
    device_s: float
    energy_j: Figure
    operational_kg: Figure | None
    embodied_kg: Figure | None
    total_kg: Figure | None
    share: float


class Programme(Struct, frozen=True, kw_only=True):
    """The sums over all runs of a programme. Central values, p10 and p90 are each the sum of those of the runs' own
    audits, as if all errors were fully correlated: only then do quantiles add up.

    `energy_j` is that of the machines, and `facility_j` that of the facility with them, None where a run stated no
    site. `counts` says which emissions of the grids count ("lifecycle" or "direct"), None where no operational carbon
    is summed up. `development_share` is the share of all roles but "final". Operational carbon is None, and a warning
    says why, where a run has none; the manufacture of hardware does not depend on a grid and always sums over the runs
    that know it. The total holds the operational carbon alone of runs that do not know it, which a warning names, and
    is None where no run knows it. The same holds for the total of a role.
    """

    name: str
    plugin_version: str
    runs: list[ProgrammeRun]
    roles: list[RoleTotal]
    device_s: float
    energy_j: Figure
    facility_j: Figure | None
    operational_kg: Figure | None
    embodied_kg: Figure | None
    total_kg: Figure | None
    counts: EmissionScope | None
    development_share: float
    missing_roles: list[str]
    warnings: list[str]

    @property
    def shares_of(self) -> str:
        """Return of what the shares of the roles are, in words."""
        if self.total_kg is not None:
            return "carbon"
        return "energy of the machines" if self.operational_kg is None else "operational carbon"


def names_in_words(names: Iterable[str]) -> str:
    """Return the names of runs with commas between them, each once, with the number of runs that have the same."""
    counts = Counter(names)
    return ", ".join(name if count == 1 else f"{name} ({count} runs)" for name, count in counts.items())


def read_programme(
    places: Iterable[str | os.PathLike[str]], name: str | None = None, counts: EmissionScope | None = None
) -> Programme:
    """Add up the runs of one programme below some directories.

    `name` is needed where they hold runs of several. A run that lies in several directories (a copy) counts once.
    `counts` says which emissions of the grids count; by default those that all runs count, and lifecycle emissions
    where they differ. Raises `ReportError` for no or several programmes, `LedgerError` for ledgers that cannot be read.
    """
    return add_up(summaries_of(places), name, counts)


def add_up(
    audited: Sequence[tuple[Path, AuditSummary]], name: str | None = None, counts: EmissionScope | None = None
) -> Programme:
    """Return the same as `read_programme`, from audits that exist already."""
    name = name or _only_programme([summary for _, summary in audited])
    others = sum(summary.run.programme != name for _, summary in audited)
    members = [AuditedRun(*pair) for pair in audited if pair[1].run.programme == name]
    if not members:
        raise ReportError(f"programme {name!r}: none of the {plural(len(audited), 'run')} belongs to it")
    distinct, copies = distinct_runs(members)
    summaries = [one.summary for one in distinct]
    scope = counts or common_scope(summaries)
    carbon = [carbon_in(summary, scope) for summary in summaries]
    runs = [_run(one, its) for one, its in zip(distinct, carbon, strict=True)]
    missing = [role for role in ROLES if all(run.role != role for run in runs)]
    warnings = [*_warnings(runs, missing, others), *twice_counted(summaries), *copies, *_ways(runs, carbon, scope)]
    reason = _no_carbon(runs, carbon)
    if reason is not None:
        warnings.append(reason)
    roles = _role_totals(runs, with_carbon=reason is None)
    embodied = [run.embodied_kg for run in runs if run.embodied_kg is not None]
    facility = [run.facility_j for run in runs if run.energy_j is not None]
    return Programme(
        name=name,
        plugin_version=carbon_plugin.__version__,
        runs=runs,
        roles=roles,
        device_s=_device_s(runs),
        energy_j=_energy_of(runs),
        facility_j=None if any(one is None for one in facility) else _sum(facility, "J"),
        operational_kg=_sum([run.operational_kg for run in runs]) if reason is None else None,
        embodied_kg=_sum(embodied) if embodied else None,
        total_kg=_sum([run.counted_kg for run in runs]) if reason is None and embodied else None,
        counts=scope if reason is None else None,
        development_share=1.0 - sum(total.share for total in roles if total.role == FINAL),
        missing_roles=missing,
        warnings=warnings,
    )


def _only_programme(summaries: Sequence[AuditSummary]) -> str:
    names = sorted({summary.run.programme for summary in summaries if summary.run.programme})
    if len(names) == 1:
        return names[0]
    if not names:
        raise ReportError(
            f"none of {plural(len(summaries), 'run')} states a programme; start runs with programme and role, in "
            "the spec or in the monitor's arguments"
        )
    raise ReportError(f"the runs belong to several programmes ({', '.join(names)}), expected one: name it")


def _run(one: AuditedRun, carbon: RunCarbon) -> ProgrammeRun:
    summary, footprint = one.summary, one.summary.footprint
    return ProgrammeRun(
        run_id=summary.run.run_id,
        name=summary.run.name,
        directory=str(one.directory),
        role=summary.run.role or UNSTATED,
        steps=summary.progress.steps,
        tokens=summary.progress.tokens,
        device_s=summary.reserved.device_s,
        energy_j=_machines(summary.energy),
        facility_j=footprint.energy_j["facility"] if footprint else None,
        operational_kg=carbon.operational,
        embodied_kg=carbon.embodied,
        total_kg=carbon.total,
        stated_operational_kg=footprint.operational_kg if footprint else None,
        basis=summary.factors.intensity.basis if summary.factors else None,
        ledger_state=summary.verification.state,
        turned=carbon.turned,
    )


def _machines(energy: Energy) -> Figure | None:
    """Return the energy of the machines of a run, None where none of it was measured or modelled. It is measured where
    meters read all of it."""
    if not energy.is_known:
        return None
    kind: Kind = "measured" if energy.measured_j >= energy.energy_j else "modelled"
    share = percent(energy.measured_j / energy.energy_j if energy.energy_j else 1.0, 0)
    return Figure.of(energy.range, "J", kind, f"sum of all windows, {share} of it measured")


def _no_carbon(runs: Sequence[ProgrammeRun], carbon: Sequence[RunCarbon]) -> str | None:
    """Return why the operational carbon of these runs cannot be summed up, or None if it can."""
    reasons = [f"{run.name} {its.missing}" for run, its in zip(runs, carbon, strict=True) if its.missing is not None]
    return f"no operational carbon is summed up: {'; '.join(reasons)}" if reasons else None


def _ways(runs: Sequence[ProgrammeRun], carbon: Sequence[RunCarbon], scope: EmissionScope) -> list[str]:
    """Return a sentence for each way in which the carbon of runs was converted to one basis."""
    found = []
    turned = [run.name for run, its in zip(runs, carbon, strict=True) if its.turned is not None]
    if turned:
        found.append(
            f"the grids of the runs are counted on different bases; all operational carbon is of {scope} emissions, "
            f"into which that of {names_in_words(turned)} was turned"
        )
    boundaries = {run.basis.boundary: None for run in runs if run.basis is not None}
    if len(boundaries) > 1:
        found.append(
            "some grid intensities are of the electricity that a zone generates and some of what it consumes, with its "
            "imports; they are added as they are"
        )
    if any(its.counted is not None for its in carbon):
        found.append(SUM_OF_CENTRAL_VALUES)
    return found


def _role_totals(runs: Sequence[ProgrammeRun], *, with_carbon: bool) -> list[RoleTotal]:
    """Return one total for each role: first the roles of `ROLES` in their order, then any other."""

    def measure(run: ProgrammeRun) -> float:
        figure = run.counted_kg if with_carbon else run.energy_j
        return 0.0 if figure is None else figure.value

    whole = math.fsum(map(measure, runs))
    totals = []
    for role in sorted({run.role for run in runs}, key=lambda role: (_rank(role), role)):
        of_role = [run for run in runs if run.role == role]
        embodied = [run.embodied_kg for run in of_role if run.embodied_kg is not None] if with_carbon else []
        totals.append(
            RoleTotal(
                role=role,
                runs=len(of_role),
                device_s=_device_s(of_role),
                energy_j=_energy_of(of_role),
                operational_kg=_sum([run.operational_kg for run in of_role]) if with_carbon else None,
                embodied_kg=_sum(embodied) if embodied else None,
                total_kg=_sum([run.counted_kg for run in of_role]) if embodied else None,
                share=sum(map(measure, of_role)) / whole if whole else 0.0,
            )
        )
    return totals


def _device_s(runs: Sequence[ProgrammeRun]) -> float:
    """Return the device time of the runs whose energy is known, because all other sums are of these runs too."""
    return sum(run.device_s for run in runs if run.energy_j is not None)


def _energy_of(runs: Sequence[ProgrammeRun]) -> Figure:
    """Return the energy of the machines of some runs, J; runs of which none is known add nothing."""
    return _sum([run.energy_j for run in runs], "J")


def _rank(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _sum(figures: Sequence[Figure | None], unit: str = "kgCO2e") -> Figure:
    """Return the sum of those figures that are known. It is measured where all of them are."""
    known = [figure for figure in figures if figure is not None]
    return Figure.of(
        Range.total(figure.range for figure in known),
        unit,
        "measured" if known and all(figure.kind == "measured" for figure in known) else "modelled",
        f"sum of the central values of {plural(len(known), 'run')}; their ranges added as if all errors were one",
    )


def _warnings(runs: Sequence[ProgrammeRun], missing: Sequence[str], others: int) -> list[str]:
    found = []
    if missing:
        found.append(
            f"no run here has the role {either(missing)}; what a model took includes such runs, and if there were "
            "any, they are in no sum"
        )
    unknown = [run.name for run in runs if run.role not in ROLES]
    if unknown:
        states = verb(len(unknown), "states no role, or one", "state no role, or ones")
        found.append(f"{names_in_words(unknown)} {states} beside {', '.join(ROLES)}; start further runs with role=")
    unread = [run.name for run in runs if run.energy_j is None]
    if unread:
        found.append(
            f"nothing of their energy was read or modelled, so that they are in no sum: {names_in_words(unread)}"
        )
    without = [run.name for run in runs if run.operational_kg is not None and run.embodied_kg is None]
    if without:
        found.append(f"the manufacture of their hardware is unknown and in no sum: {names_in_words(without)}")
    for state, words in (("contradicted", "ledgers that do not verify"), ("incomplete", "ledgers that are incomplete")):
        if names := [run.name for run in runs if run.ledger_state == state]:
            found.append(f"{words}: {names_in_words(names)}")
    if others:
        found.append(f"{plural(others, 'run')} of other programmes, or of none, {verb(others, 'is', 'are')} left out")
    return found
