"""Compute the first screen of the page: the total with its parts, and the few figures that people ask for first."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.audit.report.tables.forecast import unit_of_time
from carbon_plugin.audit.report.tables.table import Unit, unit_of_carbon
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.footprint.values import comparable_kg
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import fitting_unit, plural
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import ENERGY_UNITS

TOKENS = 1e6
"""Carbon is given for this many tokens, because that of one token is too small to read."""


class Share(Struct, frozen=True):
    """A part of a bar: its name, its text, its share in percent, its colour, and its number in report.json."""

    name: str
    text: str
    percent: float
    colour: str
    field: str
    raw: float | None


class RunTotal(Struct, frozen=True, kw_only=True):
    """The total carbon of a run with its range on a bar, or its energy where no carbon is stated.

    `what` says which of the two it is. Positions are percent of the bar's width. Where neither is known, `raw` is None
    and there is no bar.
    """

    what: str
    text: str
    unit: str
    low: str
    high: str
    low_percent: float
    value_percent: float
    high_percent: float
    field: str
    raw: float | None
    split: list[Share]
    split_percent: float


class Tile(Struct, frozen=True, kw_only=True):
    """One figure of the first screen: its name, the figure, a line below it, and how it is known.

    `field` and `raw` are its number in report.json. `explained` is the field whose derivation is shown.
    """

    what: str
    much: str
    more: str
    kind: str = ""
    field: str = ""
    raw: float | None = None
    explained: str = ""


_UNKNOWN_TOTAL = RunTotal(
    what="Energy of the machines; no carbon is stated",
    text="unknown",
    unit="",
    low="",
    high="",
    low_percent=0.0,
    value_percent=0.0,
    high_percent=0.0,
    field="",
    raw=None,
    split=[],
    split_percent=0.0,
)


def total_of(summary: AuditSummary, most: float = 0.0) -> RunTotal:
    """Return the total carbon, or the energy of the machines where no carbon is stated.

    The bar ends at `most` (kgCO2e or J) where that lies above the range, so that several runs can share one scale.
    """
    footprint = summary.footprint
    if footprint is None:
        if not summary.energy.is_known:
            return _UNKNOWN_TOTAL
        size, name = fitting_unit(summary.energy.energy_j, ENERGY_UNITS)
        what = "Energy of the machines; no carbon is stated"
        return _total(what, Unit(size, name), summary.energy.range, most, "energy.energy_j", [])
    total = footprint.counted_kg
    unit = unit_of_carbon(total.value)
    split = []
    for name, figure, colour in (
        ("operational", footprint.operational_kg, "gpu"),
        ("embodied", footprint.embodied_kg, "host"),
    ):
        if figure is None:
            split.append(Share(name, "unknown", 0.0, colour, "", None))
            continue
        share = 100 * figure.value / total.value if total.value > 0 else 0.0
        text = f"{unit.number(figure.value)} {unit.name}"
        split.append(Share(name, text, share, colour, f"footprint.{name}_kg.value", figure.value))
    without = phrases.without_embodied(summary)
    name = phrases.carbon_name(summary).capitalize()
    what = f"{name} {without}, which is unknown" if without else name
    return _total(what, unit, total.range, most, f"footprint.{footprint.counted}.value", split)


def tiles(summary: AuditSummary) -> list[Tile]:
    """Return the figures beside the total in the order of the page."""
    energy = [] if summary.footprint is None else [_energy_tile(summary)]  # without carbon it is the total
    work = [*_per_work_tiles(summary), _forecast_tile(summary), _work_tile(summary)]
    return [*energy, _place_tile(summary), *work]


def _total(what: str, unit: Unit, number: Range, most: float, field: str, split: list[Share]) -> RunTotal:
    low, value, high = number.low, number.value, number.high
    end = 1.08 * max(high, value, most) or 1.0
    return RunTotal(
        what=what,
        text=unit.number(value),
        unit=unit.name,
        low=unit.number(low),
        high=unit.number(high),
        low_percent=100 * low / end,
        value_percent=100 * value / end,
        high_percent=100 * high / end,
        field=field,
        raw=value,
        split=split,
        split_percent=100 * value / end if most else 100.0,
    )


def _energy_tile(summary: AuditSummary) -> Tile:
    energy = summary.energy
    span = phrases.energy_span(energy)
    measured = f"{wording.percent(phrases.measured_share(summary))} of it measured"
    return Tile(
        what="Energy of the machines",
        much=wording.energy(energy.energy_j),
        more=f"{span}; {measured}",
        kind=phrases.energy_quality(energy),
        field="energy.energy_j",
        raw=energy.energy_j,
        explained="energy",
    )


def _place_tile(summary: AuditSummary) -> Tile:
    factors = summary.factors
    if factors is None:
        return Tile(what="Place", much="not known", more="The run was given no site, and a grid is never guessed.")
    grid, year = factors.intensity, factors.intensity.year
    dated = f", {grid.granularity}" + (f" {year}" if year else "")
    intensity = wording.number(phrases.grid_g_per_kwh(summary))
    return Tile(
        what="Place",
        much=grid.zone_name,
        more=f"{intensity} gCO2e/kWh{dated}; PUE {wording.plain(factors.pue.value)}",
        kind=grid.figure.kind,
        explained="factors.intensity",
    )


def _per_work_tiles(summary: AuditSummary) -> list[Tile]:
    progress, found = summary.progress, []

    def share(part: float) -> str:
        """Return a share of the carbon, or of the energy where no carbon is stated."""
        if summary.footprint is None:
            return wording.energy(summary.energy.energy_j * part) if summary.energy.is_known else "unknown"
        return wording.carbon(summary.footprint.counted_kg.value * part)

    if progress.tokens:
        figure = share(TOKENS / progress.tokens)
        more = f"{progress.tokens:,} tokens, {progress.tokens_source}"
        found.append(Tile(what="A million tokens", much=figure, more=more, explained="progress.tokens"))
    if progress.steps:
        measured = summary.steps.measured_step_time_s.value if summary.steps else None
        more = (
            "" if measured is None else f"{unit_of_time(measured).number(measured)} {unit_of_time(measured).name} each"
        )
        done = plural(progress.steps, "step")
        more = f"{done}, {more}" if more else done
        found.append(
            Tile(
                what="An optimizer step",
                much=share(1 / progress.steps),
                more=more,
                explained="progress.steps",
            )
        )
    return found


def _forecast_tile(summary: AuditSummary) -> Tile:
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None:
        return Tile(what="Result against forecast", much="no forecast", more="The run was started without one.")
    if footprint is None or forecast.footprint.counted_kg.value <= 0:
        return Tile(what="Result against forecast", much="not comparable", more="There is no carbon to compare.")
    counted, planned, actual = comparable_kg(forecast.footprint, footprint)
    where = "inside" if planned.low <= actual.value <= planned.high else "outside"
    of = "" if counted == "total_kg" else f", {phrases.CARBON_NAMES[counted]} only"
    unit = unit_of_carbon(planned.value)
    span = unit.span(planned.low, planned.high)
    return Tile(
        what="Result against forecast",
        much=wording.off_by(actual.value / planned.value),
        more=f"{where} the forecast of {unit.number(planned.value)} ({span}) {unit.name}{of}",
        explained=f"forecast.footprint.{counted}",
    )


def _work_tile(summary: AuditSummary) -> Tile:
    coverage, period = summary.coverage, summary.period
    machines = phrases.gpus_phrase(coverage) if coverage.gpus else "no GPU"
    attempts = f", {len(period.attempts)} attempts" if len(period.attempts) > 1 else ""
    ran = wording.duration(period.active_s) if period.active_s else "nothing recorded"
    within = f" in {wording.duration(period.wall_s)}" if period.gaps else ""
    return Tile(
        what="Machines",
        much=machines,
        more=f"{ran}{within} on {plural(coverage.nodes, 'node')}{attempts}",
        explained="coverage",
    )
