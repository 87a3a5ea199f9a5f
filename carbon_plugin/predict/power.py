"""Mean power of a device during a step, from what it is doing: the simple form.

The step's terms are grouped into matrix work, memory-bound work, communication and stall; each draws a share of
the range between idle with an open context and the sustained limit. Shares are assumptions from published node
measurements (H100 training nodes draw 76-82 % of rating, arXiv 2412.08602), with a range that says so.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.case import Values
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.hardware import Accelerator

ACTIVITY = {
    "matmul": 1.0,
    "attention": 0.95,
    "recompute": 0.95,
    "head": 0.9,
    "elementwise": 0.65,
    "optimizer": 0.6,
    "tp": 0.5,
    "cp": 0.5,
    "ep": 0.5,
    "dp": 0.4,
    "dp_shard": 0.5,
    "pp_transfer": 0.25,
    "pp_bubble": 0.15,
    "host": 0.2,
    "jitter": 0.15,
    "framework": 0.5,
}
"""Share of dynamic power (sustained minus idle with context) that each term of the step draws."""
SUSTAINED_SHARE = 0.95
"""Draw of back-to-back matrix products over the power limit, where no measurement is known."""
CONTEXT_POWER_W = 40.0
"""What an open context adds to idle where only the empty-board figure is known (26-66 W, arXiv 2605.23918)."""
RELATIVE_SIGMA = 0.10


def idle_with_context_w(accelerator: Accelerator) -> float:
    """Power with a context open and nothing running, W."""
    if accelerator.idle_context_power_w is not None:
        return accelerator.idle_context_power_w.value
    idle = accelerator.idle_power_w.value
    return min(idle + CONTEXT_POWER_W, 0.5 * accelerator.tdp_w.value) if accelerator.kind == "gpu" else idle


def sustained_w(accelerator: Accelerator) -> float:
    """Power of back-to-back matrix products, W."""
    known = accelerator.efficiency.sustained_power_w
    return known.value if known is not None else SUSTAINED_SHARE * accelerator.tdp_w.value


def step_power_w(terms: dict[str, Values], total: Values, accelerator: Accelerator) -> Values:
    """Mean W of one device over a step whose terms (seconds) add up to `total`."""
    idle, full = idle_with_context_w(accelerator), sustained_w(accelerator)
    activity = sum(ACTIVITY[name] * time for name, time in terms.items()) / total
    return np.asarray(np.clip(idle + (full - idle) * activity, idle, accelerator.tdp_w.value))


def power_figure(power_w: float, accelerator: Accelerator) -> Figure:
    """Power with its range, capped by the device's limit."""
    spread = float(np.exp(1.2816 * RELATIVE_SIGMA))
    cap = accelerator.tdp_w.value
    return Figure(
        power_w, power_w / spread, max(power_w, min(power_w * spread, cap)), "W", "modelled", "activity of the step"
    )
