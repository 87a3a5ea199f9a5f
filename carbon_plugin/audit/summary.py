"""Audit a run directory: read its ledgers once, add them up, and return all results."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import chain

import msgspec
from msgspec.structs import replace

import carbon_plugin
from carbon_plugin.audit.findings.energy import Waste
from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.findings.run import Coverage, Period, Run
from carbon_plugin.audit.result import AUDIT_VERSION, AuditSummary, Device, Verification
from carbon_plugin.audit.tally.account.accounting import (
    SAMPLING,
    Accounted,
    RunEnergy,
    account_run,
    run_energy,
    unobserved_sums,
)
from carbon_plugin.audit.tally.account.budget import budget_lines, stated_price
from carbon_plugin.audit.tally.account.forecast_error import Actual, compare_forecast
from carbon_plugin.audit.tally.account.ladder import boundary_ladder
from carbon_plugin.audit.tally.account.overview import (
    coverage_of,
    leading_manifest,
    period_of,
    progress_of,
    work_of,
)
from carbon_plugin.audit.tally.account.reservations import reserved_by_month, reserved_time, shared_by_device
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.documents import read_forecast, read_prediction
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.audit.tally.parts import pass_over
from carbon_plugin.audit.tally.sums.energy_sums import energy_of
from carbon_plugin.audit.tally.sums.spans import comparison_of_windows
from carbon_plugin.audit.tally.timeline.calendar import months_of
from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.ledger.held.account_inputs import stated_factors
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.records import Manifest, RunIdentity
from carbon_plugin.ledger.verification.verify import RunCheck, checked_anchor, combine_checks, files_by_start
from carbon_plugin.spec.budget import BudgetLine
from carbon_plugin.spec.numbers.figure import Assumption

_NOTHING_READ = "its energy is unknown, because no meter was read and nothing was modelled"


def summarise(
    run_dir: str | os.PathLike[str], anchors: Sequence[str] = (), processes: int | None = None
) -> AuditSummary:
    """Return the audit of all nodes and attempts in a run directory, made in one pass over each ledger.

    `anchors` are heads that were logged elsewhere, 32 hex digits each. `processes` share the work; by default their
    number follows from the size of the ledgers. Ledgers that are torn, killed or tampered with are still added up, and
    `verification` says so. Raises `LedgerError` if the directory holds no ledger, if no ledger names who wrote it, or
    if one is of an unknown version.
    """
    wanted = [checked_anchor(anchor) for anchor in anchors]
    paths = files_by_start(run_dir)
    identity = read_identity(run_dir)
    passed = pass_over(paths, identity.run_id if identity else None, wanted, processes)
    return _conclude(passed.collected, identity, combine_checks(run_dir, passed.ledgers, wanted))


def _conclude(collected: RunCollector, identity: RunIdentity | None, checks: RunCheck) -> AuditSummary:
    manifest = leading_manifest(collected.files)
    reserved, unobserved = reserved_time(collected.files)
    recorded_j = {rung: energy_of(sums).energy_j for rung, sums in collected.by_rung().items()}
    used = run_energy(collected, unobserved)
    stated = stated_factors(manifest.factors)
    idle_factors = used.idle_factors(stated)
    collected.unobserved = unobserved_sums(unobserved, idle_factors)  # from here on the sums hold this energy too
    energy = energy_of(chain.from_iterable(collected.by_phase().values()))
    outcome = _account(used, collected.files, reserved, manifest) if energy.is_known else _NOTHING_READ
    accounted = None if isinstance(outcome, str) else outcome
    footprint, factors = (accounted.footprint, accounted.factors) if accounted else (None, None)
    sampled = {rung: one for rung, one in footprint.energy_j.items() if rung != "facility"} if footprint else {}
    energy = energy.sampled_as(sampled.get("it"))
    by_rung = {rung: energy_of(sums).sampled_as(sampled.get(rung)) for rung, sums in collected.by_rung().items()}
    prediction = read_prediction(manifest.prediction)
    steps = collected.spans.comparison(prediction) or comparison_of_windows(
        collected.counted, manifest.node, prediction
    )
    period, progress, coverage = period_of(collected), progress_of(collected.files, manifest), coverage_of(collected)
    actual = Actual(
        steps=progress.steps,
        step_time_s=steps.measured_step_time_s.value if steps else None,
        active_s=period.active_s,
        energy_j={rung: joules for rung, joules in recorded_j.items() if rung != "facility"},
        waiting_j=sum(used.energy.value for used in unobserved.used.values()),
        nodes_share=coverage.nodes_seen / coverage.nodes,
        world_size=manifest.world_size,
    )
    in_force = (stated.intensity.figure.value, stated.pue.value) if stated else None
    return AuditSummary(
        version=AUDIT_VERSION,
        plugin_version=carbon_plugin.__version__,
        created_unix_s=time.time(),
        run=_run(identity, manifest),
        period=period,
        coverage=coverage,
        progress=progress,
        energy=energy,
        by_rung=by_rung,
        by_phase={phase: energy_of(sums).sampled_as(sampled.get("it")) for phase, sums in collected.by_phase().items()},
        unobserved={rung: energy_of([sums]) for (rung, _), sums in collected.unobserved.items()},
        waste=_waste(collected, period),
        reserved=reserved,
        footprint=footprint,
        factors=factors,
        drivers=accounted.drivers if accounted else [],
        no_carbon_reason=outcome if isinstance(outcome, str) else None,
        steps=steps,
        forecast=compare_forecast(read_forecast(manifest.forecast), prediction, footprint, actual),
        devices=_devices(collected),
        events=sorted(collected.events, key=lambda event: event.at_unix_s),
        event_counts=dict(sorted(collected.event_counts.items())),
        assumptions=_assumptions(collected.files),
        series=collected.series(period.wall_s),
        verification=_verification(checks, coverage),
        work=work_of(collected, manifest, prediction),
        sampling=SAMPLING if accounted else None,
        ladder=boundary_ladder(by_rung, [seen.identity for seen in collected.devices.values()], factors),
        budget=_budget(manifest, energy.energy_j, footprint, reserved.device_s),
        months=months_of(collected.calendar, reserved_by_month(collected.files), in_force, idle_factors),
    )


def _budget(manifest: Manifest, energy_j: float, footprint: Footprint | None, device_s: float) -> list[BudgetLine]:
    """Return each limit of the run's budget beside what was used, at the price that budget or plan states."""
    price = stated_price(manifest.budget, manifest.forecast)
    return budget_lines(manifest.budget, energy_j=energy_j, footprint=footprint, device_s=device_s, price=price)


