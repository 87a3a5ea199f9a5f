"""Charts of a scaling range as SVG files: carbon against loss, and the embodied share against the model's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carbon_plugin.plan.scaling.cheapest import ScalePoint
from carbon_plugin.plan.scaling.laws import ScalingLaw
from carbon_plugin.show.drawing import LINE_COLOURS, canvas_of, legend
from carbon_plugin.spec.amounts import count

HEIGHT_IN = 4.6
NAMESPACES = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def carbon_chart(points: Sequence[ScalePoint], law: ScalingLaw) -> str:
    """Carbon in the first zone against reducible loss, a line an accelerator; dashed without any loss of efficiency.

    Hollow marks lie beyond measured scales, crosses miss the deadline.
    """
    zone = points[0].zone
    groups = _grouped([point for point in points if point.zone == zone], "accelerator")
    with canvas_of("carbon against loss", HEIGHT_IN) as (axes, finish):
        for colour, (name, group) in zip(LINE_COLOURS, groups.items(), strict=False):
            reducible = [point.loss - law.offset for point in group]
            axes.fill_between(
                reducible,
                [point.total_kg.low / 1e3 for point in group],
                [point.total_kg.high / 1e3 for point in group],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
            axes.plot(reducible, [point.ideal_kg / 1e3 for point in group], color=colour, linestyle="--", linewidth=1)
            axes.plot(reducible, [point.total_kg.value / 1e3 for point in group], color=colour, label=name)
            for x, point in zip(reducible, group, strict=True):
                _mark(axes, x, point.total_kg.value / 1e3, point, colour)
        axes.set(xscale="log", yscale="log", ylabel=f"tCO2e in {zone}")
        axes.set_xlabel(f"loss, nats a token; the axis is logarithmic in what is above {law.offset:g}")
        losses = {round(point.loss, 2): point.loss - law.offset for group in groups.values() for point in group}
        axes.set_xticks(list(losses.values()), [f"{loss:.2f}" for loss in losses])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda tonnes, _: count(tonnes))
        axes.invert_xaxis()
        legend(axes)
        return _standalone(finish())


def share_chart(points: Sequence[ScalePoint]) -> str:
    """Embodied share of all carbon against parameters, a line a zone, on the accelerator with most points in time."""
    counts = {name: sum(p.meets_deadline for p in group) for name, group in _grouped(points, "accelerator").items()}
    accelerator = max(counts, key=lambda name: counts[name])
    groups = _grouped([point for point in points if point.accelerator == accelerator], "zone")
    with canvas_of("embodied share", HEIGHT_IN) as (axes, finish):
        for colour, (name, group) in zip(LINE_COLOURS, groups.items(), strict=False):
            shares = [100 * point.embodied_share for point in group]
            axes.plot([point.parameters for point in group], shares, color=colour, label=name)
            for share, point in zip(shares, group, strict=True):
                _mark(axes, point.parameters, share, point, colour)
        axes.set(xscale="log", xlabel=f"parameters, trained on {accelerator}", ylabel="embodied share of all carbon, %")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(lambda parameters, _: count(parameters))
        legend(axes)
        return _standalone(finish())


def _mark(axes: Any, x: float, y: float, point: ScalePoint, colour: str) -> None:
    face = "white" if point.extrapolated else colour
    marker = "o" if point.meets_deadline else "X"
    axes.plot([x], [y], marker=marker, markersize=5, color=colour, markerfacecolor=face, linestyle="none")


def _grouped(points: Sequence[ScalePoint], field: str) -> dict[str, list[ScalePoint]]:
    groups: dict[str, list[ScalePoint]] = {}
    for point in points:
        groups.setdefault(getattr(point, field), []).append(point)
    return groups


def _standalone(markup: str) -> str:
    """A drawing for a page as a file of its own, on white."""
    return markup.replace("<svg", f'{NAMESPACES} style="background: white"', 1) + "\n"
