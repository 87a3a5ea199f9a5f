"""Estimate how much slower a layout that fills the memory of a device runs than its equations say.

Layouts near the limit are ranked by this one rule in `layout: auto`, in `plan --search` and in comparisons. How likely
a layout fits follows from the residuals of measured peaks (`predict.uncertainty.fit`).

Evidence on speed: above 90 % of device memory published runs are 12 to 23 % slower than their siblings (llm-foundry,
30B on 8 x 80 GB, 13B on 8 x 40 GB, 70B on 64 x 40 GB: allocator retries), and no row shows a smooth law, so the loss is
taken to grow in proportion from 90 % on to 25 % at the limit. A layout that does not fit after all has to run with full
recompute, which is one forward pass more: a third of the step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.predict.uncertainty.fit import error_density, spread
from carbon_plugin.spec.stack import Population

NEARLY_FULL = 0.9
"""The share of device memory above which published runs are slower than predicted."""
SLOWDOWN_AT_LIMIT = 0.25
SLOWDOWN_BEYOND = 1 / 3
_LOWEST, _HIGHEST, _POINTS = 0.3, 2.0, 681


def expected_slowdown(fill: Any, population: Population) -> Floats:
    """Return expected over predicted time of layouts, as an array.

    `fill` is the share of the memory that they are predicted to need.
    """
    fills, factors = _table(population)
    return np.asarray(np.interp(fill, fills, factors))


@cache
def _table(population: Population) -> tuple[Floats, Floats]:
    """Return fills and their factors: the loss at the true fill, averaged over how far it may be from the predicted
    one.
    """
    fills = np.linspace(_LOWEST, _HIGHEST, _POINTS)
    errors, weights = error_density(population)
    true = fills[:, None] * np.exp(spread(population) * errors)[None]
    near = SLOWDOWN_AT_LIMIT * np.clip((true - NEARLY_FULL) / (1 - NEARLY_FULL), 0, 1)
    loss = np.where(true > 1, SLOWDOWN_BEYOND, near)
    return fills, 1 + (loss * weights).sum(axis=1)
