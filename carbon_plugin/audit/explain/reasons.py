"""Compute the reason for a number of a report: how it is computed, and from which fields and sources.

`audit.explain.rules` says which of these functions explains which field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import basis_words, part_words
from carbon_plugin.audit.result import AuditSummary, Device
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE
from carbon_plugin.show import wording
from carbon_plugin.spec.hardware.profiles import find_accelerator, find_node
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.amounts import percent, plural, verb
from carbon_plugin.spec.numbers.figure import Figure

_LISTED = 12


class Reason(Struct, frozen=True):
    """One instance explains a number: how it is computed, the sources that it rests on, and the fields that it follows
    from.
    """

    how: str
    sources: list[str] = []
    follows_from: list[str] = []


Path = Sequence[str]
Rule = Callable[[AuditSummary, Path], Reason]


def ledgers(summary: AuditSummary) -> list[str]:
    """Return the ledgers with the ends of their chains, as sources."""
    checks = summary.verification.files
    lines = [
        f"{check.file}: {plural(check.records, 'record')}, chain ends in {check.head}" for check in checks[:_LISTED]
    ]
    return lines + ([f"and {plural(len(checks) - _LISTED, 'more ledger')}"] if len(checks) > _LISTED else [])


def from_ledgers(how: str, *follows_from: str) -> Rule:
    """Return a rule for a value that follows from the ledgers and from these fields."""
    return lambda summary, path: Reason(how, ledgers(summary), list(follows_from))


def _below(summary: AuditSummary, field: str, names: Mapping[str, Any]) -> list[str]:
    return [f"{field}.{name}" for name in names]


def sampled(summary: AuditSummary) -> str:
    """Return in words how a range was sampled."""
    sampling = summary.sampling
    if sampling is None:
        return "its range is p10 to p90 of seeded sampling"
    return f"its range is p10 to p90 of {sampling.draws:,} draws with seed {sampling.seed}, one a scope and run"


def total(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the total carbon."""
    how = f"operational + embodied; {sampled(summary)}"
    if summary.footprint is not None and summary.footprint.total_kg is None:
        how = "unknown, because the manufacture of the hardware is; the operational carbon is what is known"
    return Reason(how, [], ["footprint.operational_kg", "footprint.embodied_kg"])


