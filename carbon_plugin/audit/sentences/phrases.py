"""Make the phrases and small figures that text, page and exports share. Whole sentences are in `narrative`."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.audit.findings.comparison import StepComparison
from carbon_plugin.audit.findings.energy import Energy, MeterQuality, Quality
from carbon_plugin.audit.findings.reserved import Reconciliation
from carbon_plugin.audit.findings.run import Coverage
from carbon_plugin.audit.result import AuditSummary, Device
from carbon_plugin.footprint.values import CountedCarbon
from carbon_plugin.ledger.held.account_inputs import ROUNDING
from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT, SILENT_EVENT
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import SCOPE_NAMES
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import G_PER_KWH_OF_KG_PER_J

CARBON_NAMES: dict[CountedCarbon, str] = {"total_kg": "total carbon", "operational_kg": "operational carbon"}


class BesideRow(Struct, frozen=True):
    """A figure that stands beside the total carbon and is no part of it."""

    name: str
    value: str
    range: str
    how: str


def meters_phrase(meters: MeterQuality) -> str:
    """Return shares of device time, for instance "measured 98 %, absent 2 %"."""
    shares = {"measured": meters.measured, "modelled": meters.modelled, "absent": meters.absent}
    return ", ".join(f"{name} {wording.percent(share)}" for name, share in shares.items() if share > 0) or "no time"


def energy_quality(energy: Energy) -> Quality:
    """Return how an energy is known: measured, modelled or mixed. Joules decide, and not time."""
    if not energy.energy_j:
        return energy.meters.quality
    if energy.measured_j <= 0:
        return "modelled"
    return "measured" if energy.measured_j >= energy.energy_j and energy.meters.absent == 0 else "mixed"


def energy_how(energy: Energy) -> str:
    """Return in words how an energy is known. Where a part is estimated, the text also gives the measured and the
    modelled energy.
    """
    if not energy.estimated_j:
        return energy_quality(energy)
    parts = {
        "measured": energy.measured_j,
        "estimated": energy.estimated_j,
        "modelled": energy.energy_j - energy.measured_j - energy.estimated_j,
    }
    told = {name: joules for name, joules in parts.items() if joules > ROUNDING * energy.energy_j}
    return ", ".join(f"{name} {wording.energy(joules)}" for name, joules in told.items())


def unread_share(summary: AuditSummary) -> float:
    """Return the share of the recorded time of the GPUs in which they could not be read, 0 to 1.

    Reserved time without records does not count, because nobody tried to read the GPUs then.
    """
    gpu, idle = summary.by_rung.get("gpu"), summary.unobserved.get("gpu")
    if gpu is None or gpu.meters.absent <= 0:
        return 0.0
    recorded_s = gpu.device_s - (idle.device_s if idle else 0.0)
    return min(1.0, gpu.meters.absent * gpu.device_s / recorded_s) if recorded_s > 0 else 0.0


def energy_text(energy: Energy) -> str:
    """Return an energy in words, or "unknown" where none of its devices could be read."""
    return wording.energy(energy.energy_j) if energy.is_known else "unknown"


def estimated_devices(summary: AuditSummary, rung: Rung) -> list[Device]:
    """Return the devices of a rung whose energy is an estimate, in part or completely."""
    return [device for device in summary.devices if device.identity.rung == rung and device.energy.estimated_j > 0]


def estimated_for(summary: AuditSummary) -> str:
    """Return in words the devices for which the totals contain estimates."""
    rungs: tuple[Rung, ...] = ("host", "network")
    others = [rung for rung in rungs if estimated_devices(summary, rung)]
    named = ["GPUs that could not be read"] if estimated_devices(summary, "gpu") else []
    return " and ".join([*named, *(f"the {name}, whose meter could not be used" for name in others)])


def energy_span(energy: Energy) -> str:
    """Return p10 to p90 of an energy, or an empty text for an unknown one."""
    return wording.energy_range(energy.range) if energy.is_known else ""


def measured_share(summary: AuditSummary) -> float:
    """Return the part of the IT energy that was measured, 0 to 1."""
    return summary.energy.measured_j / summary.energy.energy_j if summary.energy.energy_j else 0.0


def gaps(summary: AuditSummary) -> list[str]:
    """Return which parts of a run's totals were not measured. This does not depend on whether its ledgers can be
    believed.

    A verdict must never be shown without these sentences.
    """
    coverage, found = summary.coverage, []
    parts: tuple[tuple[Rung, str], ...] = (
        ("gpu", gpus_phrase(coverage)),
        ("host", plural(coverage.nodes_seen, "host")),
    )
    for rung, whole in parts:
        if estimated := estimated_devices(summary, rung):
            some = "" if all(device.energy.measured_j <= 0 for device in estimated) else "partly "
            found.append(f"energy of {len(estimated)} of {whole} is {some}an estimate")
    unread = sum(device.identity.rung == "gpu" and device.energy.meters.absent > 0 for device in summary.devices)
    if unread:
        found.append(f"{unread} of {gpus_phrase(coverage)} could not be read all the time")
    if NOT_SEEN_EVENT in summary.event_counts:
        found.append("no GPU that was named for the run was seen on a machine of it")
    if SILENT_EVENT in summary.event_counts:
        found.append("GPUs of a driver that did not answer may be in no total")
    return found


def steps_basis(steps: StepComparison) -> str:
    """Return where the error of a measured step time comes from."""
    if steps.basis == "spans":
        return "queue lag at the boundaries"
    if steps.basis == "short spans":
        return f"from short stretches of training, {plural(steps.steps, 'step')} in all"
    return f"{plural(steps.steps, 'step')}, whose number may be off by one in each stretch of training"


def gpus_phrase(coverage: Coverage) -> str:
    """Return in words how many GPUs, or MIG slices of GPUs, there should be."""
    if not coverage.gpu_slices:
        return plural(coverage.gpus, "GPU")
    if coverage.gpu_slices == coverage.gpus_seen:
        return plural(coverage.gpus, "MIG slice")
    return f"{coverage.gpus:,} GPUs and MIG slices"


def rung_notes(summary: AuditSummary) -> dict[str, str]:
    """Return in words how many devices of each kind each rung has."""
    notes = {}
    for rung in ("gpu", "host", "network"):
        names: dict[str, int] = {}
        for device in summary.devices:
            if device.identity.rung == rung:
                names[device.identity.name] = names.get(device.identity.name, 0) + 1
        notes[rung] = ", ".join(f"{count:,} × {name}" for name, count in list(names.items())[:3])
    return notes


def unknown_embodied(summary: AuditSummary) -> list[str]:
    """Return in words the reserved hardware whose embodied carbon no profile states. That carbon is unknown, and not
    zero.
    """
    if summary.factors is None:
        return []
    return [SCOPE_NAMES[scope] for scope in ("device", "host") if scope not in summary.factors.embodied_kg]


def how_to_name_hardware(summary: AuditSummary) -> str:
    """Return in words what would make the manufacture of the hardware known."""
    probe = "`carbon-plugin probe` writes profiles of a machine that has none"
    if NOT_SEEN_EVENT in summary.event_counts:
        return (
            "no machine of the run shows the GPUs that were named for it, so that nothing is charged for them, and "
            f"{probe}"
        )
    return (
        "name it with planned= (a forecast has cluster.accelerator and cluster.node) or accelerator= of watch, and "
        f"{probe}"
    )


def total_phrase(summary: AuditSummary) -> str:
    """Return the total carbon in words, or the operational carbon, named so, where the manufacture of hardware is
    unknown.
    """
    footprint = summary.footprint
    if footprint is None:
        return "no carbon is stated"
    counted = wording.carbon(footprint.counted_kg.value)
    if unknown_embodied(summary):
        return f"{counted} {without_embodied(summary)}"
    return counted


def carbon_name(summary: AuditSummary) -> str:
    """Return the name of the widest carbon that is known of a run: "total carbon", or "operational carbon" where the
    manufacture of the hardware is unknown.
    """
    return CARBON_NAMES[summary.footprint.counted] if summary.footprint else "carbon"


def without_embodied(summary: AuditSummary) -> str:
    """Return in words which unknown carbon the figures of a run leave out, or an empty text where they leave
    out none.
    """
    unknown = unknown_embodied(summary)
    return f"without the manufacture of {' and '.join(unknown)}" if unknown else ""


def embodied_how(summary: AuditSummary) -> dict[str, str]:
    """Return in words how the embodied carbon of each scope is computed."""
    footprint, factors = summary.footprint, summary.factors
    if footprint is None or factors is None:
        return {}
    times = {"host": summary.reserved.host_s}
    how = {}
    for scope in footprint.embodied_parts_kg:
        hours = wording.device_time(times.get(scope, summary.reserved.device_s))
        if scope in factors.embodied_kg:
            each = wording.carbon(factors.embodied_kg[scope].value)
            how[scope] = f"{each} each, {hours} reserved: {factors.amortisation}"
        else:
            how[scope] = f"{hours} of reserved device time, a year of which is charged its share"
    return how


def beside_rows(summary: AuditSummary) -> list[BesideRow]:
    """Return the figures that stand beside the total: carbon by contract, the wider interval, and water."""
    footprint = summary.footprint
    if footprint is None:
        return []
    rows = _unobserved_rows(summary)
    if footprint.market is not None:
        figure = footprint.market.operational_kg
        how = "; ".join(
            f"{line.kind} {wording.plain(line.energy_kwh)} kWh: {line.source}" for line in footprint.market.lines
        )
        rows.append(
            BesideRow("operation, market-based", wording.carbon(figure.value), wording.carbon_range(figure), how)
        )
    wide = footprint.interval_95.get(footprint.counted)
    if wide is not None:
        value = footprint.counted_kg.value
        span = wording.carbon_range(Range(value, *wide))
        name = f"{carbon_name(summary)}, 95 % interval"
        rows.append(BesideRow(name, wording.carbon(value), span, "2.5th to 97.5th percentile"))
    for place, water in footprint.water_l.items():
        span = f"{wording.number(water.low)} to {wording.number(water.high)} L"
        rows.append(BesideRow(f"water, {place}", f"{wording.number(water.value)} L", span, water.source))
    return rows


def _unobserved_rows(summary: AuditSummary) -> list[BesideRow]:
    """Return the device time that the scheduler allocated and that no ledger observed, with its modelled carbon."""
    account = summary.reconciliation
    if account is None:
        return []
    hours = wording.device_time(account.unobserved_device_s)
    of = f"{wording.device_time(account.allocated_device_s)} allocated ({account.source})"
    observed = wording.device_time(account.observed_device_s)
    fits = account.observed_device_s <= account.allocated_device_s
    seen = f"{observed} of {of} were observed" if fits else f"{of}, and {observed} were observed"
    counted_s, beyond_s = counted_and_beyond(summary, account)
    if counted_s > 0:
        seen += f"; {wording.device_time(counted_s)} more are in the totals, modelled as idle"
    if counted_s > 0 and not beyond_s:
        return [BesideRow("allocated, not observed", hours, "", seen)]
    if account.footprint is None or account.power_w is None:
        return [BesideRow("allocated, not observed", hours, "", f"{seen}; {account.not_modelled_reason}")]
    total, watts = account.footprint.counted_kg, wording.power(account.power_w.value)
    rest = wording.device_time(beyond_s)
    how = f"{seen}; the other {rest} modelled as idle at {watts} a device, up to the mean power of the run"
    return [BesideRow("allocated, not observed", wording.carbon(total.value), wording.carbon_range(total), how)]


def counted_and_beyond(summary: AuditSummary, account: Reconciliation) -> tuple[float, float]:
    """Return the allocated device time that no ledger observed, s, in two parts: the time that the totals hold as idle,
    and the time that is in no total.
    """
    counted_s = min(account.unobserved_device_s, summary.reserved.modelled_idle_s)
    beyond_s = account.unobserved_device_s - counted_s
    return counted_s, beyond_s if beyond_s > ROUNDING * account.allocated_device_s else 0.0


def grid_g_per_kwh(summary: AuditSummary) -> float:
    """Return the mean intensity over the run in gCO2e/kWh, weighted by the energy of its windows."""
    if summary.footprint is None or summary.factors is None:
        return 0.0
    facility_j = summary.footprint.energy_j["facility"].value
    if not facility_j:
        return summary.factors.intensity.figure.value
    return summary.footprint.operational_kg.value / facility_j * G_PER_KWH_OF_KG_PER_J
