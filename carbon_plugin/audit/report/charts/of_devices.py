"""Draw the mean power of the GPUs of a run side by side: bars for a few, a histogram for many, and a table of
outliers."""

from __future__ import annotations

import math
from statistics import median

from carbon_plugin.audit.report.charts.chart import Chart, chart
from carbon_plugin.audit.report.tables.table import Cell, Table, table, unit_of_energy
from carbon_plugin.audit.result import AuditSummary, Device
from carbon_plugin.show import plot, wording
from carbon_plugin.spec.numbers.amounts import plural

BARS = 32
"""At most this many GPUs get a bar of their own."""
BINS = 30
LEAST = 4
"""Among fewer GPUs than this, none is called an outlier."""
SPREADS, LEAST_SHARE = 5.0, 0.05
"""An outlier is further from the median than this many median deviations, and than this share of the median."""
NAMED = 12
NODES = 32
"""At most this many nodes are listed, those that differ most."""


def device_chart(summary: AuditSummary) -> Chart | None:
    """Draw the mean power of each GPU."""
    devices = _with_power(summary)
    if not devices:
        return None
    return _bars(devices) if len(devices) <= BARS else _histogram(devices)


def outlier_table(summary: AuditSummary) -> Table | None:
    """Return the GPUs whose mean power differs much from that of the others, the furthest first, or None where there is
    none.
    """
    devices = _with_power(summary)
    if len(devices) < LEAST:
        return None
    middle_w = median(power_w for _, power_w in devices)
    spread_w = median(abs(power_w - middle_w) for _, power_w in devices)
    limit_w = max(SPREADS * spread_w, LEAST_SHARE * middle_w)
    far = sorted((one for one in devices if abs(one[1] - middle_w) > limit_w), key=lambda one: -abs(one[1] - middle_w))
    if not far or middle_w <= 0:
        return None
    rows = [
        [
            Cell(device.identity.name, device.identity.key),
            Cell(device.hostname),
            Cell(wording.number(power_w)),
            Cell(wording.off_by(power_w / middle_w) if power_w > 0 else "no power"),
        ]
        for device, power_w in far[:NAMED]
    ]
    more = f"; {plural(len(far) - NAMED, 'more')} in report.json" if len(far) > NAMED else ""
    note = f"The median of {len(devices):,} GPUs is {wording.power(middle_w)}{more}."
    return table(["GPU", "host", "mean power, W", "against the median"], rows, (2, 3), note=note)


def node_table(summary: AuditSummary) -> Table | None:
    """Return the energy of each node with its difference from the median, the largest difference first, or None for one
    node.
    """
    nodes: dict[str, list[Device]] = {}
    for device in summary.devices:
        if device.identity.rung != "facility":
            nodes.setdefault(device.hostname, []).append(device)
    if len(nodes) < 2:
        return None
    joules = {host: math.fsum(one.energy.energy_j for one in devices) for host, devices in nodes.items()}
    middle_j = median(joules.values())
    ranked = sorted(joules, key=lambda host: (-abs(joules[host] - middle_j), host))
    unit = unit_of_energy(max(joules.values()))
    rows = [
        [
            host,
            f"{sum(one.identity.rung == 'gpu' for one in nodes[host]):,}",
            unit.number(joules[host]),
            wording.off_by(joules[host] / middle_j) if middle_j > 0 and joules[host] > 0 else "–",
        ]
        for host in ranked[:NODES]
    ]
    more = f"; {plural(len(ranked) - NODES, 'more')} in report.json" if len(ranked) > NODES else ""
    note = f"The median of {len(ranked):,} nodes is {wording.energy(middle_j)}{more}."
    return table(["node", "GPUs", f"energy, {unit.name}", "against the median"], rows, (1, 2, 3), note=note)


def _with_power(summary: AuditSummary) -> list[tuple[Device, float]]:
    return [
        (device, device.mean_power_w)
        for device in summary.devices
        if device.identity.rung == "gpu" and device.mean_power_w is not None
    ]


def _bars(devices: list[tuple[Device, float]]) -> Chart:
    peak_w = max(power_w for _, power_w in devices) or 1.0
    names = [f"{plot.shortened(device.hostname, 18)}, {device.identity.key[-9:]}" for device, _ in devices]

    def draw(width_px: float) -> str:
        row_px, left_px = 22.0, max(map(plot.width_of, names)) + 16
        height_px = row_px * len(devices) + 50
        of = plot.frame(width_px, height_px, (0, 1.02 * peak_w), (0, 1), left_px=left_px, right_px=52, top_px=6)
        marks = plot.labelled(plot.ticks(0, peak_w, 4 if width_px < 500 else 8))
        parts = [plot.x_axis(of, marks, "mean power, W", grid=True)]
        for place, ((_, power_w), name) in enumerate(zip(devices, names, strict=True)):
            top, end = 8 + row_px * place, of.x.at(power_w)
            text = wording.number(power_w)
            parts.append(plot.box(left_px, top, end - left_px, 15, "gpu", f"{name}: {text} W"))
            parts.append(plot.words(left_px - 8, top + 12, name, anchor="end"))
            parts.append(plot.words(end + 6, top + 12, text, colour="dim"))
        return plot.drawing(width_px, height_px, parts)

    rows = [[name, wording.number(power_w, 4)] for name, (_, power_w) in zip(names, devices, strict=True)]
    caption = "Mean power of each GPU while it was read."
    return chart("devices", "Every GPU", caption, draw, ["GPU", "mean power, W"], rows)


def _histogram(devices: list[tuple[Device, float]]) -> Chart:
    powers_w = [power_w for _, power_w in devices]
    low, high = min(powers_w), max(powers_w)
    width_w = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for power_w in powers_w:
        counts[min(BINS - 1, int((power_w - low) / width_w))] += 1
    edges = [low + width_w * place for place in range(BINS + 1)]

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, 240, (edges[0], edges[-1]), (0, 1.06 * max(counts)))
        parts = [
            plot.y_axis(of, plot.labelled(plot.ticks(0, max(counts))), "GPUs"),
            plot.x_axis(
                of, plot.labelled(plot.ticks(edges[0], edges[-1], 4 if width_px < 500 else 8)), "mean power, W"
            ),
        ]
        for place, count in enumerate(counts):
            if count:
                left, right, top = of.x.at(edges[place]), of.x.at(edges[place + 1]), of.y.at(count)
                tip = f"{wording.number(edges[place])} to {wording.number(edges[place + 1])} W: {plural(count, 'GPU')}"
                parts.append(plot.box(left + 0.5, top, right - left - 1, of.y.start_px - top, "gpu", tip))
        return plot.drawing(width_px, 240, parts)

    rows = [
        [wording.number(edges[place]), wording.number(edges[place + 1]), f"{count:,}"]
        for place, count in enumerate(counts)
        if count
    ]
    caption = f"How many of the {len(devices):,} GPUs drew which mean power while they were read."
    return chart("devices", "All GPUs", caption, draw, ["from, W", "to, W", "GPUs"], rows)
