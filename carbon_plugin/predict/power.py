"""Predict the mean power of a device during a step, from what its parts are doing.

The terms of the step are shared out over four activities: tensor units, memory, links and stalls. Each activity draws a
share of the range between idle with an open context and the sustained limit. A cap bounds both that limit and the clock
(`capped_share`). The shares are assumptions with a range, and they rest on published measurements: H100 nodes in
training draw 76 % of their rating and at most 82 % (arXiv 2506.14551, 2412.08602), power swings between 15 % and 85 %
of the limit within a run (arXiv 2503.05804), and exposed communication reduces it little: from 128 to 2,048 H100 with
FSDP throughput falls by 37 % and power by 6 % (arXiv 2411.13055). `carbon-plugin validate --power` predicts all of
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from carbon_plugin.predict.arrays import Values, minimum, sum_of
from carbon_plugin.predict.result import Activity
from carbon_plugin.spec.hardware.cluster import CONTEXT_POWER_W, Accelerator, Cluster
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.range import Range

DRAWS = {
    "tensor": Range(1.00, 0.90, 1.00),
    "memory": Range(0.70, 0.55, 0.85),
    "link": Range(0.75, 0.55, 0.90),
    "stall": Range(0.17, 0.08, 0.30),
}
"""Shares of dynamic power that each activity draws. Tensor work runs at the limit, by the law that bounds its clock.
Kernels that are bound by memory leave the tensor units idle, and stream at 0.85 of its bandwidth. The shares are
assumptions; that of memory was chosen in sight of published levels of power. Collectives keep their SMs spinning and
keep links and memory busy. Stalls leave the device without kernels."""

ACTIVITIES: dict[str, dict[str, float]] = {
    "matmul": {"tensor": 1.0},
    "attention": {"tensor": 0.85, "memory": 0.15},
    "recompute": {"tensor": 0.85, "memory": 0.15},
    "head": {"tensor": 0.75, "memory": 0.25},
    "scan": {"tensor": 0.3, "memory": 0.7},
    "elementwise": {"memory": 1.0},
    "optimizer": {"memory": 1.0},
    "tp": {"link": 1.0},
    "cp": {"link": 1.0},
    "ep": {"link": 1.0},
    "dp": {"link": 1.0},
    "dp_shard": {"link": 1.0},
    "pp_transfer": {"link": 0.25, "stall": 0.75},
    "pp_bubble": {"stall": 1.0},
    "host": {"stall": 1.0},
    "offload": {"stall": 1.0},
    "jitter": {"stall": 1.0},
}
"""Activities of the device during each term of the step, as shares. `framework` is not among the terms, because it
stretches all of them alike."""
SUSTAINED_SHARE = 0.95
"""Ratio of the draw of back-to-back matrix products to the power limit, where no measurement is known."""
TRAINING_SHARE = 0.7
"""Ratio of the mean draw in training to the limit, for a job of which nothing is known. Nodes in training draw 76 % of
their rating (arXiv 2412.08602); jobs that wait for data or for each other draw less (our convention)."""
UNREAD_IDLE_RELATIVE = 0.5
"""Half of the relative range of the power of a device without a driver, whose power management may be off (our
convention)."""
VOLTAGE_SLOPE, LEAST_VOLTAGE_SQUARED = 2.3, 0.65
"""The square of the voltage, divided by that at full clock, falls with the clock at this slope, down to the least value
that the chip runs at."""
IDLE_RELATIVE = 0.12
"""Half of the relative range of idle power between boards of one kind."""


def unread_power_figure(accelerator: Accelerator, *, usable: bool) -> Figure:
    """Return the mean power, W, of a device that cannot be read.

    It is that of a training of which nothing else is known, or the idle power where no process can compute on the
    device (not `usable`).
    """
    if not usable:
        idle = accelerator.idle_power_w.value
        source = f"idle power of {accelerator.name}, on which nothing can compute"
        return Figure(
            idle, (1 - UNREAD_IDLE_RELATIVE) * idle, (1 + UNREAD_IDLE_RELATIVE) * idle, "W", "modelled", source
        )
    limit, idle = accelerator.tdp_w.value, accelerator.idle_with_context_w
    central = max(idle, TRAINING_SHARE * limit)
    source = f"{percent(TRAINING_SHARE, 0)} of the limit of {accelerator.name}, from idle up to all of it"
    return Figure(central, min(idle, central), max(limit, central), "W", "modelled", source)


def idle_power_figure(cluster: Cluster) -> Figure:
    """Return the power, W, of a device that is reserved and does nothing, with the range between boards."""
    idle = cluster.accelerator.idle_with_context_w
    spread = idle * IDLE_RELATIVE
    return Figure(idle, idle - spread, idle + spread, "W", "modelled", "idle with an open context")


def power_assumptions(cluster: Cluster) -> list[Assumption]:
    """Return the numbers of the device's power that nobody measured."""
    device, found = cluster.accelerator, []
    if device.efficiency.sustained_power_w is None:
        said = f"{percent(SUSTAINED_SHARE, 0)} of the limit under back-to-back matrix products; none is measured"
        found.append(Assumption(f"{device.name}.sustained_power_w", f"{sustained_w(cluster):.4g}", said))
    if device.idle_context_power_w is None and device.kind == "gpu":
        said = f"idle power and at most {CONTEXT_POWER_W:g} W for an open context (arXiv 2605.23918); none is measured"
        found.append(Assumption(f"{device.name}.idle_context_power_w", f"{device.idle_with_context_w:.4g}", said))
    return found


