"""The charts of an audit: what the summary's series and parts look like. No numbers are made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from carbon_plugin.audit.result import AuditSummary, Series
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import (
    BAND,
    INK,
    LESS,
    LINE_COLOURS,
    MORE,
    OWN_PHASE_COLOUR,
    PHASE_COLOURS,
    PHASE_NAMES,
    RUNG_COLOURS,
    RUNG_NAMES,
    SCOPE_NAMES,
    above,
    canvas_of,
    legend,
    shortened,
)

CARBON_UNITS = ((1e6, "ktCO2e"), (1e3, "tCO2e"), (1.0, "kgCO2e"), (1e-3, "gCO2e"), (1e-6, "mgCO2e"))


def charts_of(summary: AuditSummary) -> dict[str, str]:
    """Every chart that the summary has data for, by name, as SVG markup without external references."""
    makers: dict[str, Callable[[AuditSummary], str | None]] = {
        "power": power_chart,
        "gpus": gpu_chart,
        "steps": step_chart,
        "cumulative": cumulative_chart,
        "phases": phase_chart,
        "forecast": forecast_chart,
        "drivers": driver_chart,
    }
    made = {name: maker(summary) for name, maker in makers.items()}
    return {name: svg for name, svg in made.items() if svg is not None}


def power_chart(summary: AuditSummary) -> str | None:
    """Mean power in each bin: rungs stacked, and a line a GPU where there are few."""
    series = summary.series
    rungs = {rung: energy for rung, energy in series.rung_energy_j.items() if any(energy) and rung != "facility"}
    if not rungs:
        return None
    widths = _bin_widths_s(summary)
    watts = {rung: [_ratio(j, s) for j, s in zip(energy, widths, strict=True)] for rung, energy in rungs.items()}
    scale, unit = wording.unit_for(
        max(map(sum, zip(*watts.values(), strict=True))), ((1e6, "MW"), (1e3, "kW"), (1, "W"))
    )
    hours, label = _time_axis(_edges_s(series), summary)
    with canvas_of("power") as (axes, finish):
        bottom = [0.0] * len(widths)
        for rung, values in watts.items():
            top = [below + value / scale for below, value in zip(bottom, values, strict=True)]
            axes.fill_between(
                hours,
                _steps(bottom),
                _steps(top),
                step="post",
                color=RUNG_COLOURS[rung],
                alpha=0.85,
                linewidth=0,
                label=RUNG_NAMES[rung],
            )
            bottom = top
        axes.set_ylabel(f"mean power, {unit}")
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(hours[0], hours[-1])
        legend(axes)
        return finish()


def step_chart(summary: AuditSummary) -> str | None:
    """Step time measured and predicted, with the predicted range as a band."""
    steps, comparison = summary.series.steps, summary.steps
    if not steps.at_s or comparison is None:
        return None
    moments, label = _time_axis(steps.at_s, summary)
    longest = max(steps.measured_s + [value for value in steps.predicted_s if value is not None])
    scale, unit = wording.unit_for(longest, ((1.0, "s"), (1e-3, "ms")))
    with canvas_of("steps") as (axes, finish):
        predicted = [(at, value) for at, value in zip(moments, steps.predicted_s, strict=True) if value is not None]
        if predicted and comparison.predicted_step_time_s is not None:
            figure = comparison.predicted_step_time_s
            at = [point[0] for point in predicted]
            values = [point[1] / scale for point in predicted]
            if len(at) == 1:  # one point has no width: draw it over the whole run
                at, values = list(_time_axis([0.0, summary.period.wall_s], summary)[0]), values * 2
            low = [value * figure.low / figure.value for value in values]
            high = [value * figure.high / figure.value for value in values]
            axes.fill_between(at, low, high, color=BAND, alpha=0.25, linewidth=0, label="predicted, p10 to p90")
            axes.plot(at, values, color=RUNG_COLOURS["gpu"], linewidth=1.4, linestyle=(0, (5, 2)), label="predicted")
        at, values = _interrupted(moments, [value / scale for value in steps.measured_s])
        marker = "o" if len(moments) < 60 else None
        axes.plot(at, values, color=MORE, linewidth=1.4, marker=marker, markersize=3, label="measured")
        axes.set_ylabel(f"step time, {unit}")
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.15)
        axes.set_xlim(left=0)
        legend(axes)
        return finish()


def gpu_chart(summary: AuditSummary) -> str | None:
    """Mean power of single GPUs in each bin, where there are a few."""
    series = {key: bins for key, bins in summary.series.gpu_power_w.items() if any(bins)}
    if len(series) < 2:
        return None
    names = {device.identity.key: device.hostname for device in summary.devices}
    edges, label = _time_axis(_edges_s(summary.series), summary)
    with canvas_of("gpus") as (axes, finish):
        for number, (key, bins) in enumerate(series.items()):
            watts = [math.nan if power_w is None else power_w for power_w in bins]
            axes.plot(
                edges,
                _steps(watts),
                drawstyle="steps-post",
                color=LINE_COLOURS[number % len(LINE_COLOURS)],
                linestyle="-" if number < len(LINE_COLOURS) else (0, (4, 2)),
                linewidth=1.2,
                label=f"{shortened(names[key], 16)}, {key[-9:]}",
            )
        axes.set_ylabel("mean power, W")
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(edges[0], edges[-1])
        if len(series) <= 8:
            legend(axes)
        return finish()


def cumulative_chart(summary: AuditSummary) -> str | None:
    """Energy by rung, stacked, and operational carbon since the start."""
    series = summary.series
    rungs = {rung: _running(bins) for rung, bins in series.rung_energy_j.items() if any(bins) and rung != "facility"}
    if not rungs:
        return None
    edges, label = _time_axis(_edges_s(series), summary)
    total_j = sum(running[-1] for running in rungs.values())
    scale, unit = wording.unit_for(total_j, ((3.6e9, "MWh"), (3.6e6, "kWh"), (3.6e3, "Wh"), (1.0, "J")))
    with canvas_of("cumulative") as (axes, finish):
        drawn = axes.stackplot(
            edges,
            [[value / scale for value in running] for running in rungs.values()],
            colors=[RUNG_COLOURS[rung] for rung in rungs],
            labels=[RUNG_NAMES[rung] for rung in rungs],
            alpha=0.85,
            linewidth=0,
        )
        axes.set_ylabel(f"energy, {unit}")
        axes.set_xlabel(label)
        axes.set_ylim(0, 1.05 * total_j / scale)
        axes.set_xlim(edges[0], edges[-1])
        handles = list(drawn)
        kilograms = _running(series.operational_kg)
        if kilograms[-1] > 0:
            scale, unit = wording.unit_for(kilograms[-1], CARBON_UNITS)
            right = axes.twinx()
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
            handles += right.plot(
                edges,
                [value / scale for value in kilograms],
                color=INK,
                linewidth=1.6,
                linestyle=(0, (5, 2)),
                label="operational carbon (right axis)",
            )
            right.set_ylabel(f"operational, {unit}")
            # Not the same height as the energy, or one would hide the other while the intensity does not change.
            right.set_ylim(0, 1.4 * kilograms[-1] / scale)
        legend(axes, handles)
        return finish()


def phase_chart(summary: AuditSummary) -> str | None:
    """Shares of energy by rung and by phase, and the part of it that was done twice."""
    total_j = summary.energy.energy_j
    if not total_j:
        return None
    by_rung = [
        (RUNG_NAMES[rung], energy.energy_j / total_j, RUNG_COLOURS[rung])
        for rung, energy in summary.by_rung.items()
        if rung != "facility"
    ]
    by_phase = [
        (PHASE_NAMES.get(phase, phase), energy.energy_j / total_j, PHASE_COLOURS.get(phase, OWN_PHASE_COLOUR))
        for phase, energy in summary.by_phase.items()
    ]
    wasted = (summary.waste.redone_energy_j + summary.waste.restart_energy_j) / total_j
    rows = [("by rung", by_rung), ("by phase", by_phase)]
    if wasted:
        rows.append(("progress", [("new work", 1 - wasted, "#009E73"), ("redone or restarting", wasted, MORE)]))
    with canvas_of("phases", height_in=0.8 + 0.6 * len(rows)) as (axes, finish):
        unnamed = []
        for position, (_, parts) in enumerate(rows):
            left = 0.0
            for name, share, colour in sorted(parts, key=lambda part: -part[1]):
                bar = axes.barh(
                    position, share, left=left, color=colour, height=0.52, edgecolor="white", linewidth=0.8, label=name
                )
                if share <= 0.13:
                    unnamed.append(bar)
                else:
                    light = colour in ("#E69F00", "#56B4E9", "#CC79A7", "#999999")
                    text = f"{name}  {wording.percent(share)}"
                    axes.text(
                        left + share / 2,
                        position,
                        text,
                        ha="center",
                        va="center",
                        fontsize=8.5,
                        color=INK if light else "white",
                    )
                left += share
        if unnamed:
            legend(axes, unnamed)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.tick_params(length=0)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return finish()


def forecast_chart(summary: AuditSummary) -> str | None:
    """From the forecast's total carbon to the actual one, a bar a cause."""
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None or footprint is None or not forecast.parts or forecast.embodied_kg is None:
        return None
    planned_kg, actual_kg = forecast.footprint.total_kg.value, footprint.total_kg.value
    scale, unit = wording.unit_for(max(planned_kg, actual_kg), CARBON_UNITS)
    changes = [(part.cause, part.carbon_kg) for part in forecast.parts] + [("embodied", forecast.embodied_kg)]
    with canvas_of("forecast", height_in=3.0) as (axes, finish):
        names, reached = ["forecast"], planned_kg
        axes.bar(0, planned_kg / scale, color=RUNG_COLOURS["gpu"], width=0.62)
        above(axes, 0, planned_kg / scale, wording.number(planned_kg / scale))
        for position, (name, change_kg) in enumerate(changes, 1):
            colour = MORE if change_kg > 0 else LESS
            axes.bar(position, change_kg / scale, bottom=reached / scale, color=colour, width=0.62)
            axes.plot([position - 1.31, position + 0.31], [reached / scale] * 2, color="#7b8794", linewidth=0.7)
            top = max(reached, reached + change_kg) / scale
            change = wording.signed(change_kg / scale, of=actual_kg / scale, digits=2)
            above(axes, position, top, change)
            reached += change_kg
            names.append(name)
        last = len(changes) + 1
        axes.bar(last, actual_kg / scale, color="#4a5560", width=0.62)
        above(axes, last, actual_kg / scale, wording.number(actual_kg / scale))
        axes.set_xticks(range(last + 1), [*names, "actual"])
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(f"total carbon, {unit}")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]), top=axes.get_ylim()[1] * 1.08)
        return finish()


