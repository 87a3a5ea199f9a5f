"""Add up the whole footprint of a released model: all runs of its programme, each once, by role.

Development, failures and evaluation can be most of it (Olmo 3 reports 82 % of its compute), so a single run never
stands for a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from msgspec import Struct

import carbon_plugin
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import LedgerError, ReportError
from carbon_plugin.footprint.values import Basis
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.verification.verify import VerificationState
from carbon_plugin.spec.amounts import plural, verb
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.loading import Role
from carbon_plugin.spec.range import Range

ROLES: tuple[str, ...] = get_args(Role)
FINAL = "final"
UNSTATED = "unstated"


class ProgrammeRun(Struct, frozen=True, kw_only=True):
    """One run of a programme, or one part of a run that went on in another directory. Carbon is None where the run
    stated no site."""

    run_id: str
    name: str
    directory: str
    role: str
    steps: int
    tokens: int
    device_s: float
    energy_j: float
    operational_kg: float | None
    embodied_kg: float | None
    total_kg: float | None
    basis: Basis | None
    ledger_state: VerificationState


class RoleTotal(Struct, frozen=True, kw_only=True):
    """The sums over all runs of one role.

    `share` is their part of the programme's carbon, or of its energy where the carbon of some run is unknown.
    """

    role: str
    runs: int
    device_s: float
    energy_j: float
    operational_kg: float | None
    embodied_kg: float | None
    total_kg: float | None
    share: float


class Programme(Struct, frozen=True, kw_only=True):
    """The sums over all runs of a programme. Ranges add up the runs' own p10 and p90, as if all errors were fully
    correlated.

    `development_share` is the share of all roles but "final". Carbon is None, and a warning says why, where a run has
    none or the runs count it on different bases.
    """

    name: str
    plugin_version: str
    runs: list[ProgrammeRun]
    roles: list[RoleTotal]
    device_s: float
    energy_j: float
    operational_kg: Figure | None
    embodied_kg: Figure | None
    total_kg: Figure | None
    development_share: float
    missing_roles: list[str]
    warnings: list[str]


class _Audited(Struct, frozen=True):
    directory: Path
    summary: AuditSummary


def find_runs(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the run directories among and below some directories, sorted within each of these, and each once.

    Raises `LedgerError` for a directory that holds none.
    """
    found: dict[Path, None] = {}
    for place in places:
        root = Path(place).resolve()
        below = {root} if ledger_files(root) else {path.parent for path in root.rglob("node-*.attempt-*.jsonl")}
        if not below:
            raise LedgerError(f"{os.fspath(place)}: no run directory here or below (no file node-*.attempt-*.jsonl)")
        found |= dict.fromkeys(sorted(below))
    return list(found)


def read_programme(places: Iterable[str | os.PathLike[str]], name: str | None = None) -> Programme:
    """Add up the runs of one programme below some directories.

    `name` is needed where they hold runs of several. A run that lies in several directories (a copy) counts once.
    Raises `ReportError` for no or several programmes, `LedgerError` for ledgers that cannot be read.
    """
    return add_up(summaries_of(places), name)


def summaries_of(places: Iterable[str | os.PathLike[str]]) -> list[tuple[Path, AuditSummary]]:
    """Return every run directory below some directories with its audit. Raises `LedgerError`."""
    return [(directory, summarise(directory)) for directory in find_runs(places)]