def sustained_w(cluster: Cluster) -> float:
    """Return the power of back-to-back matrix products in W, which never exceeds a cap.

    It is the measured value where one is known, else a share of the limit.
    """
    known = cluster.accelerator.efficiency.sustained_power_w
    limit = cluster.power_limit_w
    return min(known.value, limit) if known is not None else SUSTAINED_SHARE * limit


def capped_share(cluster: Cluster) -> float:
    """Return the rate of matrix products under the cluster's power cap, divided by the rate without one."""
    idle = cluster.accelerator.idle_with_context_w
    free = sustained_w(msgspec.structs.replace(cluster, power_cap_w=None))
    return clock_share((cluster.power_limit_w - idle) / (free - idle)) if free > idle else 1.0


def clock_share(dynamic_share: float) -> float:
    """Return the clock, relative to the full one, at a share of the full dynamic power.

    Dynamic power is proportional to the clock times the square of the voltage. The voltage falls with the clock until
    it cannot fall further; below that point the clock is proportional to the power. The law is fitted by eye to 12
    sweeps of power limits on V100, A40, RTX 6000 and P100 (Zeus, NSDI 2023), which `validate --power` shows.
    """
    if dynamic_share >= 1:
        return 1.0
    slope, least = VOLTAGE_SLOPE, LEAST_VOLTAGE_SQUARED
    falling = (slope - 1 + math.sqrt((slope - 1) ** 2 + 4 * slope * dynamic_share)) / (2 * slope)
    return falling if falling >= 1 - (1 - least) / slope else dynamic_share / least


def step_activity(terms: Mapping[str, Values]) -> dict[str, Values]:
    """Return the share of the step's time that each activity takes. The shares add up to 1. `terms` are in seconds."""
    busy = {name: time for name, time in terms.items() if name in ACTIVITIES}
    total = sum_of(busy.values())
    return {
        activity: sum_of(ACTIVITIES[name].get(activity, 0.0) * time for name, time in busy.items()) / total
        for activity in DRAWS
    }


def step_power_w(terms: Mapping[str, Values], cluster: Cluster) -> Values:
    """Return the mean power of one device, in W, over a step with these terms (seconds)."""
    return _power_w(step_activity(terms), cluster, {name: draw.value for name, draw in DRAWS.items()})


def step_power(terms: Mapping[str, Values], cluster: Cluster) -> tuple[Figure, Activity]:
    """Return the mean power of one device over a step with its range from p10 to p90, and the device's activity."""
    shares = step_activity(terms)
    low, central, high = (
        float(_power_w(shares, cluster, draws))
        for draws in (
            {name: draw.low for name, draw in DRAWS.items()},
            {name: draw.value for name, draw in DRAWS.items()},
            {name: draw.high for name, draw in DRAWS.items()},
        )
    )
    idle = cluster.accelerator.idle_with_context_w * IDLE_RELATIVE
    figure = Figure(
        central,
        max(low - idle, 0.0),
        min(high + idle, cluster.power_limit_w),
        "W",
        "modelled",
        "activity of the step: tensor, memory, link, stall",
    )
    return figure, Activity(**{name: float(share) for name, share in shares.items()})


def _power_w(shares: dict[str, Values], cluster: Cluster, draws: dict[str, float]) -> Values:
    idle, full = cluster.accelerator.idle_with_context_w, sustained_w(cluster)
    dynamic = max(full - idle, 0.0)
    drawn = idle + dynamic * sum_of(draws[name] * share for name, share in shares.items())
    return minimum(drawn, cluster.power_limit_w)
