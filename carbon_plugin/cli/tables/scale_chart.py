"""Draw a scaling range as SVG: carbon against loss, and the embodied share against the size of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from carbon_plugin.plan.scaling.cheapest import ScalePoint
from carbon_plugin.plan.scaling.laws import ScalingLaw
from carbon_plugin.show import plot
from carbon_plugin.show.drawing import LINE_COLOURS
from carbon_plugin.spec.numbers.amounts import count

WIDTH_PX, HEIGHT_PX = 820.0, 440.0


def carbon_chart(points: Sequence[ScalePoint], law: ScalingLaw) -> str:
    """Draw carbon in the first zone against reducible loss, with a line for each accelerator.

    The dashed line is the carbon without any loss of efficiency. A hollow mark lies beyond the scales that were
    measured, and a cross misses the deadline.
    """
    zone = points[0].zone
    groups = _grouped([point for point in points if point.zone == zone], "accelerator")
    shown = [point for group in groups.values() for point in group]
    # The loss falls to the right, so that the axis runs over its inverse.
    inverse = {id(point): 1 / max(point.loss - law.offset, 1e-12) for point in shown}
    tonnes = [kg / 1e3 for point in shown for kg in (point.total_kg.low, point.total_kg.high, point.ideal_kg) if kg > 0]
    of = plot.frame(
        WIDTH_PX, HEIGHT_PX, _with_room(list(inverse.values())), _with_room(tonnes), left_px=78, log=True
    )  # fmt: skip
    parts = [plot.y_axis(of, _powers(of.y), f"tCO2e in {zone}")]
    losses = {round(point.loss, 2): inverse[id(point)] for point in shown}
    label = f"loss, nats a token; the axis is logarithmic in what is above {law.offset:g}"
    parts.append(plot.x_axis(of, [(at, f"{loss:.2f}") for loss, at in losses.items()], label))
    entries = []
    for colour, (name, group) in zip(LINE_COLOURS, groups.items(), strict=False):
        xs = [inverse[id(point)] for point in group]
        low, central, high = (
            [getattr(point.total_kg, edge) / 1e3 for point in group] for edge in ("low", "value", "high")
        )
        parts.append(plot.area(of, xs, low, high, colour, opacity=0.15))
        parts.append(plot.line(of, xs, [point.ideal_kg / 1e3 for point in group], colour, dashed=True, width_px=1))
        parts.append(plot.line(of, xs, central, colour))
        parts += [_mark(of, x, y, point, colour) for x, y, point in zip(xs, central, group, strict=True)]
        entries.append((colour, name))
    return plot.standalone(plot.drawing(WIDTH_PX, HEIGHT_PX, parts, top=plot.legend(entries, WIDTH_PX)))


def share_chart(points: Sequence[ScalePoint]) -> str:
    """Draw the embodied share of all carbon against parameters, with a line for each zone, on the accelerator with the
    most points that meet the deadline.
    """
    counts = {name: sum(p.meets_deadline for p in group) for name, group in _grouped(points, "accelerator").items()}
    accelerator = max(counts, key=lambda name: counts[name])
    groups = _grouped([point for point in points if point.accelerator == accelerator], "zone")
    shown = [point for group in groups.values() for point in group]
    highest = 1.08 * max(100 * point.embodied_share for point in shown)
    x, y = _with_room([float(point.parameters) for point in shown]), (0.0, highest)
    of = plot.Frame(
        WIDTH_PX, HEIGHT_PX, plot.Scale(*x, 56, WIDTH_PX - 20, True), plot.Scale(*y, HEIGHT_PX - 42, 10)
    )  # fmt: skip
    parts = [
        plot.y_axis(of, plot.labelled(plot.ticks(0, highest)), "embodied share of all carbon, %"),
        plot.x_axis(of, _powers(of.x), f"parameters, trained on {accelerator}"),
    ]
    entries = []
    for colour, (name, group) in zip(LINE_COLOURS, groups.items(), strict=False):
        xs, shares = [float(point.parameters) for point in group], [100 * point.embodied_share for point in group]
        parts.append(plot.line(of, xs, shares, colour))
        parts += [_mark(of, x, y, point, colour) for x, y, point in zip(xs, shares, group, strict=True)]
        entries.append((colour, name))
    return plot.standalone(plot.drawing(WIDTH_PX, HEIGHT_PX, parts, top=plot.legend(entries, WIDTH_PX)))


def _mark(of: plot.Frame, x: float, y: float, point: ScalePoint, colour: str) -> str:
    return plot.dot(of.x.at(x), of.y.at(y), colour, hollow=bool(point.extrapolated), crossed=not point.meets_deadline)


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that leaves a little room around the values."""
    return min(values) / 1.15, max(values) * 1.15


def _powers(scale: plot.Scale) -> list[plot.Tick]:
    """Return 1, 2 and 5 times each power of ten on a logarithmic axis, or only the powers on a long one."""
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    factors = (1, 2, 5) if last - first < 4 else (1,)
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [(value, count(value)) for value in values if scale.low <= value <= scale.high]


def _grouped(points: Sequence[ScalePoint], field: str) -> dict[str, list[ScalePoint]]:
    groups: dict[str, list[ScalePoint]] = {}
    for point in points:
        groups.setdefault(getattr(point, field), []).append(point)
    return groups