def add_up(audited: Sequence[tuple[Path, AuditSummary]], name: str | None = None) -> Programme:
    """Return the same as `read_programme`, from audits that were made already."""
    name = name or _only_programme([summary for _, summary in audited])
    others = sum(summary.run.programme != name for _, summary in audited)
    members = [_Audited(*pair) for pair in audited if pair[1].run.programme == name]
    if not members:
        raise ReportError(f"programme {name!r}: none of the {plural(len(audited), 'run')} belongs to it")
    distinct, copies = _distinct(members)
    runs = [_run(one) for one in distinct]
    missing = [role for role in ROLES if all(run.role != role for run in runs)]
    warnings = [*_warnings(runs, missing, others), *copies]
    reason = _no_carbon(runs)
    if reason is not None:
        warnings.append(reason)
    roles = _role_totals(runs, with_carbon=reason is None)
    return Programme(
        name=name,
        plugin_version=carbon_plugin.__version__,
        runs=runs,
        roles=roles,
        device_s=sum(run.device_s for run in runs),
        energy_j=sum(run.energy_j for run in runs),
        operational_kg=_sum("operational_kg", distinct) if reason is None else None,
        embodied_kg=_sum("embodied_kg", distinct) if reason is None else None,
        total_kg=_sum("total_kg", distinct) if reason is None else None,
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


def _distinct(members: Sequence[_Audited]) -> tuple[list[_Audited], list[str]]:
    """Return each part of each run once, and a warning for each copy that was left out.

    Directories with the same run id and overlapping times are copies, of which the one with the most records counts.
    Those of different times are parts of a run that went on elsewhere, and all count.
    """
    kept: list[_Audited] = []
    copies: list[str] = []
    for one in sorted(members, key=_records, reverse=True):
        same = next((other for other in kept if _is_copy(one, other)), None)
        if same is None:
            kept.append(one)
        else:
            run_id = one.summary.run.run_id
            copies.append(f"{one.directory} holds run {run_id} again, which is counted once, from {same.directory}")
    return sorted(kept, key=lambda one: one.directory), copies


def _is_copy(one: _Audited, other: _Audited) -> bool:
    mine, theirs = one.summary.period, other.summary.period
    same_time = mine.start_unix_s < theirs.end_unix_s and theirs.start_unix_s < mine.end_unix_s
    return one.summary.run.run_id == other.summary.run.run_id and same_time


def _records(one: _Audited) -> int:
    return sum(check.records for check in one.summary.verification.files)


def _run(one: _Audited) -> ProgrammeRun:
    summary, footprint = one.summary, one.summary.footprint
    return ProgrammeRun(
        run_id=summary.run.run_id,
        name=summary.run.name,
        directory=str(one.directory),
        role=summary.run.role or UNSTATED,
        steps=summary.progress.steps,
        tokens=summary.progress.tokens,
        device_s=summary.reserved.device_s,
        energy_j=summary.energy.energy_j,
        operational_kg=footprint.operational_kg.value if footprint else None,
        embodied_kg=footprint.embodied_kg.value if footprint and footprint.embodied_parts_kg else None,
        total_kg=footprint.total_kg.value if footprint else None,
        basis=summary.factors.intensity.basis if summary.factors else None,
        ledger_state=summary.verification.state,
    )


def _no_carbon(runs: Sequence[ProgrammeRun]) -> str | None:
    """Return why the carbon of these runs has no sum, or None if it has one."""
    without = [run.name for run in runs if run.total_kg is None]
    if without:
        return f"no carbon is summed up: {', '.join(without)} stated no site"
    if len({run.basis for run in runs}) > 1:
        words = sorted({"not stated" if run.basis is None else _words(run.basis) for run in runs})
        return f"no carbon is summed up: the runs count it on different bases ({'; '.join(words)})"
    return None


def _words(basis: Basis) -> str:
    return f"{basis.scope} {basis.signal} {basis.boundary}, {basis.method}-based"


def _role_totals(runs: Sequence[ProgrammeRun], *, with_carbon: bool) -> list[RoleTotal]:
    """Return one total for each role: those of `ROLES` in their order, then any other."""
    measure = "total_kg" if with_carbon else "energy_j"
    whole = sum(getattr(run, measure) for run in runs)
    totals = []
    for role in sorted({run.role for run in runs}, key=lambda role: (_rank(role), role)):
        of_role = [run for run in runs if run.role == role]
        totals.append(
            RoleTotal(
                role=role,
                runs=len(of_role),
                device_s=sum(run.device_s for run in of_role),
                energy_j=sum(run.energy_j for run in of_role),
                operational_kg=sum(run.operational_kg or 0.0 for run in of_role) if with_carbon else None,
                embodied_kg=sum(run.embodied_kg or 0.0 for run in of_role) if with_carbon else None,
                total_kg=sum(run.total_kg or 0.0 for run in of_role) if with_carbon else None,
                share=sum(getattr(run, measure) for run in of_role) / whole if whole else 0.0,
            )
        )
    return totals


def _rank(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _sum(field: str, members: Sequence[_Audited]) -> Figure:
    figures: list[Figure] = [getattr(one.summary.footprint, field) for one in members]
    return Figure.of(
        Range.total(figure.range for figure in figures),
        "kgCO2e",
        "modelled",
        f"sum over {plural(len(figures), 'run')}; their ranges added as if all errors were one",
    )


def _warnings(runs: Sequence[ProgrammeRun], missing: Sequence[str], others: int) -> list[str]:
    found = []
    if missing:
        found.append(
            f"no run of role {', '.join(missing)}: what a model took includes these; a total without them is of the "
            "runs that are here only"
        )
    unknown = [run.name for run in runs if run.role not in ROLES]
    if unknown:
        found.append(f"runs without a role, or with one that is none of {', '.join(ROLES)}: {', '.join(unknown)}")
    without = [run.name for run in runs if run.total_kg is not None and run.embodied_kg is None]
    if without:
        found.append(f"the manufacture of their hardware is unknown and in no sum: {', '.join(without)}")
    for state, words in (("contradicted", "ledgers that do not verify"), ("incomplete", "ledgers that are incomplete")):
        if names := [run.name for run in runs if run.ledger_state == state]:
            found.append(f"{words}: {', '.join(names)}")
    if others:
        found.append(f"{plural(others, 'run')} of other programmes, or of none, {verb(others, 'is', 'are')} left out")
    return found
