"""What filling the memory of a device costs: how likely a layout fits, and how much slower it is expected to run.

The one rule by which layouts near the limit are ranked, in `layout: auto`, in `plan --search` and in comparisons.

Evidence. Memory: predicted against measured peaks of 63 rows, mean error 3.0 % and 3.7 % by source, predicted too low
by 1.2 % and 2.1 % (docs/validation.md). Speed: above 90 % of device memory published runs are 12 to 23 % slower than
their siblings (llm-foundry, 30B on 8 x 80 GB, 13B on 8 x 40 GB, 70B on 64 x 40 GB: allocator retries), and no row shows
a smooth law, so the loss is taken to grow in proportion from 90 % on to 25 % at the limit. What does not fit after all
has to run with full recompute, which is one forward pass more: a third of the step.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from carbon_plugin.plan.pareto import Floats

NEARLY_FULL = 0.9
"""Share of device memory above which published runs are slower than predicted."""
SLOWDOWN_AT_LIMIT = 0.25
SLOWDOWN_BEYOND = 1 / 3
MEMORY_BIAS = 0.017
"""Mean of ln(measured peak / predicted)."""
MEMORY_SIGMA = 0.045
"""Standard deviation of it: 1.25 times the mean absolute error of a normal distribution."""
_LOWEST, _HIGHEST, _POINTS = 0.6, 1.2, 241


def fit_probability(fill: float) -> float:
    """Probability that a layout fits whose predicted need is this share of the memory."""
    if fill <= 0:
        return 1.0
    return 0.5 * math.erfc((math.log(fill) + MEMORY_BIAS) / (MEMORY_SIGMA * math.sqrt(2)))


def expected_slowdown(fill: Any) -> Floats:
    """Expected time over predicted time of layouts whose predicted need is this share of the memory, an array."""
    fills, factors = _table()
    return np.asarray(np.interp(fill, fills, factors))


@cache
def _table() -> tuple[Floats, Floats]:
    """Fills and their factors: the loss at the true fill, averaged over how far it may lie from the predicted one."""
    fills = np.linspace(_LOWEST, _HIGHEST, _POINTS)
    errors = np.linspace(-4, 4, 161)
    weights = np.exp(-(errors**2) / 2)
    true = fills[:, None] * np.exp(MEMORY_BIAS + MEMORY_SIGMA * errors)[None]
    near = SLOWDOWN_AT_LIMIT * np.clip((true - NEARLY_FULL) / (1 - NEARLY_FULL), 0, 1)
    loss = np.where(true > 1, SLOWDOWN_BEYOND, near)
    return fills, 1 + (loss * weights).sum(axis=1) / weights.sum()
