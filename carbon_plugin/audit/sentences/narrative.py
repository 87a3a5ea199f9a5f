"""Write the audit in sentences: what ran, its energy and carbon, how good the forecast was, and what the totals leave
out.
"""

from __future__ import annotations

import math

from carbon_plugin.audit.findings.run import Coverage
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.phrases import (
    CARBON_NAMES,
    counted_and_beyond,
    estimated_devices,
    estimated_for,
    gpus_phrase,
    grid_g_per_kwh,
    how_to_name_hardware,
    measured_share,
    unknown_embodied,
    unread_share,
)
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import comparable_kg
from carbon_plugin.ledger.held.account_inputs import ROUNDING
from carbon_plugin.ledger.held.clocks import CLOCK_STEP_EVENT
from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT, SILENT_EVENT
from carbon_plugin.ledger.held.launches import ANOTHER_JOB_EVENT
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE
from carbon_plugin.ledger.records import BELOW_GPUS_EVENT
from carbon_plugin.show import wording
from carbon_plugin.show.plot import shortened
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.amounts import plural, verb

LONGEST_NAME = 80
"""A name in the line below the title has at most this many characters."""
LEAST_CAUSE = 0.005
"""A cause that moved the forecast by a smaller share than this is not named."""
NAMED = 3
"""A sentence names this many devices one by one."""


def subtitle(summary: AuditSummary) -> str:
    """Return when the run was, and which programme and role it belongs to."""
    run, period = summary.run, summary.period
    parts = [f"{wording.moment(period.start_unix_s)} to {wording.moment(period.end_unix_s)}"]
    parts += [f"programme {shortened(run.programme, LONGEST_NAME)}"] if run.programme else []
    parts += [f"role {shortened(run.role, LONGEST_NAME)}"] if run.role else []
    parts += [f"continues run {run.parent_run_id}"] if run.parent_run_id else []
    return " · ".join(parts)


def opening(summary: AuditSummary) -> str:
    """Return a description of the run in a few sentences."""
    return " ".join(
        filter(None, (_what_ran(summary), _what_it_used(summary), _budget(summary), _how_the_forecast_did(summary)))
    )


def warnings(summary: AuditSummary) -> list[str]:
    """Return what a reader must know before using the totals, with the worst first."""
    return [*left_out(summary), *ways_of_counting(summary), *_of_factors(summary)]


def _budget(summary: AuditSummary) -> str:
    """Return sentences that compare the run with its budget, or nothing without one."""
    if not summary.budget:
        return ""
    beyond = any(line.share is not None and line.share > 1 for line in summary.budget)
    said = "; ".join(line.phrase for line in summary.budget)
    counts = summary.event_counts
    stopped = "budget_stop" in counts and "budget_stop_ignored" not in counts
    return f"It {'is beyond' if beyond else 'is within'} its budget ({said}){', which ended it' if stopped else ''}."


