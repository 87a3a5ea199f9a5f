"""List several runs with their state, and compare their specs, energy and carbon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from carbon_plugin.audit.programme_runs import find_runs
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.phrases import measured_share, unknown_embodied
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import comparable_kg
from carbon_plugin.ledger.held.quiet import quiet_s
from carbon_plugin.show import wording
from carbon_plugin.show.plot import shortened
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import stated_fields

SAME_WORK = 0.02
"""Up to this part more tokens, two runs count as the same work."""

LONGEST_LABEL = 60
"""A name of a run that stands beside each of its figures has at most this many characters."""

SAME_LOSS = 0.01
"""Up to this part apart, two losses count as the same."""

Number = float | int | str | None


class ListedRun(Struct, frozen=True, kw_only=True):
    """One run of a list.

    `total_kg` is None where the manufacture of some hardware is unknown. `unknown_embodied` then names the hardware,
    and only `operational_kg` is known. `carbon_range_kg` is the p10 and p90 of the total, or of the operational carbon
    then. `measured_share` is the part of the energy that was measured. `forecast_error` is the known carbon over its
    forecast, minus 1. A run that cannot be read has only its directory and the `problem`.
    """

    directory: str
    name: str = ""
    programme: str | None = None
    role: str | None = None
    start_unix_s: float | None = None
    energy_j: float | None = None
    measured_share: float | None = None
    operational_kg: float | None = None
    total_kg: float | None = None
    carbon_range_kg: tuple[float, float] | None = None
    unknown_embodied: list[str] = []
    forecast_error: float | None = None
    state: str = "unreadable"
    problem: str | None = None


class Known(NamedTuple):
    """A value with its p10 and p90, and what it is known by; both are None where nothing can be said of them."""

    value: Number
    ends: tuple[float, float] | None = None
    by: str | None = None


UNKNOWN = Known(None)


class ComparedQuantity(Struct, frozen=True, kw_only=True):
    """One quantity of all compared runs, in their order and in `unit`. A value is None where a run does not know it.

    `ranges` are the p10 and p90 of the values, and `known_by` says whether a value was measured, modelled, assumed or
    declared. An entry is None where there is nothing to be said, as of a count or a name.
    """

    name: str
    unit: str
    values: list[Number]
    ranges: list[tuple[float, float] | None] = []
    known_by: list[str | None] = []


class RunComparison(Struct, frozen=True, kw_only=True):
    """Several runs side by side: their names, their quantities, and the fields of the spec in which they differ.

    `cautions` are sentences on causes by which the figures differ although the trainings may be the same.
    """

    runs: list[str]
    quantities: list[ComparedQuantity]
    spec: list[ComparedQuantity]
    cautions: list[str] = []


def list_runs(place: str | os.PathLike[str]) -> list[ListedRun]:
    """Return every run directory among and below `place`, the newest first.

    A run that cannot be read is listed with the reason. Raises `LedgerError` where there is no run at all.
    """
    listed = [_listed(directory) for directory in find_runs([place])]
    return sorted(listed, key=lambda run: -(run.start_unix_s or 0.0))


def state_of(summary: AuditSummary, now_unix_s: float | None = None) -> str:
    """Return "running", the reason of the orderly end of the last attempt, or "killed"."""
    attempts = summary.period.attempts
    if attempts and attempts[-1].ended:
        return attempts[-1].ended
    now_s = time.time() if now_unix_s is None else now_unix_s
    return "running" if now_s - summary.period.end_unix_s <= quiet_s(summary.coverage.nodes) else "killed"


def compare_runs(summaries: Sequence[AuditSummary], losses: Sequence[float] = ()) -> RunComparison:
    """Return the runs side by side.

    `losses` are the losses that the runs reached, in the order of the runs, because ledgers hold none. Raises
    `CarbonPluginError` for fewer than two runs, and where there is not one loss for each run.
    """
    if losses and len(losses) != len(summaries):
        raise CarbonPluginError(
            f"compare: --loss states {plural(len(losses), 'loss', 'losses')} for {plural(len(summaries), 'run')}, "
            "expected one for each, for instance --loss 2.31,2.28"
        )
    if len(summaries) < 2:
        raise CarbonPluginError(f"compare: {plural(len(summaries), 'run')} given, expected two or more directories")
    rows = {name: [of(one) for one in summaries] for name, of in _QUANTITIES.items()}
    quantities = [
        ComparedQuantity(
            name=name,
            unit=unit,
            values=[one.value for one in known],
            ranges=[one.ends for one in known],
            known_by=[one.by for one in known],
        )
        for (name, unit), known in rows.items()
        if any(one.value is not None for one in known)
    ]
    if losses:
        quantities.append(ComparedQuantity(name="loss reached, as stated", unit="", values=list(losses)))
    return RunComparison(
        runs=_labels(summaries),
        quantities=quantities,
        spec=_differences(summaries),
        cautions=_cautions(summaries, losses),
    )


def _labels(summaries: Sequence[AuditSummary]) -> list[str]:
    """Return the names of the runs, shortened where they are long. Where two names are the same, their places in the
    order are added.
    """
    names = [shortened(one.run.name, LONGEST_LABEL) for one in summaries]
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, 1)]


def _cautions(summaries: Sequence[AuditSummary], losses: Sequence[float]) -> list[str]:
    """Return a sentence for each reason why the figures of these runs cannot be compared directly."""
    found = []
    labelled = list(zip(_labels(summaries), summaries, strict=True))
    bases: dict[str, list[str]] = {}
    for name, one in labelled:
        if one.factors:
            bases.setdefault(" and ".join(map(describe_basis, one.factors.intensity.bases)), []).append(name)
    if len(bases) > 1:
        said = "; ".join(f"{basis} ({', '.join(names)})" for basis, names in bases.items())
        found.append(f"The grid intensities do not count the same emissions: {said}.")
    tokens = [one.progress.tokens for one in summaries if one.progress.tokens]
    if tokens and max(tokens) > (1 + SAME_WORK) * min(tokens):
        found.append(
            "The runs trained on different numbers of tokens, so that their totals are for different work; compare "
            "the figures a token."
        )
    for name, one in labelled:
        if one.coverage.gpus_missing:
            found.append(f"{name}: {plural(one.coverage.gpus_missing, 'GPU')} of it are in no total.")
        if state_of(one) == "running":
            found.append(f"{name} is still running.")
        if not one.verification.ok:
            found.append(f"{name}: its ledgers have problems, see its own report.")
        if one.footprint is None:
            found.append(f"{name}: {one.no_carbon_reason}, so that no carbon is stated.")
    if not losses:
        found.append("Ledgers hold no loss: state those that the runs reached with --loss to have them here.")
    elif max(losses) - min(losses) > SAME_LOSS * abs(min(losses, key=abs)):
        found.append("The runs reached different losses, so that their totals are not for the same result.")
    return found


def _listed(directory: Path) -> ListedRun:
    try:
        summary = summarise(directory)
    except CarbonPluginError as error:
        return ListedRun(directory=str(directory), problem=str(error))
    footprint, forecast = summary.footprint, summary.forecast
    off = None
    if footprint is not None and forecast is not None:
        _, planned, actual = comparable_kg(forecast.footprint, footprint)
        off = actual.value / planned.value - 1 if planned.value > 0 else None
    return ListedRun(
        directory=str(directory),
        name=summary.run.name,
        programme=summary.run.programme,
        role=summary.run.role,
        start_unix_s=summary.period.start_unix_s,
        energy_j=_known_j(summary),
        measured_share=measured_share(summary) if summary.energy.is_known else None,
        operational_kg=footprint.operational_kg.value if footprint else None,
        total_kg=_kilograms(footprint.total_kg) if footprint else None,
        carbon_range_kg=(footprint.counted_kg.low, footprint.counted_kg.high) if footprint else None,
        unknown_embodied=unknown_embodied(summary),
        forecast_error=off,
        state=state_of(summary),
    )


def _differences(summaries: Sequence[AuditSummary]) -> list[ComparedQuantity]:
    """Return the fields of the effective spec that differ between runs. Fields within a section are compared one by
    one. A value that is only a default says so.
    """
    specs = [
        dict(leaf for field, entry in one.run.effective.items() for leaf in _leaves(field, _value(field, entry)))
        for one in summaries
    ]
    assumed = [{field for field, entry in one.run.effective.items() if _is_default(entry)} for one in summaries]
    fields = dict.fromkeys(field for spec in specs for field in spec)
    rows = {
        field: [(spec.get(field), field in known) for spec, known in zip(specs, assumed, strict=True)]
        for field in fields
    }
    different = {
        field: [_said(value, is_default) for value, is_default in values]
        for field, values in rows.items()
        if any(value != values[0][0] for value, _ in values)
    }
    # An empty value reads like one that a model of another kind does not have.
    return [ComparedQuantity(name=name, unit="", values=[*said]) for name, said in different.items() if any(said)]


def _leaves(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field in `value`, or `value` itself if it has none."""
    if not isinstance(value, Mapping):
        yield field, value
        return
    for name, inner in value.items():
        yield from _leaves(f"{field}.{name}", inner)