def driver_chart(summary: AuditSummary) -> str | None:
    """Tornado: total carbon with one input at its p10 and p90, all else central."""
    footprint = summary.footprint
    largest = summary.drivers[:7]
    if footprint is None or not largest or footprint.total_kg.value <= 0:
        return None
    central_kg = footprint.total_kg.value
    scale, unit = wording.unit_for(central_kg, CARBON_UNITS)
    with canvas_of("drivers", height_in=0.75 + 0.3 * len(largest)) as (axes, finish):
        for position, driver in enumerate(largest):
            for edge_kg, colour in ((driver.at_p10_kg, BAND), (driver.at_p90_kg, RUNG_COLOURS["gpu"])):
                change = (edge_kg - central_kg) / scale
                axes.barh(position, change, left=central_kg / scale, color=colour, height=0.6)
        axes.axvline(central_kg / scale, color=INK, linewidth=0.9)
        axes.set_yticks(range(len(largest)), [shortened(_driver_name(driver.scope)) for driver in largest])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"total carbon, {unit}, with this input at its p10 (light) and p90 (dark)")
        return finish()


def _driver_name(scope: str) -> str:
    """A scope of the accounting in words."""
    kind, _, rest = scope.partition(" ")
    if kind == "energy":
        return f"energy, {rest.partition(':')[2] or rest}"
    if kind == "embodied":
        return f"embodied, {SCOPE_NAMES.get(rest, rest)}"
    return {"intensity": "grid intensity", "pue": "PUE", "utilisation": "use of the fleet"}.get(scope, scope)