def left_out(summary: AuditSummary) -> list[str]:
    """Return a sentence for each thing that belongs to the run and is in no total."""
    coverage, found = summary.coverage, []
    if coverage.nodes_seen < coverage.nodes:
        missing = plural(coverage.nodes - coverage.nodes_seen, "node")
        found.append(f"Ledgers of {missing} of {coverage.nodes} are missing; their energy is in no total.")
    found += coverage.missing
    if unread := unread_share(summary):
        found.append(_unread(summary, unread))
    for rung in ("host", "network"):
        if rung not in summary.by_rung:
            found.append(f"The {rung} was not metered and is in no total.")
    if NOT_SEEN_EVENT in summary.event_counts:
        found.append(
            "GPUs were named for this run, by its plan or by accelerator=, and nothing on a machine of it shows one: "
            "if it had any, their energy is in no total."
        )
    if SILENT_EVENT in summary.event_counts:
        found.append(
            "A GPU driver on a machine of this run did not answer: if the machine has GPUs, their energy before the "
            "driver answered is in no total."
        )
    lost_s = sum(gap.duration_s for gap in summary.period.gaps)
    if lost_s:
        found.append(
            f"Between attempts, nothing was recorded for {wording.duration(lost_s)}, and nothing says that the run "
            "held its devices then: what they drew is in no total."
        )
    if summary.reserved.unknown_s > 0:
        charged = summary.footprint is not None and not unknown_embodied(summary)
        counted = ", while their manufacture is in the total" if charged else ""
        found.append(
            f"{wording.device_time(summary.reserved.unknown_s)} of reserved device time are in no record (before "
            "the first one of an attempt): their energy is in no total, because no hardware profile knows the idle "
            f"power of these devices{counted}."
        )
    account = summary.reconciliation
    if account is not None and account.allocated_device_s <= 0:
        found.append(f"0 GPU-hours were allocated ({account.source}): no job with GPUs was started.")
    counted_s, beyond_s = counted_and_beyond(summary, account) if account is not None else (0.0, 0.0)
    if account is not None and beyond_s:
        hours, of = wording.device_time(beyond_s), wording.device_time(account.allocated_device_s)
        modelled = account.footprint
        what = f"; modelled as idle they add {wording.carbon(modelled.counted_kg.value)}" if modelled else ""
        beside = f"; another {wording.device_time(counted_s)} are in the totals as idle" if counted_s else ""
        found.append(f"{hours} of {of} of allocated device time were observed by no ledger{what}, in no total{beside}.")
    if unknown := unknown_embodied(summary):
        found.append(
            f"The manufacture of {' and '.join(unknown)} is in no total, because the run has no profile of them; "
            f"{how_to_name_hardware(summary)}."
        )
    return found


def ways_of_counting(summary: AuditSummary) -> list[str]:
    """Return a sentence for each way in which energy in the totals was not counted as usual."""
    coverage, found = summary.coverage, []
    unmeasured = coverage.gpus - coverage.gpus_measured - coverage.gpus_missing
    if unmeasured > 0:
        found.append(f"{unmeasured} of {gpus_phrase(coverage)} {verb(unmeasured, 'was', 'were')} not measured.")
    found += _estimates(summary)
    waited = summary.by_phase.get(UNOBSERVED_PHASE)
    if waited is not None:
        found.append(
            f"{wording.device_time(summary.reserved.modelled_idle_s)} of reserved device time are in no record "
            f"(before the first one of an attempt); the totals hold {wording.energy(waited.energy_j)} for "
            f"them, modelled as idle ({summary.reserved.idle_model})."
        )
    account = summary.reconciliation
    if account is not None:
        counted_s, beyond_s = counted_and_beyond(summary, account)
        if counted_s and not beyond_s:
            hours, of = wording.device_time(counted_s), wording.device_time(account.allocated_device_s)
            found.append(
                f"{hours} of {of} of allocated device time were observed by no ledger; they are in the totals, "
                "modelled as idle."
            )
    found += [*_of_ranks(coverage), *_below_gpus(summary)]
    if summary.period.stalled_s:
        found.append(
            f"For {wording.duration(summary.period.stalled_s)} of the training no step ended (a hang, a pause, or an "
            "interrupted training in a process that went on); it counts as training."
        )
    return [*found, *_counted_elsewhere(summary), *_of_clocks(summary)]


def _of_ranks(coverage: Coverage) -> list[str]:
    """Return what is said of GPUs without a rank, and of ranks that said nothing."""
    found = []
    if coverage.gpus_without_rank:
        found.append(
            f"No rank computed on {coverage.gpus_without_rank} of {gpus_phrase(coverage)}, by what the ranks say; the "
            "totals hold what these drew, and their manufacture."
        )
    if coverage.ranks_unheard:
        found.append(
            f"Nothing was heard from {plural(coverage.ranks_unheard, 'rank')} of a launch, as if it ran without the "
            "monitor, ended before its first step, or told only after the end of the record, as ranks of a run shorter "
            "than a window may; what it computed on is not known."
        )
    return found