def _value(field: str, entry: Any) -> Any:
    """Return the value of a field. Of a site, only what somebody stated is returned."""
    value = entry.get("value") if isinstance(entry, Mapping) else entry
    return stated_fields(value) if field == "site" and isinstance(value, Mapping) else value


def _is_default(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("source") == "default"


def _said(value: Any, is_default: bool) -> str | None:
    text = wording.field(value)
    return f"{text} (default)" if text and is_default else text or None


def _kilograms(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _known_j(summary: AuditSummary) -> float | None:
    """Return the energy of the machines, J, or None where none of it was measured or modelled."""
    return summary.energy.energy_j if summary.energy.is_known else None


def _counted(value: Number) -> Known:
    return Known(value)


def _figure(figure: Figure | None, scale: float = 1.0) -> Known:
    """Return a figure times a constant, or an unknown value for None."""
    if figure is None:
        return UNKNOWN
    return Known(figure.value * scale, (figure.low * scale, figure.high * scale), figure.kind)


def _energy(summary: AuditSummary, scale: float = 1.0) -> Known:
    """Return the energy of the machines, J, times a constant, or an unknown value where none of it is known."""
    energy = summary.energy
    if not energy.is_known:
        return UNKNOWN
    share = measured_share(summary)
    by = "measured" if share == 1 else "modelled" if share == 0 else f"{wording.percent(share)} measured"
    return Known(energy.energy_j * scale, (energy.low_j * scale, energy.high_j * scale), by)


def _a_token(summary: AuditSummary, of: Callable[[float], Known]) -> Known:
    """Return a quantity of the run divided by its tokens, or an unknown value without tokens."""
    tokens = summary.progress.tokens
    return of(1 / tokens) if tokens else UNKNOWN


def _carbon(summary: AuditSummary, name: str, scale: float = 1.0) -> Known:
    """Return a carbon figure of the footprint by its field, kgCO2e, times a constant."""
    return UNKNOWN if summary.footprint is None else _figure(getattr(summary.footprint, name), scale)


_QUANTITIES: dict[tuple[str, str], Callable[[AuditSummary], Known]] = {
    ("state", ""): lambda one: _counted(state_of(one)),
    ("model", ""): lambda one: _counted(one.work.model if one.work else None),
    ("hardware", ""): lambda one: _counted(one.work.hardware if one.work else None),
    ("GPUs", ""): lambda one: _counted(one.coverage.gpus),
    ("time running", "s"): lambda one: Known(one.period.active_s, by="measured"),
    ("optimizer steps", ""): lambda one: _counted(one.progress.steps),
    ("tokens", ""): lambda one: _counted(one.progress.tokens or None),  # reports of earlier releases hold 0
    ("step time", "s"): lambda one: _figure(one.steps.measured_step_time_s if one.steps else None),
    ("energy of the machines", "J"): _energy,
    ("energy a token", "J"): lambda one: _a_token(one, lambda scale: _energy(one, scale)),
    ("energy measured", "share"): lambda one: _counted(measured_share(one) if one.energy.energy_j else None),
    ("operational carbon", "kgCO2e"): lambda one: _carbon(one, "operational_kg"),
    ("embodied carbon", "kgCO2e"): lambda one: _carbon(one, "embodied_kg"),
    ("total carbon", "kgCO2e"): lambda one: _carbon(one, "total_kg"),
    ("manufacture in no total", ""): lambda one: _counted(" and ".join(unknown_embodied(one)) or None),
    ("operational carbon a million tokens", "kgCO2e"): lambda one: _a_token(
        one, lambda scale: _carbon(one, "operational_kg", 1e6 * scale)
    ),
    ("total carbon a million tokens", "kgCO2e"): lambda one: _a_token(
        one, lambda scale: _carbon(one, "total_kg", 1e6 * scale)
    ),
    ("grid intensity", "gCO2e/kWh"): lambda one: _figure(one.factors.intensity.figure if one.factors else None),
    ("PUE", ""): lambda one: _figure(one.factors.pue if one.factors else None),
}
"""The name and the unit of each compared quantity, with the function that reads it from an audit."""