def _edges_s(series: Series) -> list[float]:
    count = max((len(bins) for bins in series.rung_energy_j.values()), default=0)
    return [index * series.width_s for index in range(count + 1)]


def _bin_widths_s(summary: AuditSummary) -> list[float]:
    """Width of each bin; the last one ends with the run."""
    edges = _edges_s(summary.series)
    return [max(0.0, min(end, summary.period.wall_s) - start) for start, end in pairwise(edges)]


def _time_axis(seconds: Sequence[float], summary: AuditSummary) -> tuple[list[float], str]:
    """Moments since the start in a unit that fits the run, and the label of their axis."""
    units = (
        (2 * 86400.0, 86400.0, "days"),
        (2 * 3600.0, 3600.0, "hours"),
        (120.0, 60.0, "minutes"),
        (0.0, 1.0, "seconds"),
    )
    size, name = next((size, name) for least, size, name in units if summary.period.wall_s >= least)
    return [value / size for value in seconds], f"{name} since the start"


def _interrupted(moments: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line with a break where the distance between points is far beyond the usual one: nothing ran in between."""
    distances = [after - before for before, after in pairwise(moments)]
    if not distances:
        return list(moments), list(values)
    usual = sorted(distances)[len(distances) * 3 // 4]
    broken_at, broken = [moments[0]], [values[0]]
    for distance, moment, value in zip(distances, moments[1:], values[1:], strict=True):
        if distance > 4 * usual:
            broken_at.append(moment - distance / 2)
            broken.append(math.nan)
        broken_at.append(moment)
        broken.append(value)
    return broken_at, broken


def _running(values: Sequence[float]) -> list[float]:
    reached = [0.0]
    for value in values:
        reached.append(reached[-1] + value)
    return reached


def _steps(values: list[float]) -> list[float]:
    """One more point than bins, so that the last bin has its width."""
    return [*values, values[-1]] if values else []


def _ratio(amount: float, by: float) -> float:
    return amount / by if by > 0 else 0.0