def _counted_elsewhere(summary: AuditSummary) -> list[str]:
    """Return what is said of devices that two meters, two runs or two jobs had at the same time."""
    coverage, found = summary.coverage, []
    # Every node that reads a facility's meter names it, and its energy counts once, so it needs no warning.
    keys = {overlap.key for overlap in coverage.overlaps if not overlap.key.startswith("facility/")}
    if keys:
        found.append(
            f"{plural(len(keys), 'device')} had two meters at the same time and {verb(len(keys), 'was', 'were')} "
            "counted once."
        )
    if summary.reserved.shared_s > 0:
        found.append(
            f"Other runs used devices of this one meanwhile: {wording.device_time(summary.reserved.shared_s)} of "
            "device time, with their manufacture, are charged to those, as the energy is."
        )
    if coverage.side_by_side or ANOTHER_JOB_EVENT in summary.event_counts:
        files = coverage.side_by_side
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        named = f" ({', '.join(files[:NAMED])}{more})" if files else ""
        found.append(
            f"Two jobs, or two launches of one, wrote into this run directory at the same time{named}. "
            "The totals are those of both; give each job a directory of its own."
        )
    return found


def _of_clocks(summary: AuditSummary) -> list[str]:
    """Return what is said of clocks that were apart, or set while the job ran."""
    found = []
    if summary.coverage.clock_offsets_s:
        furthest_s = max(map(abs, summary.coverage.clock_offsets_s.values()))
        found.append(
            f"Clocks of ledgers were up to {wording.duration(furthest_s)} apart. Sums do not depend on it; times are "
            "given by the clock of rank 0, as it was set for most of the run."
        )
    if summary.event_counts.get(CLOCK_STEP_EVENT):
        found.append(
            "The wall clock of a host was set while the job ran. Times of its ledger go on from before that; energies "
            "and durations do not depend on it."
        )
    return found


def _estimates(summary: AuditSummary) -> list[str]:
    """Return sentences about energy in the totals that is estimated, because the meter of a device failed."""
    found, unusable = [], "has a meter that could not be used"
    kinds: tuple[tuple[Rung, str, str], ...] = (
        ("gpu", "GPU", "could not be read"),
        ("host", "host", unusable),
        ("network", "network", unusable),
    )
    for rung, one, why_estimated in kinds:
        devices = estimated_devices(summary, rung)
        if not devices:
            continue
        energy = [device.energy for device in devices]
        estimated_j, measured_j = (
            math.fsum(getattr(one, name) for one in energy) for name in ("estimated_j", "measured_j")
        )
        named = ", ".join(device.identity.key for device in devices[:NAMED])
        more = f" and {len(devices) - NAMED} more" if len(devices) > NAMED else ""
        beside = f" beside {wording.energy(measured_j)} that were measured of them" if measured_j > 0 else ""
        noted = (note for device in devices for note in (device.identity.note, *device.notes) if note)
        reason = next(noted, "") if rung == "gpu" else ""
        why = f" ({reason.rstrip('.')})" if reason else ""
        found.append(
            f"{wording.energy(estimated_j)} in the totals are an estimate for {plural(len(devices), one)} that "
            f"{why_estimated}{why}: {named}{more}{beside}."
        )
    return found


def _below_gpus(summary: AuditSummary) -> list[str]:
    """Return a sentence about node meters that showed less than the GPUs inside their nodes drew."""
    if BELOW_GPUS_EVENT not in summary.event_counts:
        return []
    keys = dict.fromkeys(event.data.get("key") for event in summary.events if event.kind == BELOW_GPUS_EVENT)
    first = next((event for event in summary.events if event.kind == BELOW_GPUS_EVENT), None)
    said = f" ({first.message.partition(': ')[2].partition(';')[0]})" if first else ""
    return [
        f"{plural(max(1, len(keys)), 'node meter')} told less than the GPUs inside the node draw{said}, which cannot "
        "be: what was told then is in no total, and the host is estimated instead. Check the meter."
    ]


def _unread(summary: AuditSummary, unread: float) -> str:
    """Return a sentence about the energy of GPUs in the part `unread` of their recorded time, which is estimated from
    the rest.
    """
    idle = summary.unobserved.get("gpu")
    read_j = summary.by_rung["gpu"].energy_j - (idle.energy_j if idle else 0.0)
    if 1 - unread <= ROUNDING:
        return "No GPU could be read; what they drew while the job ran is in no total."
    drawn = wording.energy(read_j * unread / (1 - unread))
    return (
        f"GPUs could not be read during {wording.percent(unread)} of their time. What they drew then, about {drawn} if "
        "it was as in the rest, is in no total."
    )