def _waste(collected: RunCollector, period: Period) -> Waste:
    """Return the steps that were done twice with their energy, and the energy of restarts."""
    redone, restarts = energy_of(collected.redone.values()), energy_of(collected.restarts.values())
    return Waste(
        redone_steps=sum(attempt.redone_steps for attempt in period.attempts),
        redone_energy_j=redone.energy_j,
        redone_operational_kg=redone.operational_kg,
        restart_energy_j=restarts.energy_j,
        restart_operational_kg=restarts.operational_kg,
    )


def _verification(checks: RunCheck, coverage: Coverage) -> Verification:
    """Return the verdict on the ledgers, in which GPUs without records count as missing."""
    checks = replace(checks, missing=[*coverage.missing, *checks.missing])
    return Verification(
        ok=checks.ok,
        problems=checks.all_problems,
        files=checks.files,
        anchors=checks.anchors,
        state=checks.state,
        missing=checks.missing,
    )


def _run(identity: RunIdentity | None, manifest: Manifest) -> Run:
    return Run(
        run_id=manifest.run_id,
        name=identity.name if identity else manifest.run_id,
        programme=identity.programme if identity else None,
        role=identity.role if identity else None,
        parent_run_id=identity.parent_run_id if identity else None,
        world_size=manifest.world_size,
        versions=manifest.versions,
        effective=manifest.effective,
    )


def _account(energy: RunEnergy, files: Sequence[FilePass], reserved: Reserved, manifest: Manifest) -> Accounted | str:
    """Return the footprint of the run, or a sentence that says why there is none."""
    factors = stated_factors(manifest.factors)
    if factors is None:
        incomplete, unsited = "the factors in the ledger are incomplete", "the run was given no site"
        return incomplete if manifest.factors else f"{unsited}, and a grid intensity is never guessed"
    try:
        return account_run(energy, files, reserved, factors)
    except FootprintError as error:  # impossible numbers, whose lines the verification names
        return f"it cannot be computed: {error}"


def _devices(collected: RunCollector) -> list[Device]:
    sums, shared_s = collected.by_device(), shared_by_device(collected.files)
    devices = []
    for key, seen in sorted(
        collected.devices.items(), key=lambda item: (item[1].identity.rung, item[1].hostname, item[0])
    ):
        energy = energy_of(sums.get(key, ()))
        known_s = energy.device_s * (1 - energy.meters.absent)
        devices.append(
            Device(
                identity=seen.identity,
                hostname=seen.hostname,
                energy=energy,
                mean_power_w=energy.energy_j / known_s if known_s > 0 else None,
                notes=seen.notes,
                shared_s=shared_s.get(key, 0.0),
            )
        )
    return devices


def _assumptions(files: Sequence[FilePass]) -> list[Assumption]:
    """Return the assumptions of all manifests and their factors, each once, with those of the first file first."""
    found: dict[Assumption, None] = {}
    for file in files:
        factors = stated_factors(file.manifest.factors)
        for document in file.manifest.assumptions:
            try:
                found[msgspec.convert(document, type=Assumption)] = None
            except msgspec.ValidationError:
                found[Assumption(field="?", value=str(document), source="as recorded")] = None
        for assumption in factors.assumptions if factors else ():
            found[assumption] = None
    return list(found)