def operational(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the operational carbon."""
    how = f"facility energy x mean intensity in force in its windows / 3.6e9; {sampled(summary)}"
    return Reason(how, [], ["footprint.energy_j.facility", "factors.intensity"])


def embodied(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the embodied carbon."""
    parts = summary.footprint.embodied_parts_kg if summary.footprint else {}
    how = "sum of the embodied parts" if parts else "unknown: no profile of the hardware, so that no part is in the sum"
    return Reason(how, [], _below(summary, "footprint.embodied_parts_kg", parts))


def embodied_part(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for one part of the embodied carbon."""
    scope = path[2]
    rule = summary.factors.amortisation if summary.factors else "reserved time over life"
    if scope == "building":
        return Reason("kg of the building a device-year x reserved device time", [], ["factors.building_kg"])
    time = "reserved.host_s" if scope == "host" else "reserved.device_s"
    how = f"kg of one unit x reserved time / life: {rule}"
    return Reason(how, [], [f"factors.embodied_kg.{scope}", time, "factors.lifetime_years"])


def rung_energy(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the footprint's energy of a rung, of the machines, or of the facility."""
    rung = path[2]
    if rung == "facility":
        return Reason("energy of the machines x PUE", [], ["footprint.energy_j.it", "factors.pue"])
    if rung == "it":
        rungs = summary.footprint.energy_j if summary.footprint else {}
        names = {name: None for name in rungs if name not in ("it", "facility")}
        return Reason("sum of the rungs of the machines", [], _below(summary, "footprint.energy_j", names))
    return Reason(f"energy of the rung; {sampled(summary)}", [], [f"by_rung.{rung}"])


def energy_of_rung(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the recorded energy of a rung."""
    rung = path[1]
    found = [(index, device) for index, device in enumerate(summary.devices) if device.identity.rung == rung]
    devices = [device for _, device in found]
    windows = sum(device.energy.windows for device in devices)
    how = f"sum of {plural(windows, 'reading')} of a device in a window, over {plural(len(devices), 'device')}"
    sources, idle = _meters(devices), [f"unobserved.{rung}"] if rung in summary.unobserved else []
    if rest := devices[_LISTED:]:
        energy_j = math.fsum(device.energy.energy_j for device in rest)
        count, are = plural(len(rest), "device"), verb(len(rest), "is", "are")
        sources.append(f"{wording.plain(energy_j)} J of {count} that {are} not listed here")
    if idle:
        how += ", and the modelled idle energy of reserved time that no record covers"
    return Reason(how, sources, [*(f"devices.{index}" for index, _ in found[:_LISTED]), *idle])


def energy_of_phase(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the energy of a phase."""
    energy = summary.by_phase[path[1]]
    if path[1] == UNOBSERVED_PHASE:
        how = "sum of the modelled idle energy of reserved time that no record covers, over the rungs of the machines"
        return Reason(how, [], [f"unobserved.{rung}" for rung in summary.unobserved])
    how = f"sum of {energy.windows:,} readings of a device in a window of phase {path[1]}; the facility left out"
    return Reason(how, _meters(summary.devices) + ledgers(summary))


def unobserved(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the modelled energy of a rung in reserved time without records."""
    how = f"reserved device time that no record covers x idle power of a device, part of rung {path[1]}"
    return Reason(how, [f"profile {summary.reserved.idle_model}"], ["reserved.modelled_idle_s"])


def it_energy(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the energy of the machines."""
    rungs = [f"by_rung.{rung}" for rung in summary.by_rung if rung != "facility"]
    return Reason(f"sum over the rungs of the machines, exact to the last bit; {sampled(summary)}", [], rungs)


def device(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the energy of one device."""
    device = summary.devices[int(path[1])]
    identity = device.identity
    how = (
        f"{identity.name} on {device.hostname}: {plural(device.energy.windows, 'window')} read by {identity.meter} "
        f"({identity.energy_kind}); low and high are the meter's own p10 and p90"
    )
    notes = [note for note in (identity.note, *device.notes) if note]
    profile = [f"profile {identity.profile}"] if identity.profile else []
    return Reason(how, [*profile, *_accuracy(identity), *notes, *ledgers(summary)])


def _accuracy(identity: DeviceIdentity) -> list[str]:
    """Return what is known about the accuracy of a meter."""
    known = identity.accuracy
    return [f"meter: within {percent(known.proportional, 1)} (p10 to p90), {known.source}"] if known else []


def _meters(devices: Sequence[Device]) -> list[str]:
    groups: dict[tuple[str, str, str], int] = {}
    for device in devices:
        key = (device.identity.name, device.identity.meter, device.identity.energy_kind)
        groups[key] = groups.get(key, 0) + 1
    return [f"{count:,} x {name}: {meter} ({kind})" for (name, meter, kind), count in groups.items()]


def intensity(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the grid intensity."""
    assert summary.factors is not None  # the field is there
    intensity = summary.factors.intensity
    return Reason(
        f"intensity of {intensity.zone_name} ({intensity.zone}), {intensity.figure.kind}, {basis_words(intensity)}",
        [
            intensity.figure.source,
            *map(part_words, intensity.parts),
            f"year {intensity.year or 'not stated'}, granularity {intensity.granularity}",
            f"licence {intensity.licence}; {intensity.attribution}",
            *intensity.notes,
        ],
    )


def embodied_factor(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for an embodied factor."""
    assert summary.factors is not None  # the field is there
    figure = summary.factors.embodied_kg[path[2]]
    name = figure.source.partition(":")[0]
    return Reason(f"cradle-to-gate kg of one {path[2]}, {figure.kind}", [figure.source, _profile_field(name, figure)])


def _profile_field(name: str, figure: Figure) -> str:
    """Return the profile field that a number comes from, where the shipped profile still has this number."""
    for suffix, kind, field in (
        (" network share", "nodes", "network.embodied_kg_per_device"),
        (" host", "nodes", "host.embodied_kg"),
        ("", "accelerators", "embodied_kg"),
    ):
        profile = name.removesuffix(suffix) if suffix else name
        if suffix and profile == name:
            continue
        file = files("carbon_plugin.hardware_profiles") / kind / f"{profile}.yaml"
        if file.is_file() and _shipped_value(kind, profile, field) == figure.value:
            return f"hardware_profiles/{kind}/{profile}.yaml, field {field}"
        return f"field {field} of a profile {profile} of the user's, or of another release"
    return name


def _shipped_value(kind: str, name: str, field: str) -> float | None:
    try:
        profile: Any = find_accelerator(name) if kind == "accelerators" else find_node(name)
    except CarbonPluginError:
        return None
    for part in field.split("."):
        profile = getattr(profile, part, None)
    value: float | None = getattr(profile, "value", None)
    return value


def factor(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for any other factor, with the source that the factor itself states."""
    value: Any = summary.factors
    for name in path[1:]:
        if isinstance(value, Figure):
            break
        value = value[int(name)] if isinstance(value, list | tuple) else _named(value, name)
    source = getattr(value, "source", None) or "as recorded in the manifest"
    return Reason(f"factor {path[1]}, {getattr(value, 'kind', 'declared')}", [source])


def _named(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def step_time(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the comparison of steps."""
    steps = summary.steps
    assert steps is not None  # the field is there
    if "predicted" in path[1]:
        source = steps.predicted_step_time_s.source if steps.predicted_step_time_s else "the analytical step model"
        return Reason("the analytical model for the spec as it ran", [source], ["work.model_flops_per_step"])
    how = (
        f"mean over {plural(steps.spans, 'span')} of {plural(steps.steps, 'step')} between step "
        f"boundaries on node {steps.node}; the range is the queue lag at the boundaries"
    )
    return Reason(how, ledgers(summary))


def forecast(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the forecast."""
    forecast = summary.forecast
    assert forecast is not None  # the field is there
    made = f"{wording.moment(forecast.created_unix_s)} by carbon-plugin {forecast.plugin_version}"
    return Reason("frozen before launch from the planned spec", [f"forecast of {made}, kept in the manifest"])


def forecast_part(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for one cause of the forecast's error."""
    forecast = summary.forecast
    assert forecast is not None  # the field is there
    part = forecast.parts[int(path[2])]
    follows = ["forecast.footprint.operational_kg", "footprint.operational_kg"]
    return Reason(f"{part.name}: factor by which it moved operational carbon", [part.explanation], follows)


def effective(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for a field of the effective spec."""
    field = _longest_key(summary.run.effective, path[2:])
    entry = summary.run.effective.get(field)
    source = entry.get("source") if isinstance(entry, Mapping) else None
    return Reason(f"field {field} of the spec as it ran", [str(source or "as recorded in the manifest")])


def _longest_key(known: Mapping[str, Any], parts: Path) -> str:
    """Return the longest key of the effective spec with which the path begins. Such keys contain dots of their own."""
    options = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((key for key in options if key in known), ".".join(parts))


def work(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for what was trained on what hardware."""
    if "flops" in path[-1]:
        return Reason(
            "FLOPs of one step, counted from the architecture by the prediction", ["prediction in the manifest"]
        )
    return Reason("from the effective spec and the devices that the ledgers name", ledgers(summary), ["run.effective"])


def reserved(summary: AuditSummary, path: Path) -> Reason:
    """Return the reason for the reserved time."""
    how = "from allocation (where it is known, else the first record) to the last record, each device once at a time"
    if summary.reserved.shared_s:
        how += ", less the part of others that used it meanwhile"
    return Reason(how, [f"devices: {summary.reserved.devices_from}", *ledgers(summary)])


def stated(how: str) -> Rule:
    """Return a rule for a value that the audit itself states."""
    return lambda summary, path: Reason(how, ["this audit"])