def _of_factors(summary: AuditSummary) -> list[str]:
    """Return what a reader should know about the factors behind the carbon."""
    if summary.factors is None:
        return []
    found = [f"{warning[:1].upper()}{warning[1:].rstrip('.')}." for warning in summary.factors.warnings]
    if len(bases := summary.factors.intensity.bases) > 1:
        found.append(
            f"The intensity of the windows counts different things: {' and '.join(map(describe_basis, bases))}."
        )
    return found


def _what_ran(summary: AuditSummary) -> str:
    coverage, progress, attempts = summary.coverage, summary.progress, len(summary.period.attempts)
    ranks = plural(summary.run.world_size, "rank")
    machines = gpus_phrase(coverage) if coverage.gpus else ranks
    if coverage.gpus_missing:
        machines += f", {coverage.gpus_missing} of which are in no ledger,"
    if not summary.energy.windows and not summary.period.active_s:
        return (
            f"The ledgers of {machines} of {plural(coverage.nodes, 'node')} hold no window: nothing was recorded yet."
        )
    sentence = (
        f"The job ran for {wording.duration(summary.period.active_s)} on {machines} of "
        f"{plural(coverage.nodes, 'node')}{f', in {attempts} attempts,' if attempts > 1 else ''} "
        f"and executed {plural(progress.steps, 'optimizer step')}"
    )
    if summary.waste.redone_steps:
        sentence += f", {summary.waste.redone_steps:,} of them for a second time"
    return f"{sentence}."


def _what_it_used(summary: AuditSummary) -> str:
    share = measured_share(summary)
    estimated = summary.energy.estimated_j / summary.energy.energy_j if summary.energy.energy_j else 0.0
    known = "all of it measured" if share >= 1 else "all of it modelled" if share <= 0 and not estimated else ""
    guessed = f", {wording.percent(estimated)} estimated for {estimated_for(summary)}" if estimated else ""
    rest = ", the rest modelled" if share + estimated < 1 - ROUNDING else ""
    known = known or f"{wording.percent(share)} of that was measured{guessed}{rest}"
    if unread := unread_share(summary):
        known += f", and {wording.percent(unread)} of the GPUs' time, which could not be read, is missing"
    sentence = f"Its machines used {wording.energy(summary.energy.energy_j)}; {known}."
    if not summary.energy.is_known:
        sentence = "What its machines used is unknown."
    footprint, factors = summary.footprint, summary.factors
    if footprint is None or factors is None:
        return f"{sentence} No carbon is stated: {summary.no_carbon_reason}."
    grid = f"{wording.number(grid_g_per_kwh(summary))} g/kWh ({factors.intensity.zone_name})"
    if footprint.embodied_kg is None:
        adds = "; what the manufacture of the hardware adds is unknown"
    else:
        adds = f", and the manufacture of the reserved hardware adds {wording.carbon(footprint.embodied_kg.value)}"
    operational = wording.carbon(footprint.operational_kg.value)
    return f"{sentence} With PUE {wording.plain(factors.pue.value)} and {grid} that is {operational}{adds}."


def _how_the_forecast_did(summary: AuditSummary) -> str:
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None or footprint is None or not forecast.parts:
        return ""
    counted, planned, actual = comparable_kg(forecast.footprint, footprint)
    of = "" if counted == "total_kg" else f" of the {CARBON_NAMES[counted]}"
    where = "inside" if planned.low <= actual.value <= planned.high else "outside"
    changes_kg: dict[str, float] = {part.name: part.carbon_kg for part in forecast.parts}
    if forecast.embodied_kg is not None:
        changes_kg["embodied carbon"] = forecast.embodied_kg
    largest = max(changes_kg, key=lambda name: abs(changes_kg[name]))
    matters = abs(changes_kg[largest]) > LEAST_CAUSE * planned.value
    cause = f"; the largest cause of the difference was {largest}" if matters else ""
    return (
        f"The forecast{of} from before launch was {wording.carbon(planned.value)} ({wording.carbon_range(planned)}); "
        f"the result lies {where} that range{cause}."
    )
